"""A realm of Keycloak: one JSON document, read as a stream, with its users in an array named `users`."""

import base64
import binascii
import codecs
import json
import re
from collections.abc import Iterator
from typing import Any

from keystile_auth.cli.user_files.json_lines import parse
from keystile_auth.cli.user_files.row import BadRow, Row, RowError, check
from keystile_auth.cli.user_files.source import MAX_LINE_BYTES, Source, UnreadableFileError
from keystile_auth.identity.password_hashes import PasswordHash, PasswordHashError

NAME = "keycloak"
_USERS, _USER = 2, 3
# A whole string, a bracket, or the beginning of a string whose end is not here yet; never backtracks.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[{}\[\]]|"', re.DOTALL)
_PBKDF2 = {"pbkdf2": "pbkdf2-sha1", "pbkdf2-sha256": "pbkdf2-sha256", "pbkdf2-sha512": "pbkdf2-sha512"}


def looks_like_one(head: str) -> bool:
    """Whether it is one document with users in it, rather than a document a line."""
    first, _, rest = head.partition("\n")
    try:
        return "users" in parse(first)
    except RowError:
        return not rest.lstrip().startswith("{") or re.match(r'\{\s*"(users|realm|id)"', head) is not None


def read(source: Source) -> Iterator[Row | BadRow]:
    """The users of a realm, without those that are service accounts.

    Raises:
        UnreadableFileError: it is no JSON document, or a string in it has no end.
    """
    for line, text in _Document(source).users():
        try:
            if len(text) > MAX_LINE_BYTES:
                raise RowError("the user is longer than 1 MiB")
            user = parse(text)
            if not user.get("serviceAccountClientId"):
                yield _row(line, user)
        except RowError as problem:
            yield BadRow(line, str(problem))


class _Document:
    """Walks through the document's brackets and keeps the text of one user at a time."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self._text, self._at = "", 0
        self._line = 1
        self._depth = 0
        self._begins: int | None = None  # where the user begins in the text
        self._too_long = False

    def users(self) -> Iterator[tuple[int, str]]:
        """Where each user begins, and its text; too long a text is cut just behind the bound."""
        in_users, last_string, line = False, "", 0
        while token := self._next():
            # The document is at depth 1, its array of users at depth 2, each of them at depth 3.
            if token[0] == '"':
                last_string = token if self._depth == 1 else last_string
            elif token in "[{":
                self._depth += 1
                in_users = in_users or (token == "[" and self._depth == _USERS and last_string == '"users"')
                if in_users and token == "{" and self._depth == _USER:
                    self._begins, line = self._at - 1, self._line_of(self._at - 1)
            else:
                self._depth -= 1
                in_users = in_users and self._depth >= _USERS
                if self._begins is not None and self._depth == _USERS:
                    yield line, self._taken()
        if self._depth:
            raise UnreadableFileError("The JSON document has no end; it was cut short, or is none.")

    def _taken(self) -> str:
        begins, self._begins = self._begins, None
        text = self._text[begins : self._at]
        too_long, self._too_long = self._too_long, False
        return text + " " * MAX_LINE_BYTES if too_long else text

    def _next(self) -> str:
        """The next string or bracket; empty at the end."""
        while True:
            found = _TOKEN.search(self._text, self._at)
            if found and found[0] != '"':
                self._at = found.end()
                return found[0]
            self._at = found.start() if found else len(self._text)
            if not self._read_more():
                if found:
                    raise UnreadableFileError("The JSON document has no end; it was cut short, or is none.")
                return ""

    def _read_more(self) -> bool:
        keep = self._at
        if self._begins is not None and self._at - self._begins > MAX_LINE_BYTES:
            self._too_long, self._begins = True, self._at
        if self._begins is not None:
            keep = self._begins
            self._begins = 0
        if len(self._text) - self._at > MAX_LINE_BYTES:
            raise UnreadableFileError(f"Line {self._line_of(self._at)}: a text of more than 1 MiB.")
        self._line += self._text.count("\n", 0, keep)
        data = self._source.read()
        self._text = self._text[keep:] + self._decoder.decode(data, final=not data)
        self._at -= keep
        return bool(data)

    def _line_of(self, position: int) -> int:
        return self._line + self._text.count("\n", 0, position)


def _row(line: int, user: dict[str, Any]) -> Row:
    enabled = user.get("enabled")
    disabled = not enabled if isinstance(enabled, bool) else enabled
    credentials = user.get("credentials") or []
    if not isinstance(credentials, list):
        raise RowError("credentials is not a list")
    for each in credentials:
        if isinstance(each, dict) and each.get("type") == "password":
            if "value" in each:
                return check(line, user.get("username"), None, each["value"], disabled)
            try:
                return check(line, user.get("username"), _password_hash(each), None, disabled)
            except PasswordHashError as problem:
                raise RowError(f"the password hash cannot be used: {problem}") from None
    return check(line, user.get("username"), None, None, disabled)


def _password_hash(credential: dict[str, Any]) -> PasswordHash:
    try:
        secret, data = credential, credential  # as Keycloak wrote it up to version 7
        digest = secret.get("hashedSaltedValue")
        if digest is None:
            secret, data = json.loads(credential["secretData"]), json.loads(credential["credentialData"])
            digest = secret["value"]
        salt = base64.b64decode(secret["salt"], validate=True)
        return _of(data, salt, base64.b64decode(digest, validate=True))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, binascii.Error):
        raise PasswordHashError("it is broken") from None


def _of(data: dict[str, Any], salt: bytes, digest: bytes) -> PasswordHash:
    algorithm, iterations = data["algorithm"], _whole(data["hashIterations"])
    if algorithm in _PBKDF2:
        return PasswordHash(_PBKDF2[algorithm], (iterations,), salt, digest)
    if algorithm != "argon2":
        raise PasswordHashError("it is of a kind that is not accepted")
    more = data["additionalParameters"]
    version = {"1.3": 19, "1.0": 16}[more["version"][0]]
    costs = (version, _whole(more["memory"][0]), iterations, _whole(more["parallelism"][0]))
    return PasswordHash(f"argon2{more['type'][0]}", costs, salt, digest)


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError("not a number")
    return int(value)
