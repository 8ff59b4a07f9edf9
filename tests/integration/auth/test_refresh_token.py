"""The refresh token grant (RFC 6749 section 6, RFC 9700 section 4.14)."""

import json
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from redis import Redis

from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.opaque import RefreshToken, RefreshTokens
from tests.auth_server import (
    CALLBACK,
    OTHER_RESOURCE,
    RESOURCE,
    RESOURCE_SECRET,
    SCOPES,
    AuthServer,
    Pkce,
    running_auth_server,
)
from tests.conftest import StartAuthServer
from tests.operator import Operator
from tests.person import Person
from tests.stores import client_of

SIGNER = RefreshTokens(MasterKey(b"k" * 32))


@pytest.fixture(scope="module")
def strict(store_url: str) -> Iterator[AuthServer]:
    """A server without a grace: each second use of a refresh token is reuse."""
    with running_auth_server(store_url, tokens={"refresh_grace_seconds": 0}) as server:
        yield server


@pytest.fixture(scope="module")
def strict_person(strict: AuthServer) -> Person:
    return strict.person()


@pytest.fixture
def redis(store_url: str) -> Iterator[Redis]:
    with client_of(store_url) as client:
        yield client


def assert_invalid_grant(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant"), answer.text


def parsed(text: str) -> RefreshToken:
    token = SIGNER.parse(text)
    assert token is not None
    return token


def a_moment_later() -> None:
    """Past a grace of nothing: it still holds within the millisecond."""
    time.sleep(0.002)


def test_each_refresh_gives_a_new_access_token_and_a_new_refresh_token(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    third = auth_server.refresh(client.id, second["refresh_token"]).json()
    every = [tokens[kind] for tokens in (first, second, third) for kind in ("access_token", "refresh_token")]
    assert len(set(every)) == 6
    assert set(third) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert all(auth_server.is_active(tokens["access_token"]) for tokens in (first, second, third))


def test_an_old_token_that_comes_after_the_grace_kills_the_family_with_every_access_token(
    strict: AuthServer, strict_person: Person
) -> None:
    client = strict.register()
    first = strict.tokens(client.id, strict_person)
    second = strict.refresh(client.id, first["refresh_token"]).json()
    a_moment_later()
    assert_invalid_grant(strict.refresh(client.id, first["refresh_token"]))
    assert not strict.is_active(first["access_token"])
    assert not strict.is_active(second["access_token"])
    assert_invalid_grant(strict.refresh(client.id, second["refresh_token"]))
    assert len(strict.events("refresh_token.reuse_detected")) == 1


def test_a_token_older_than_the_last_rotation_has_no_grace(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    third = auth_server.refresh(client.id, second["refresh_token"]).json()
    assert_invalid_grant(auth_server.refresh(client.id, first["refresh_token"]))
    assert not auth_server.is_active(third["access_token"])


def test_within_the_grace_the_very_same_tokens_come_back_and_nothing_new_is_made(
    auth_server: AuthServer, person: Person, redis: Redis
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    answer = auth_server.refresh(client.id, first["refresh_token"]).json()
    family = f"ks:{{{parsed(first['refresh_token']).grant_id}}}"
    before = {key: redis.get(key) for key in redis.scan_iter(f"{family}*")}
    again = [auth_server.refresh(client.id, first["refresh_token"]).json() for _ in range(3)]
    for each in again:
        assert each["access_token"] == answer["access_token"]
        assert each["refresh_token"] == answer["refresh_token"]
        assert each["scope"] == answer["scope"]
        assert 0 < each["expires_in"] <= answer["expires_in"]
    assert {key: redis.get(key) for key in redis.scan_iter(f"{family}*")} == before
    assert auth_server.refresh(client.id, answer["refresh_token"]).status_code == 200


def test_within_the_grace_the_scope_is_still_that_of_the_first_answer(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person, scope="mcp:basic mcp:jobs")
    narrow = auth_server.refresh(client.id, first["refresh_token"], scope="mcp:jobs").json()
    again = auth_server.refresh(client.id, first["refresh_token"]).json()
    assert (again["access_token"], again["scope"]) == (narrow["access_token"], "mcp:jobs")


def test_the_grace_is_for_the_same_client_only(auth_server: AuthServer, person: Person) -> None:
    client, other = auth_server.register(), auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    assert_invalid_grant(auth_server.refresh(other.id, first["refresh_token"]))
    assert auth_server.is_active(second["access_token"])


def test_a_token_of_another_client_is_refused_and_its_family_lives_on(auth_server: AuthServer, person: Person) -> None:
    client, other = auth_server.register(), auth_server.register()
    first = auth_server.tokens(client.id, person)
    assert_invalid_grant(auth_server.refresh(other.id, first["refresh_token"]))
    assert auth_server.refresh(client.id, first["refresh_token"]).status_code == 200


def test_a_refresh_may_narrow_the_scope_of_its_access_token_but_not_of_the_grant(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person, scope="mcp:basic mcp:jobs")
    narrow = auth_server.refresh(client.id, first["refresh_token"], scope="mcp:jobs").json()
    assert narrow["scope"] == "mcp:jobs"
    assert auth_server.introspect(narrow["access_token"])["scope"] == "mcp:jobs"
    whole = auth_server.refresh(client.id, narrow["refresh_token"]).json()
    assert auth_server.introspect(whole["access_token"])["scope"] == "mcp:basic mcp:jobs"


@pytest.mark.parametrize("scope", ["mcp:jobs", "mcp:basic mcp:jobs", "unknown", "mcp:basic  mcp:basic", "openid"])
def test_a_refresh_for_a_wider_scope_is_refused_and_uses_nothing_up(
    auth_server: AuthServer, person: Person, scope: str
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person, scope="mcp:basic")
    answer = auth_server.refresh(client.id, first["refresh_token"], scope=scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    assert auth_server.refresh(client.id, first["refresh_token"]).status_code == 200


def test_a_refresh_for_another_resource_is_refused_and_uses_nothing_up(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    answer = auth_server.refresh(client.id, first["refresh_token"], resource=OTHER_RESOURCE)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")
    assert auth_server.refresh(client.id, first["refresh_token"], resource=f"{RESOURCE}/").status_code == 200


@pytest.mark.parametrize("token", ["junk", "kst_rt_" + "A" * 70, "A" * 5000])
def test_a_token_that_was_never_issued_is_an_invalid_grant(auth_server: AuthServer, token: str) -> None:
    assert_invalid_grant(auth_server.refresh(auth_server.register().id, token))


def test_a_forged_signature_is_an_invalid_grant_and_harms_no_family(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    genuine = parsed(first["refresh_token"])
    forger = RefreshTokens(MasterKey(b"x" * 32))
    assert_invalid_grant(auth_server.refresh(client.id, forger.first(genuine.grant_id).text))
    assert_invalid_grant(auth_server.refresh(client.id, forger.successor(genuine).text))
    assert auth_server.refresh(client.id, first["refresh_token"]).status_code == 200


def test_a_generation_ahead_of_the_store_is_taken_up_and_leaves_its_event(
    auth_server: AuthServer, person: Person, redis: Redis
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    key = f"ks:{{{parsed(first['refresh_token']).grant_id}}}"
    before = redis.get(key)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    third = auth_server.refresh(client.id, second["refresh_token"]).json()
    redis.set(key, str(before), keepttl=True)  # a failover that lost both rotations
    fourth = auth_server.refresh(client.id, third["refresh_token"])
    assert fourth.status_code == 200
    assert auth_server.is_active(fourth.json()["access_token"])
    (event,) = [
        each for each in auth_server.events("refresh_token.generation_lost") if each["actor"]["client_id"] == client.id
    ]
    assert event["outcome"] == "success"
    # From here on the family is what it was: the next follows, one from before the loss is reuse.
    assert auth_server.refresh(client.id, fourth.json()["refresh_token"]).status_code == 200
    assert_invalid_grant(auth_server.refresh(client.id, second["refresh_token"]))
    assert not auth_server.is_active(fourth.json()["access_token"])


def test_another_token_of_the_same_generation_is_reuse(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    fork = SIGNER.first(parsed(tokens["refresh_token"]).grant_id)
    assert_invalid_grant(auth_server.refresh(client.id, fork.text))
    assert not auth_server.is_active(tokens["access_token"])


def test_a_disabled_user_refreshes_nothing_even_when_enabled_again(auth_server: AuthServer, operator: Operator) -> None:
    person, client = auth_server.person(), auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    operator.done("users", "disable", person.username)
    assert not auth_server.is_active(tokens["access_token"])
    assert_invalid_grant(auth_server.refresh(client.id, tokens["refresh_token"]))
    operator.done("users", "enable", person.username)
    assert_invalid_grant(auth_server.refresh(client.id, tokens["refresh_token"]))


def test_a_user_who_is_disabled_in_the_store_alone_refreshes_nothing(auth_server: AuthServer, redis: Redis) -> None:
    person, client = auth_server.person(), auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    sub = auth_server.introspect(tokens["access_token"])["sub"]
    redis.hset(f"ks:user:{sub}", "disabled", "1")
    assert_invalid_grant(auth_server.refresh(client.id, tokens["refresh_token"]))


def test_a_resource_no_longer_served_is_an_invalid_target(
    auth_server: AuthServer, start_auth_server: StartAuthServer, person: Person
) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    other: dict[str, Any] = {"uri": OTHER_RESOURCE, "title": "x", "scopes": {"other:use": "x"}, "secret": "s" * 32}
    later = start_auth_server(resources={"other": other})
    answer = later.refresh(client.id, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_a_scope_no_longer_served_is_left_out(
    auth_server: AuthServer, start_auth_server: StartAuthServer, person: Person
) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person, scope="mcp:basic mcp:jobs")
    mcp: dict[str, Any] = {"uri": RESOURCE, "title": "x", "scopes": {"mcp:basic": "x"}, "secret": "s" * 32}
    later = start_auth_server(resources={"mcp": mcp})
    refreshed = later.refresh(client.id, tokens["refresh_token"]).json()
    assert refreshed["scope"] == "mcp:basic"
    wider = later.refresh(client.id, refreshed["refresh_token"], scope="mcp:jobs")
    assert (wider.status_code, wider.json()["error"]) == (400, "invalid_scope")


def test_a_client_that_gave_up_the_grant_type_may_not_refresh(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    document = {"client_id": client.id, "redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
    headers = {"Authorization": f"Bearer {client.registration_token}"}
    assert auth_server.http.put(client.registration_uri, json=document, headers=headers).status_code == 200
    answer = auth_server.refresh(client.id, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


def test_a_confidential_client_without_its_secret_refreshes_nothing(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert client.secret is not None
    auth = (client.id, client.secret)
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    data = {"grant_type": "authorization_code", "code": code, "code_verifier": pkce.verifier}
    tokens = auth_server.token(auth, **data).json()
    answer = auth_server.refresh(client.id, tokens["refresh_token"])
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    refreshed = auth_server.token(auth, grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    assert refreshed.status_code == 200


def test_access_and_refresh_tokens_expire_by_the_clock_of_the_store(
    start_auth_server: StartAuthServer, redis: Redis
) -> None:
    lifetimes = {"access_token_seconds": 4, "refresh_token_seconds": 4}
    server = start_auth_server(tokens=lifetimes, clock=lambda: 1.0)
    client = server.register()
    tokens = server.tokens(client.id)
    assert tokens["expires_in"] == 4
    answer = server.introspect(tokens["access_token"])
    assert abs(answer["iat"] - time.time()) < 5
    key = f"ks:{{{parsed(tokens['refresh_token']).grant_id}}}"
    deadline = time.monotonic() + 10
    while redis.exists(key) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not server.is_active(tokens["access_token"])
    assert_invalid_grant(server.refresh(client.id, tokens["refresh_token"]))


def test_the_store_holds_what_a_rotation_needs_and_no_token(
    auth_server: AuthServer, person: Person, redis: Redis
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    token = parsed(second["refresh_token"])
    stored = str(redis.get(f"ks:{{{token.grant_id}}}"))
    assert json.loads(stored)["refresh"]["generation"] == token.generation == 1
    for tokens in (first, second):
        assert tokens["refresh_token"] not in stored
        assert tokens["access_token"] not in stored


def test_a_resource_that_is_spelled_anew_in_the_settings_gets_tokens_under_its_new_spelling(
    start_auth_server: StartAuthServer,
) -> None:
    secret = {"secret": RESOURCE_SECRET}
    before = {"mcp": {"uri": "https://mcp.example.com/mcp", "title": "Tools", "scopes": SCOPES, **secret}}
    first = start_auth_server(resources=before)
    client = first.register()
    tokens = first.tokens(client.id, resource="https://mcp.example.com/mcp")
    after = {"mcp": {**before["mcp"], "uri": "https://mcp.example.com/mcp/"}}
    second = start_auth_server(resources=after)
    refreshed = second.refresh(client.id, tokens["refresh_token"])
    assert refreshed.status_code == 200, refreshed.text
    assert second.introspect(refreshed.json()["access_token"])["aud"] == "https://mcp.example.com/mcp/"
