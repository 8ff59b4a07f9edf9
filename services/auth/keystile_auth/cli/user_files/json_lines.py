"""JSON, one user a line: Keystile's own export, and Auth0's two (users, and password hashes)."""

import json
from collections.abc import Callable, Iterator
from typing import Any

from keystile_auth.cli.user_files.row import BadRow, Row, RowError, check
from keystile_auth.cli.user_files.source import Source

_OF_AUTH0 = ("passwordHash", "user_id", "_id", "email_verified", "identities", "Email", "Id")


def detect(head: str) -> str:
    """`auth0` or `json`, by the names in the first line."""
    try:
        first = parse(head.split("\n", 1)[0])
    except RowError:
        return "json"
    return "auth0" if "username" not in first or any(name in first for name in _OF_AUTH0) else "json"


def parse(text: str) -> dict[str, Any]:
    """One object.

    Raises:
        RowError: it is none.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):  # the latter where thousands of brackets are opened
        raise RowError("it is not JSON") from None
    if not isinstance(document, dict):
        raise RowError("it is not a JSON object")
    return document


def read(source: Source) -> Iterator[Row | BadRow]:
    """The users of an export of Keystile."""
    return _read(source, _of_keystile)


def read_auth0(source: Source) -> Iterator[Row | BadRow]:
    """The users of an export of Auth0; the address is the name of those who have no other."""
    return _read(source, _of_auth0)


def _read(source: Source, convert: Callable[[int, dict[str, Any]], Row]) -> Iterator[Row | BadRow]:
    for line in source.lines():
        if line.problem is None and not line.text.strip():
            continue
        try:
            if line.problem is not None:
                raise RowError(line.problem)
            yield convert(line.number, parse(line.text))
        except RowError as problem:
            yield BadRow(line.number, str(problem))


def _of_keystile(line: int, user: dict[str, Any]) -> Row:
    return check(
        line,
        user.get("username"),
        user.get("password_hash"),
        user.get("password"),
        user.get("disabled"),
        user.get("sub"),
        user.get("created"),
    )


def _of_auth0(line: int, user: dict[str, Any]) -> Row:
    name = user.get("username") or user.get("email") or user.get("Email")
    return check(line, name, user.get("passwordHash") or user.get("password_hash"), None, user.get("blocked"))
