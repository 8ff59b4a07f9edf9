"""Token introspection (RFC 7662) and revocation (RFC 7009)."""

import time
from typing import Any

import httpx2
import pytest

from tests.auth_server import OTHER_RESOURCE, OTHER_SECRET, RESOURCE, RESOURCE_SECRET, AuthServer
from tests.person import Person


def introspect(server: AuthServer, auth: tuple[str, str] | None = None, **parameters: Any) -> httpx2.Response:
    return server.http.post(f"{server.issuer}/introspect", data=parameters, auth=auth or httpx2.USE_CLIENT_DEFAULT)


def revoke(server: AuthServer, token: str, client_id: str, **parameters: Any) -> httpx2.Response:
    data = {"token": token, "client_id": client_id, **parameters}
    return server.http.post(f"{server.issuer}/revoke", data=data)


def test_an_active_token_is_described_in_full(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    answer = introspect(auth_server, ("mcp", RESOURCE_SECRET), token=tokens["access_token"])
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    described = answer.json()
    assert described.pop("sub").startswith("user_")
    assert len(described.pop("jti")) == 43
    issued = described.pop("iat")
    assert abs(issued - time.time()) < 5
    assert described == {
        "active": True,
        "scope": "mcp:basic",
        "client_id": client.id,
        "username": person.username,
        "token_type": "Bearer",
        "aud": RESOURCE,
        "iss": auth_server.issuer,
        "nbf": issued,
        "exp": issued + 900,
    }


@pytest.mark.parametrize(
    "auth", [None, ("mcp", "wrong"), ("mcp", ""), ("nobody", RESOURCE_SECRET), ("other", RESOURCE_SECRET)]
)
def test_without_the_resources_own_secret_the_answer_is_401(
    auth_server: AuthServer, auth: tuple[str, str] | None
) -> None:
    answer = introspect(auth_server, auth, token="x")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_resource_may_authenticate_in_the_body(auth_server: AuthServer) -> None:
    answer = introspect(auth_server, token="x", client_id="mcp", client_secret=RESOURCE_SECRET)
    assert answer.json() == {"active": False}
    assert introspect(auth_server, token="x", client_id="mcp").status_code == 401


def test_a_client_is_no_resource(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert client.secret is not None
    assert introspect(auth_server, (client.id, client.secret), token="x").status_code == 401
    assert introspect(auth_server, token="x", client_id=auth_server.register().id).status_code == 401


def test_another_resource_learns_exactly_that_the_token_is_not_active(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    token = auth_server.tokens(client.id, person)["access_token"]
    answer = introspect(auth_server, ("other", OTHER_SECRET), token=token)
    assert (answer.status_code, answer.content) == (200, b'{"active":false}')
    theirs = auth_server.tokens(client.id, person, resource=OTHER_RESOURCE, scope="other:use")["access_token"]
    assert not auth_server.is_active(theirs)
    assert auth_server.introspect(theirs, ("other", OTHER_SECRET))["aud"] == OTHER_RESOURCE


def test_nothing_but_an_access_token_is_active(auth_server: AuthServer, person: Person) -> None:
    tokens = auth_server.tokens(auth_server.register().id, person)
    junk = ["junk", tokens["refresh_token"], tokens["access_token"][:-1], tokens["access_token"] + "A", "kst_at_"]
    for token in junk:
        answer = introspect(auth_server, ("mcp", RESOURCE_SECRET), token=token)
        assert (answer.status_code, answer.content) == (200, b'{"active":false}')


def test_a_hint_is_ignored_and_a_missing_or_doubled_token_is_an_invalid_request(
    auth_server: AuthServer, person: Person
) -> None:
    auth = ("mcp", RESOURCE_SECRET)
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    assert introspect(auth_server, auth, token=token, token_type_hint="refresh_token").json()["active"] is True
    for parameters in ({}, {"token": [token, token]}):
        answer = introspect(auth_server, auth, **parameters)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_the_introspection_endpoint_answers_post_alone(auth_server: AuthServer) -> None:
    assert auth_server.http.get(f"{auth_server.issuer}/introspect?token=x").status_code == 405


def test_revoking_an_access_token_ends_it_alone(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    answer = revoke(auth_server, second["access_token"], client.id)
    assert (answer.status_code, answer.content) == (200, b"")
    assert not auth_server.is_active(second["access_token"])
    assert auth_server.is_active(first["access_token"])
    assert auth_server.refresh(client.id, second["refresh_token"]).status_code == 200


def test_revoking_a_refresh_token_ends_the_grant_with_its_access_tokens(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    assert revoke(auth_server, second["refresh_token"], client.id).status_code == 200
    assert not auth_server.is_active(first["access_token"])
    assert not auth_server.is_active(second["access_token"])
    answer = auth_server.refresh(client.id, second["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_wrong_hint_changes_nothing(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    assert revoke(auth_server, tokens["refresh_token"], client.id, token_type_hint="access_token").status_code == 200
    assert not auth_server.is_active(tokens["access_token"])


@pytest.mark.parametrize("token", ["junk", "kst_at_" + "A" * 49, "kst_rt_" + "A" * 70])
def test_an_unknown_token_is_answered_200(auth_server: AuthServer, token: str) -> None:
    answer = revoke(auth_server, token, auth_server.register().id)
    assert (answer.status_code, answer.content) == (200, b"")


def test_a_token_that_was_revoked_before_is_answered_200_and_leaves_no_second_event(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    for token in (tokens["access_token"], tokens["access_token"], tokens["refresh_token"], tokens["refresh_token"]):
        assert revoke(auth_server, token, client.id).status_code == 200
    events = [each for each in auth_server.events("token.revoked") if each["actor"]["client_id"] == client.id]
    assert len(events) == 2


@pytest.mark.parametrize("kind", ["access_token", "refresh_token"])
def test_the_token_of_another_client_is_answered_200_and_lives_on(
    auth_server: AuthServer, person: Person, kind: str
) -> None:
    client, other = auth_server.register(), auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    assert revoke(auth_server, tokens[kind], other.id).status_code == 200
    assert auth_server.is_active(tokens["access_token"])
    assert auth_server.refresh(client.id, tokens["refresh_token"]).status_code == 200


def test_who_does_not_prove_who_it_is_revokes_nothing(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    for data in ({"token": tokens["access_token"]}, {"token": tokens["access_token"], "client_id": "nobody"}):
        answer = auth_server.http.post(f"{auth_server.issuer}/revoke", data=data)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert auth_server.is_active(tokens["access_token"])


@pytest.mark.parametrize("parameters", [{}, {"token": ""}, {"token": ["a", "b"]}])
def test_a_missing_or_doubled_token_is_an_invalid_request(auth_server: AuthServer, parameters: dict[str, Any]) -> None:
    data = {"client_id": auth_server.register().id, **parameters}
    answer = auth_server.http.post(f"{auth_server.issuer}/revoke", data=data)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
