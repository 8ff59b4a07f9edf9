"""One user of a file, checked."""

import re
import time
from dataclasses import dataclass, field

from keystile_auth.identity import password_hash_forms
from keystile_auth.identity.local import InvalidUserError, check_password, check_username
from keystile_auth.identity.password_hashes import PasswordHash, PasswordHashError

_SUB = re.compile(r"user_[A-Za-z0-9_-]{22}")


class RowError(Exception):
    """A row that is no user; `str()` says why, without any value of it."""


@dataclass(frozen=True, slots=True)
class BadRow:
    """A user that cannot be, where it stands, and why."""

    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class Row:
    """A user that can be.

    Attributes:
        line: where it begins.
        username: as the file has it.
        password_hash: or None where the file has none.
        password: in plain text, where the file has that.
        disabled: or None where the file does not say.
        sub: its subject, in a file of Keystile's own.
        created: Unix seconds, in a file of Keystile's own.
    """

    line: int
    username: str
    password_hash: PasswordHash | None = None
    password: str | None = field(default=None, repr=False)
    disabled: bool | None = None
    sub: str | None = None
    created: int | None = None


def check(
    line: int,
    username: object,
    password_hash: object = None,
    password: object = None,
    disabled: object = None,
    sub: object = None,
    created: object = None,
) -> Row:
    """A row of what a file says; empty text is as nothing.

    Raises:
        RowError: it is no user.
    """
    name = _text("user name", username)
    if name is None:
        raise RowError("there is no user name")
    if disabled is not None and not isinstance(disabled, bool):
        raise RowError("disabled is neither true nor false")
    try:
        check_username(name)
        plain = _text("password", password)
        if plain is not None:
            check_password(plain)
    except InvalidUserError as problem:
        raise RowError(str(problem)) from None
    return Row(line, name, _hash(password_hash), plain, disabled, _sub(sub), _created(created))


def _text(what: str, value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str):
        raise RowError(f"the {what} is not text")
    if not value.isascii() and any("\ud800" <= each <= "\udfff" for each in value):
        raise RowError(f"the {what} is not UTF-8")
    return value


def _hash(value: object) -> PasswordHash | None:
    if isinstance(value, PasswordHash):
        return value
    text = _text("password hash", value)
    if text is None:
        return None
    try:
        return password_hash_forms.read(text)
    except PasswordHashError as problem:
        raise RowError(f"the password hash cannot be used: {problem}") from None


def _sub(value: object) -> str | None:
    sub = _text("sub", value)
    if sub is not None and not _SUB.fullmatch(sub):
        raise RowError("the sub is not one of Keystile's")
    return sub


def _created(value: object) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= time.time() + 86400:
        raise RowError("created is no time in Unix seconds")
    return value
