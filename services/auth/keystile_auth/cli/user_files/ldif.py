"""LDIF (RFC 2849), as `ldapsearch` and `slapcat` write it."""

import base64
import binascii
from collections.abc import Iterator

from keystile_auth.cli.user_files.row import BadRow, Row, RowError, check
from keystile_auth.cli.user_files.source import MAX_LINE_BYTES, Line, Source
from keystile_auth.identity import password_hash_forms
from keystile_auth.identity.password_hashes import PasswordHash, PasswordHashError

_NAMES = ("uid", "samaccountname", "userprincipalname")
_PEOPLE = {"person", "inetorgperson", "organizationalperson", "account", "posixaccount", "user"}
_LINE_BYTES = 64  # what a line costs, be it as short as it may
_FLAGS_DIGITS = 12
_AD_DISABLED = 2  # the bit ACCOUNTDISABLE of userAccountControl


def looks_like_one(head: str) -> bool:
    """Whether its first line that is no comment says so."""
    lines = [line for line in head.splitlines() if line.strip() and not line.startswith(("#", " "))]
    return bool(lines) and lines[0].lower().startswith(("dn:", "version:"))


def read(source: Source) -> Iterator[Row | BadRow]:
    """The users of a directory; entries that are no person (units, groups) are left out."""
    for entry in _entries(source):
        try:
            attributes = _attributes(entry)
            if _is_person(attributes):
                yield _row(entry[0].number, attributes)
        except RowError as problem:
            yield BadRow(entry[0].number, str(problem))


def _entries(source: Source) -> Iterator[list[Line]]:
    """The lines of each entry, up to an empty one; folded lines are put together (RFC 2849, section 2)."""
    entry: list[Line] = []
    size, folded = 0, False
    for line in source.lines():
        if line.problem is None and not line.text:
            if entry:
                yield entry
            entry, size, folded = [], 0, False
            continue
        if line.text.startswith("#"):
            folded = True  # what follows folded belongs to the comment
            continue
        size += len(line.text) + _LINE_BYTES
        if size > MAX_LINE_BYTES:
            entry = [Line(entry[0].number if entry else line.number, "", "the entry is longer than 1 MiB")]
        elif not line.text.startswith(" "):
            entry.append(line)
            folded = False
        elif not folded:
            entry.append(Line(line.number, line.text, line.problem))
    if entry:
        yield entry


def _attributes(entry: list[Line]) -> dict[str, list[str]]:
    joined: list[list[str]] = []
    for line in entry:
        if line.problem is not None:
            raise RowError(line.problem)
        if not line.text.startswith(" "):
            joined.append([line.text])
        elif joined:
            joined[-1].append(line.text[1:])
        else:
            raise RowError("it begins with a folded line")
    attributes: dict[str, list[str]] = {}
    for parts in joined:
        name, value = _attribute("".join(parts))
        attributes.setdefault(name, []).append(value)
    return attributes


def _attribute(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    name = name.partition(";")[0].strip().lower()  # without options such as ;lang-de
    if not colon or not name:
        raise RowError("it is not LDIF: a line without a colon")
    if value.startswith("<"):
        raise RowError("it refers to a file or an address, which is never read")
    if not value.startswith(":"):
        return name, value.removeprefix(" ")
    try:
        return name, base64.b64decode(value[1:].strip(), validate=True).decode("utf-8", "surrogateescape")
    except (binascii.Error, ValueError):
        raise RowError("it has a value that is not base64") from None


def _is_person(attributes: dict[str, list[str]]) -> bool:
    if attributes.get("changetype", ["add"])[0] != "add":
        raise RowError("it is a change, not an entry")
    if "dn" not in attributes:
        if set(attributes) <= {"version"}:
            return False
        raise RowError("it has no dn")
    classes = {each.lower() for each in attributes.get("objectclass", [])}
    if "computer" in classes:  # which in Active Directory is a user too
        return False
    return bool(classes & _PEOPLE) or any(name in attributes for name in (*_NAMES, "userpassword"))


def _row(line: int, attributes: dict[str, list[str]]) -> Row:
    name = next((attributes[name][0] for name in (*_NAMES, "mail") if name in attributes), None)
    password_hash, plain = _password(attributes.get("userpassword", []))
    return check(line, name, password_hash, plain, _is_disabled(attributes))


def _password(values: list[str]) -> tuple[PasswordHash | None, str | None]:
    """The first value that can be used; plain text only where there is nothing else."""
    reason = None
    for value in values:
        if password_hash_forms.looks_like_one(value):
            try:
                return password_hash_forms.read(value), None
            except PasswordHashError as problem:
                reason = reason or str(problem)
    if reason is not None:
        raise RowError(f"the password hash cannot be used: {reason}")
    return None, values[0] if values else None


def _is_disabled(attributes: dict[str, list[str]]) -> bool | None:
    flags = attributes.get("useraccountcontrol", ["0"])[0]
    says_so = (
        "pwdaccountlockedtime" in attributes
        or attributes.get("nsaccountlock", [""])[0].lower() == "true"
        or (flags.isascii() and flags.isdigit() and len(flags) < _FLAGS_DIGITS and bool(int(flags) & _AD_DISABLED))
    )
    return True if says_so else None
