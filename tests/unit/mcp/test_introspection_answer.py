"""Reading introspection answers (RFC 7662 section 2.2)."""

import json
from typing import Any

import pytest

from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError, read_answer
from tests.unit.mcp.samples import ISSUER, NOW, RESOURCE

WHOLE = {
    "active": True,
    "scope": "mcp:basic mcp:jobs",
    "client_id": "client-1",
    "sub": "alice",
    "aud": RESOURCE,
    "iss": ISSUER,
    "nbf": NOW - 10,
    "exp": NOW + 600,
    "username": "Alice",
    "token_type": "Bearer",
    "something": {"new": []},
}


def read(**changes: Any) -> ActiveToken | None:
    answer = {name: value for name, value in (WHOLE | changes).items() if value is not ...}
    return read_answer(json.dumps(answer).encode(), ISSUER, RESOURCE)


def test_a_whole_answer_is_read() -> None:
    assert read() == ActiveToken(
        issuer=ISSUER,
        resource=RESOURCE,
        client_id="client-1",
        subject="alice",
        scopes=("mcp:basic", "mcp:jobs"),
        not_before=NOW - 10,
        expires_at=NOW + 600,
        username="Alice",
    )


def test_false_means_inactive_whatever_else_is_said() -> None:
    assert read(active=False, exp="nonsense") is None


@pytest.mark.parametrize("active", ["true", "false", 1, 0, None, ..., [], {"a": 1}])
def test_anything_but_true_and_false_is_no_answer(active: Any) -> None:
    with pytest.raises(IntrospectionError, match="active"):
        read(active=active)


@pytest.mark.parametrize("exp", [None, ..., "1800000600", True, float("nan"), float("inf"), -1, 10**400, [1]])
def test_an_answer_without_an_end_is_no_answer(exp: Any) -> None:
    with pytest.raises(IntrospectionError, match="exp"):
        read(exp=exp)


@pytest.mark.parametrize("nbf", ["soon", False, float("nan")])
def test_a_beginning_must_be_a_time(nbf: Any) -> None:
    with pytest.raises(IntrospectionError, match="nbf"):
        read(nbf=nbf)


@pytest.mark.parametrize("name", ["scope", "client_id", "sub", "iss", "username"])
def test_a_text_must_be_a_text(name: str) -> None:
    with pytest.raises(IntrospectionError, match=name):
        read(**{name: ["x"]})


def test_somebody_must_be_named() -> None:
    with pytest.raises(IntrospectionError, match="neither"):
        read(client_id=..., sub=...)


def test_a_subject_alone_or_a_client_alone_is_enough() -> None:
    assert read(client_id=...) is not None
    assert read(sub=...) is not None


def test_no_scope_is_no_scopes() -> None:
    token = read(scope=...)
    assert token is not None
    assert token.scopes == ()


def test_an_answer_without_issuer_is_the_word_of_whom_was_asked() -> None:
    token = read(iss=...)
    assert token is not None
    assert token.issuer == ISSUER


@pytest.mark.parametrize(
    "aud", [RESOURCE, RESOURCE + "/", "HTTPS://Tools.Example.com/mcp", ["https://other.example", RESOURCE]]
)
def test_the_audience_may_be_spelled_and_grouped_in_many_ways(aud: Any) -> None:
    token = read(aud=aud)
    assert token is not None
    assert token.resource == RESOURCE


@pytest.mark.parametrize(
    "aud",
    [
        ...,
        None,
        "",
        [],
        5,
        [None, {"aud": RESOURCE}],
        "https://tools.example.com",
        "https://tools.example.com/mcp/other",
        "https://tools.example.com/MCP",
        "https://tools.example.com.evil.example/mcp",
        "https://evil.example/https://tools.example.com/mcp",
        "http://tools.example.com/mcp",
        "https://tools.example.com/mcp?x",
        "https://tools.example.com/mcp#x",
        "http://[",
    ],
)
def test_another_audience_is_not_this_resource(aud: Any) -> None:
    token = read(aud=aud)
    assert token is not None
    assert token.resource is None


@pytest.mark.parametrize("body", [b"", b"active", b"[]", b"null", b"\xff", b"[" * 60_000, b'{"active":true'])
def test_what_is_no_json_object_is_no_answer(body: bytes) -> None:
    with pytest.raises(IntrospectionError):
        read_answer(body, ISSUER, RESOURCE)


def test_what_the_tools_see_holds_no_token() -> None:
    token = read()
    assert token is not None
    access_token = token.user.access_token
    assert access_token.token == ""
    assert access_token.claims == {"iss": ISSUER, "username": "Alice"}
    assert access_token.resource == RESOURCE
    assert token.user is token.user
    assert token.credentials.scopes == ["mcp:basic", "mcp:jobs"]
