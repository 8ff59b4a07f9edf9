"""CSV with a line of names (RFC 4180), Okta's among them."""

import csv
import re
from collections.abc import Iterator

from keystile_auth.cli.user_files.row import BadRow, Row, RowError, check
from keystile_auth.cli.user_files.source import Source, UnreadableFileError

_MAX_FIELD_CHARACTERS = 1 << 17
# Names of columns, lower case and without anything but letters; the first one that a file has counts.
_COLUMNS = {
    "username": ("username", "userlogin", "login", "uid", "email", "useremail", "primaryemail"),
    "password_hash": ("passwordhash", "hash"),
    "password": ("password",),
    "disabled": ("disabled", "blocked"),
    "enabled": ("enabled", "active"),
    "status": ("status", "userstatus", "accountstatus"),
}
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
# Okta's words for the state of a user.
_ENABLED = {"active", "enabled", "provisioned", "passwordexpired", "lockedout", "recovery", "passwordreset"}
_DISABLED = {"disabled", "suspended", "deprovisioned", "deactivated", "inactive", "staged", "pendinguseraction"}


def detect(head: str) -> str:
    """`okta` or `csv`, by the names of the columns."""
    names = {_plain(name) for name in head.split("\n", 1)[0].split(",")}
    return "okta" if names & {"login", "userlogin"} and "username" not in names else "csv"


def read(source: Source) -> Iterator[Row | BadRow]:
    """The users of a file.

    Raises:
        UnreadableFileError: no column has user names.
    """
    lines = _Lines(source)
    csv.field_size_limit(_MAX_FIELD_CHARACTERS)
    reader = csv.reader(lines, strict=True)
    try:
        names = _next(reader, lines)
    except RowError as problem:
        raise UnreadableFileError(f"The first line of the CSV cannot be read: {problem}.") from None
    if names is None:
        return
    columns = _columns(names)
    while True:
        begins = lines.number + 1
        try:
            values = _next(reader, lines)
            if values is None:
                return
            if values:
                yield _row(begins, values, columns, len(names))
        except RowError as problem:
            yield BadRow(begins, str(problem))


def _next(reader: Iterator[list[str]], lines: "_Lines") -> list[str] | None:
    """The next row; empty for an empty line, None at the end."""
    lines.problem = None
    try:
        values = next(reader, None)
    except csv.Error:
        raise RowError("it is not CSV: a quote that does not end, or a field longer than 128 KiB") from None
    if lines.problem:
        raise RowError(lines.problem)
    return values


class _Lines:
    """The lines for the CSV reader; it asks for one more while a quoted field goes on."""

    def __init__(self, source: Source) -> None:
        self._lines = source.lines()
        self.number = 0
        self.problem: str | None = None

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number = line.number
        self.problem = line.problem or self.problem
        return line.text + "\n"


def _columns(names: list[str]) -> dict[str, int]:
    plain = [_plain(name) for name in names]
    found = {
        meaning: plain.index(next(name for name in known if name in plain))
        for meaning, known in _COLUMNS.items()
        if any(name in plain for name in known)
    }
    if "username" not in found:
        raise UnreadableFileError(
            "The first line of the CSV names no column of user names: username, login, uid or email."
        )
    return found


def _row(line: int, values: list[str], columns: dict[str, int], width: int) -> Row:
    if len(values) != width:
        raise RowError(f"it has {len(values)} fields, the first line has {width}")
    given = {meaning: values[column].strip() for meaning, column in columns.items() if meaning != "password"}
    password = values[columns["password"]] if "password" in columns else None
    return check(line, values[columns["username"]], given.get("password_hash"), password, _is_disabled(given))


def _is_disabled(given: dict[str, str]) -> bool | None:
    if text := given.get("disabled"):
        return _word(text)
    if text := given.get("enabled"):
        return not _word(text)
    if text := given.get("status"):
        status = _plain(text)
        if status not in _ENABLED | _DISABLED:
            raise RowError("its status is none that is known")
        return status in _DISABLED
    return None


def _word(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise RowError("what says whether the user is disabled is neither true nor false")
    return _WORDS[text.lower()]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())
