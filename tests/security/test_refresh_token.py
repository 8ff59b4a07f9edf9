"""Refresh tokens under attack (RFC 9700 section 4.14)."""

import pytest

from tests.auth_server import OTHER_RESOURCE, RESOURCE, SCOPES, AuthServer, Pkce, RegisteredClient, auth_settings
from tests.conftest import StartAuthServer
from tests.person import Person
from tests.security.concurrency import at_once


@pytest.fixture(scope="module")
def client(auth_server: AuthServer) -> RegisteredClient:
    return auth_server.register()


def refresh_form(client_id: str, refresh_token: str) -> dict[str, str]:
    return {"grant_type": "refresh_token", "client_id": client_id, "refresh_token": refresh_token}


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_cve_2026_53512_a_confidential_client_cannot_refresh_without_its_secret(
    auth_server: AuthServer, person: Person, method: str
) -> None:
    confidential, pkce = auth_server.register(token_endpoint_auth_method=method), Pkce()
    assert confidential.secret is not None
    secret = confidential.secret
    code = auth_server.code(confidential.id, pkce, person)
    answer = auth_server.redeem(confidential.id, code, pkce)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    tokens = auth_server.redeem(confidential.id, code, pkce, client_secret=secret).json()
    for presented in ({}, {"client_secret": "wrong"}, {"client_secret": ""}, {"client_secret": secret[:-1]}):
        answer = auth_server.refresh(confidential.id, tokens["refresh_token"], **presented)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert auth_server.refresh(confidential.id, tokens["refresh_token"], client_secret=secret).status_code == 200


def test_a_refresh_token_is_worth_nothing_to_another_client(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    tokens, thief = auth_server.tokens(client.id, person), auth_server.register(client_name="Thief")
    answer = auth_server.refresh(thief.id, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert auth_server.refresh(client.id, tokens["refresh_token"]).status_code == 200


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        ({"scope": "mcp:basic mcp:jobs"}, "invalid_scope"),
        ({"scope": "other:use"}, "invalid_scope"),
        ({"scope": "offline_access"}, "invalid_scope"),
        ({"scope": "mcp:basic  mcp:basic"}, "invalid_scope"),
        ({"resource": OTHER_RESOURCE}, "invalid_target"),
        ({"resource": "https://unknown.example"}, "invalid_target"),
    ],
)
def test_a_refresh_gives_nothing_beyond_its_grant(
    auth_server: AuthServer, client: RegisteredClient, person: Person, asked: dict[str, str], error: str
) -> None:
    tokens = auth_server.tokens(client.id, person)
    answer = auth_server.refresh(client.id, tokens["refresh_token"], **asked)
    assert (answer.status_code, answer.json()["error"]) == (400, error)
    assert auth_server.refresh(client.id, tokens["refresh_token"]).status_code == 200


def test_cve_2026_93999_a_resource_taken_out_of_the_settings_gets_no_more_tokens(
    start_auth_server: StartAuthServer,
) -> None:
    before = start_auth_server()
    client = before.register()
    tokens = before.tokens(client.id, resource=OTHER_RESOURCE, scope="other:use")
    remaining = auth_settings(before.issuer, before.settings.store.url).resources["mcp"]
    after = start_auth_server(resources={"mcp": {**remaining.model_dump(), "secret": "s" * 32}})
    answer = after.refresh(client.id, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    for resource in (OTHER_RESOURCE, RESOURCE):
        answer = after.refresh(client.id, tokens["refresh_token"], resource=resource)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_a_scope_taken_out_of_the_settings_is_in_no_more_tokens(start_auth_server: StartAuthServer) -> None:
    before = start_auth_server()
    client = before.register()
    tokens = before.tokens(client.id, scope="mcp:basic mcp:jobs")
    remaining = {name: text for name, text in SCOPES.items() if name != "mcp:jobs"}
    resource = {"uri": RESOURCE, "title": "Team tools", "scopes": remaining, "secret": "s" * 32}
    after = start_auth_server(resources={"mcp": resource})
    answer = after.refresh(client.id, tokens["refresh_token"], scope="mcp:jobs")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    answer = after.refresh(client.id, tokens["refresh_token"])
    assert answer.json()["scope"] == "mcp:basic"


def test_an_old_refresh_token_ends_the_whole_family_after_the_grace(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(tokens={"refresh_grace_seconds": 0})
    client = server.register()
    first = server.tokens(client.id)
    second = server.refresh(client.id, first["refresh_token"]).json()
    third = server.refresh(client.id, second["refresh_token"]).json()
    answer = server.refresh(client.id, first["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    for tokens in (first, second, third):
        assert not server.is_active(tokens["access_token"])
        assert server.refresh(client.id, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert len(server.events("refresh_token.reuse_detected")) == 1


def test_the_grace_is_for_the_last_token_only(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    third = auth_server.refresh(client.id, second["refresh_token"]).json()
    assert auth_server.refresh(client.id, first["refresh_token"]).json()["error"] == "invalid_grant"
    assert not auth_server.is_active(third["access_token"])


def test_parallel_refreshes_within_the_grace_are_answered_one_and_the_same_successor(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    tokens = auth_server.tokens(client.id, person)
    for _ in range(20):
        answers = at_once(f"{auth_server.issuer}/token", refresh_form(client.id, tokens["refresh_token"]), 10)
        assert [answer.status for answer in answers] == [200] * 10
        assert len({answer.body["refresh_token"] for answer in answers}) == 1
        assert len({answer.body["access_token"] for answer in answers}) == 1
        tokens = answers[0].body
    assert auth_server.is_active(tokens["access_token"])


def test_without_a_grace_exactly_one_of_parallel_refreshes_succeeds(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(tokens={"refresh_grace_seconds": 0})
    client, person = server.register(), server.person()
    for _ in range(20):
        tokens = server.tokens(client.id, person)
        answers = at_once(f"{server.issuer}/token", refresh_form(client.id, tokens["refresh_token"]), 10)
        succeeded = [answer for answer in answers if answer.status == 200]
        assert len(succeeded) == 1
        assert {answer.body.get("error") for answer in answers if answer.status != 200} == {"invalid_grant"}
        assert not server.is_active(succeeded[0].body["access_token"])
