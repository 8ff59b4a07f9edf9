"""Hostile files of users: bounded in time and memory, refused row by row, and never repeated in what is said."""

import base64
import io
import json
import time

import pytest

from keystile_auth.cli.user_files import READERS, detect
from keystile_auth.cli.user_files.row import BadRow, Row
from keystile_auth.cli.user_files.source import Source, UnreadableFileError
from tests.password_hashes import FORMS

SECRET = "the-secret-of-a-shifted-column"


def rows(content: str | bytes, format_: str | None = None) -> list[Row | BadRow]:
    source = Source(io.BytesIO(content if isinstance(content, bytes) else content.encode()))
    return list(READERS[format_ or detect(source)](source))


def names(content: str | bytes, format_: str | None = None) -> list[str]:
    return [row.username if isinstance(row, Row) else f"{row.line}: {row.reason}" for row in rows(content, format_)]


@pytest.mark.parametrize(
    "row",
    [
        "[" * 200_000,
        '{"a":' * 100_000,
        '{"username":' + "9" * 10_000 + "}",
        '{"username":"' + "x" * (1 << 21) + '"}',
        '{"username":["a"]}',
        '{"username":{"a":1}}',
        '{"username":"\\ud800"}',
        '{"username":"a","password_hash":7}',
        '{"username":"a","disabled":"no"}',
        '{"username":"a","sub":"../other"}',
        '{"username":"a","created":1e999}',
        '{"username":"a","created":true}',
        '{"username":"a","created":99999999999}',
        '{"username":"a","password_hash":"$2b$31$' + "a" * 53 + '"}',
        "7",
        "not json",
    ],
)
def test_a_hostile_line_of_json_is_one_bad_row(row: str) -> None:
    begun = time.monotonic()
    found = rows(f'{row}\n\n{{"username":"next"}}\n', "json")
    assert isinstance(found[0], BadRow)
    assert found[0].line == 1
    assert [each.line for each in found[1:]] == [3]
    assert time.monotonic() - begun < 20


@pytest.mark.parametrize("bad", ["a\0b", "a\x1b[31mb", "a\nb", "a\u202eb", " a", "x" * 129, "\u2028"])
def test_a_name_that_cannot_be_seen_as_it_is_is_refused(bad: str) -> None:
    (found,) = rows(json.dumps({"username": bad}), "json")
    assert isinstance(found, BadRow)
    assert found.reason.startswith("a user name has 1 to 128 visible characters")


@pytest.mark.parametrize("odd", ["../../etc/passwd", "=cmd|' /C calc'!A0", "@sum(1)", "ks:user:*", "a'; DROP", "ada@x"])
def test_a_name_is_text_and_nothing_else(odd: str) -> None:
    assert names(json.dumps({"username": odd}), "json") == [odd]
    assert names(f'username,x\n"{odd}",1\n') == [odd]


def test_quotes_of_csv_hold_commas_lines_and_quotes() -> None:
    assert names('note,username\r\n"a, ""b""\r\nc",ada\r\n,bob\r\n\r\n') == ["ada", "bob"]


@pytest.mark.parametrize("bad", ['"ada,1', '"a"b,1', "ada", "ada,1,2", '"' + "x" * 200_000 + '",1'])
def test_a_broken_row_of_csv_is_one_bad_row(bad: str) -> None:
    found = rows(f"username,x\n{bad}\n")
    assert [type(each) for each in found] == [BadRow]
    assert [each.line for each in found] == [2]


def test_a_quote_that_does_not_end_costs_no_more_than_its_bound() -> None:
    found = rows('username\n"' + "a\n" * 500_000)
    assert isinstance(found[0], BadRow)
    assert all(isinstance(each, BadRow) or each.username == "a" for each in found)


def test_lines_that_are_no_utf_8_are_bad_rows_and_a_bom_is_none() -> None:
    assert names(b"\xef\xbb\xbfusername\nada\n\xff\xfe\nbob\n") == ["ada", "3: the line is not UTF-8", "bob"]
    found = names(b'{"users": [{"username": "a\xff"}, {"username": "bob"}]}')
    assert found == ["1: the user name is not UTF-8", "bob"]
    binary = base64.b64encode(b"\xff\xfe").decode()
    assert names(f"dn: x\nuid:: {binary}\n") == ["1: the user name is not UTF-8"]


def test_a_line_without_an_end_is_never_held() -> None:
    class Endless(io.RawIOBase):
        given = 0

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: bytearray) -> int:  # type: ignore[override]
            size = min(len(buffer), (64 << 20) - self.given)
            self.given += size
            buffer[:size] = b"x" * size
            return size

    source = Source(io.BufferedReader(Endless()))  # type: ignore[type-var]
    assert list(READERS["json"](source)) == [BadRow(1, "the line is longer than 1 MiB")]


def test_ldif_has_base64_folds_options_and_comments() -> None:
    value = base64.b64encode(FORMS["ldap ssha256"].encode()).decode()
    text = (
        f"dn: x\nuid;lang-de:: YWRh\n# note\n folded note\nuserPassword:: {value[:9]}\n {value[9:]}\n\ndn: y\nuid: bob"
    )
    found = rows(text)
    assert [row.username for row in found if isinstance(row, Row)] == ["ada", "bob"]
    assert isinstance(found[0], Row)
    assert found[0].password_hash


@pytest.mark.parametrize(
    "entry",
    [
        "dn: x\nuid:< file:///etc/passwd",
        "dn: x\nuid:: !!!",
        "dn: x\nno colon",
        " folded",
        "uid: ada",
        "dn: x\nchangetype: modify",
        "dn: x\nuid: ada\nuserPassword: {MD5}XUFAKrxLKna5cZ2REBfFkg==",
        "dn: x\nuserPassword: {SSHA}AAAA",
        "dn: x\n" + " a\n" * 50_000,
        "dn: x\ndescription: " + "x" * (1 << 21),
    ],
)
def test_a_hostile_entry_of_ldif_is_one_bad_row(entry: str) -> None:
    begun = time.monotonic()
    found = rows(f"version: 1\n\n{entry}\n\ndn: y\nuid: bob\n", "ldif")
    assert [type(each) for each in found] == [BadRow, Row]
    assert time.monotonic() - begun < 20


def test_computers_and_units_are_no_users() -> None:
    text = "dn: a\nobjectClass: computer\nobjectClass: user\nsAMAccountName: PC$\n\ndn: ou=b\nobjectClass: top\n"
    assert rows(text) == []


@pytest.mark.parametrize(
    "credential",
    [
        {},
        {"secretData": "[" * 100_000, "credentialData": "{}"},
        {"secretData": "7", "credentialData": "7"},
        {"secretData": '{"value": "!", "salt": "!"}', "credentialData": "{}"},
        {"hashedSaltedValue": "AAAA", "salt": "AAAA", "algorithm": "md5", "hashIterations": 1},
        {"hashedSaltedValue": "A" * 64, "salt": "A" * 16, "algorithm": "pbkdf2", "hashIterations": 10**9},
        {"hashedSaltedValue": "A" * 64, "salt": "A" * 16, "algorithm": "pbkdf2", "hashIterations": True},
        {"hashedSaltedValue": "A" * 64, "salt": "A" * 16, "algorithm": "argon2", "hashIterations": 1},
    ],
)
def test_a_hostile_credential_of_keycloak_is_one_bad_row(credential: dict[str, object]) -> None:
    user = {"username": "ada", "credentials": [{"type": "password", **credential}]}
    found = rows(json.dumps({"users": [user, {"username": "bob"}]}, indent=1), "keycloak")
    assert [type(each) for each in found] == [BadRow, Row]


def test_a_realm_is_read_without_what_is_no_user() -> None:
    users = [
        {"username": "robot", "serviceAccountClientId": "c"},
        {"username": "long", "attributes": ["x" * 1000] * 2000},
        {"username": "odd", "credentials": 7},
        {"username": "ada", "credentials": [{"type": "otp"}], "attributes": {"users": [{"username": 'no"}]'}]}},
    ]
    realm = {"clients": [{"users": [{"username": "no"}]}], "note": "users", "a": ["{"], "users": users}
    found = names(json.dumps(realm), "keycloak")
    assert found == ["1: the user is longer than 1 MiB", "1: credentials is not a list", "ada"]


@pytest.mark.parametrize("text", ["}" * 5, '{"users": [' + "[" * 1000, '{"x": "' + "y" * (3 << 20), "[[["])
def test_a_document_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UnreadableFileError):
        rows(text, "keycloak")


def test_nothing_of_a_row_is_in_what_is_said_of_it() -> None:
    texts = [
        f"username,password_hash\nada,{SECRET}\n{SECRET}\nbob,$argon2id${SECRET}\n",
        json.dumps({"username": [SECRET], "password": SECRET}),
        f"dn: x\nuid: ada\nuserPassword: {{MD5}}{SECRET}",
        json.dumps({"users": [{"username": "a", "credentials": [{"type": "password", "secretData": SECRET}]}]}),
    ]
    found = [row for text in texts for row in rows(text)]
    assert all(isinstance(row, BadRow) for row in found)
    assert SECRET not in str(found)
    (plain,) = rows(f"username,password\nada,{SECRET}\n")
    assert SECRET not in repr(plain)


@pytest.mark.parametrize(
    ("head", "format_"),
    [
        ('{"username": "a"}', "json"),
        ('{"email": "a"}', "auth0"),
        ('{"realm": "a",\n "users": []}', "keycloak"),
        ("broken json", "csv"),
        ('{"broken\n{"username": "a"}', "json"),
        ("# a comment\nversion: 1\ndn: a", "ldif"),
        ("login,firstName", "okta"),
    ],
)
def test_a_format_is_known_by_its_beginning(head: str, format_: str) -> None:
    assert detect(Source(io.BytesIO(head.encode()))) == format_
