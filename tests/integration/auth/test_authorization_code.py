"""The authorization code grant (RFC 6749 section 4.1, RFC 7636, RFC 9700 section 4.5)."""

import time
from typing import Any

import httpx2
import pytest

from tests.auth_server import CALLBACK, OTHER_RESOURCE, RESOURCE, AuthServer, Pkce
from tests.conftest import StartAuthServer
from tests.operator import Operator
from tests.person import Person


def assert_invalid_grant(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_a_code_is_used_once_and_its_replay_revokes_the_tokens_of_the_first_redemption(
    auth_server: AuthServer, person: Person
) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    first = auth_server.redeem(client.id, code, pkce).json()
    refreshed = auth_server.refresh(client.id, first["refresh_token"]).json()
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce))
    assert not auth_server.is_active(first["access_token"])
    assert not auth_server.is_active(refreshed["access_token"])
    assert_invalid_grant(auth_server.refresh(client.id, refreshed["refresh_token"]))
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce))


def test_a_replay_by_one_who_lacks_the_verifier_revokes_nothing(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert_invalid_grant(auth_server.redeem(client.id, code, Pkce()))
    assert_invalid_grant(auth_server.redeem(auth_server.register().id, code, pkce))
    assert auth_server.is_active(tokens["access_token"])


@pytest.mark.parametrize("verifier", [None, "", "short", "x" * 43, "x" * 129, "ü" * 43])
def test_a_missing_or_wrong_verifier_is_an_invalid_grant(
    auth_server: AuthServer, person: Person, verifier: str | None
) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce, code_verifier=verifier))
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


def test_the_challenge_itself_is_no_verifier(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce, code_verifier=pkce.challenge))


def test_a_code_of_one_client_is_worth_nothing_to_another(auth_server: AuthServer, person: Person) -> None:
    client, other, pkce = auth_server.register(), auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert_invalid_grant(auth_server.redeem(other.id, code, pkce))
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


@pytest.mark.parametrize(
    "uri", ["https://evil.example/", CALLBACK + "/", CALLBACK + "?", "http://127.0.0.1:1/callback"]
)
def test_a_redirect_uri_that_differs_is_an_invalid_grant(auth_server: AuthServer, person: Person, uri: str) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce, redirect_uri=uri))


def test_the_redirect_uri_may_be_left_out_at_the_token_endpoint(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert auth_server.redeem(client.id, code, pkce, redirect_uri=None).status_code == 200


def test_a_code_expires_by_the_clock_of_the_store(start_auth_server: StartAuthServer) -> None:
    # The server's own clock stands still in the past; it must not matter.
    server = start_auth_server(tokens={"code_seconds": 4}, clock=lambda: 1.0)
    client, pkce, person = server.register(), Pkce(), server.person()
    early = server.code(client.id, pkce, person)
    assert server.redeem(client.id, early, pkce).status_code == 200
    late = server.code(client.id, pkce, person)
    time.sleep(4.05)
    answer = server.redeem(client.id, late, pkce)
    assert_invalid_grant(answer)
    assert answer.json()["error_description"] == "the code is unknown or has expired"


def test_a_code_lives_sixty_seconds_at_most(auth_server: AuthServer) -> None:
    assert auth_server.settings.tokens.code_seconds == 60


@pytest.mark.parametrize("code", ["junk", "kst_ac_" + "A" * 49, "kst_at_" + "A" * 49, "A" * 5000])
def test_a_code_that_was_never_issued_is_an_invalid_grant(auth_server: AuthServer, code: str) -> None:
    assert_invalid_grant(auth_server.redeem(auth_server.register().id, code, Pkce()))


@pytest.mark.parametrize("resource", [RESOURCE, RESOURCE + "/"])
def test_the_resource_may_be_named_again(auth_server: AuthServer, person: Person, resource: str) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert auth_server.redeem(client.id, code, pkce, resource=resource).status_code == 200


@pytest.mark.parametrize("resource", [OTHER_RESOURCE, "https://unknown.example/", "junk"])
def test_another_resource_than_the_granted_one_is_an_invalid_target(
    auth_server: AuthServer, person: Person, resource: str
) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(client.id, code, pkce, resource=resource)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert auth_server.introspect(tokens["access_token"])["aud"] == RESOURCE


def test_a_client_without_the_refresh_grant_gets_no_refresh_token(auth_server: AuthServer, person: Person) -> None:
    tokens = auth_server.tokens(auth_server.register(grant_types=["authorization_code"]).id, person)
    assert "refresh_token" not in tokens
    assert auth_server.is_active(tokens["access_token"])


def test_a_user_disabled_between_code_and_redemption_gets_nothing(auth_server: AuthServer, operator: Operator) -> None:
    person, client, pkce = auth_server.person(), auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    operator.done("users", "disable", person.username)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce))
    # Nor does the code come to life again with the user.
    operator.done("users", "enable", person.username)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce))


def test_a_user_deleted_between_code_and_redemption_gets_nothing(auth_server: AuthServer, operator: Operator) -> None:
    person, client, pkce = auth_server.person(), auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    operator.done("users", "delete", person.username)
    assert_invalid_grant(auth_server.redeem(client.id, code, pkce))


def test_a_code_for_a_resource_no_longer_served_is_an_invalid_target(
    auth_server: AuthServer, start_auth_server: StartAuthServer, person: Person
) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    other_only: dict[str, Any] = {
        "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "secret": "s" * 32}
    }
    later = start_auth_server(resources=other_only)
    answer = later.redeem(client.id, code, pkce)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_a_client_that_acts_for_itself_redeems_no_code(
    auth_server: AuthServer, operator: Operator, person: Person
) -> None:
    pkce = Pkce()
    code = auth_server.code(auth_server.register().id, pkce, person)
    answer = auth_server.token(operator.machine(), grant_type="authorization_code", code=code)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


def test_a_token_speaks_for_the_user_who_consented(auth_server: AuthServer, person: Person) -> None:
    tokens = auth_server.tokens(auth_server.register().id, person)
    answer = auth_server.introspect(tokens["access_token"])
    assert answer["username"] == person.username
    assert answer["sub"].startswith("user_")
    assert answer["sub"] != answer["username"]
