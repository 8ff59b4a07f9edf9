"""JWT access tokens (RFC 9068) for the resources that ask for them; to the store they are tokens like all others."""

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from tests.auth_server import (
    OTHER_RESOURCE,
    OTHER_SECRET,
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

RESOURCES = {
    "mcp": {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET, "access_token": "jwt"},
    "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "secret": OTHER_SECRET},
}
MACHINE_SECRET = "machine-secret-" + "z" * 32
MACHINE = {"title": "Job", "resources": [RESOURCE], "scopes": ["mcp:jobs"], "secret": MACHINE_SECRET}


@pytest.fixture(scope="module")
def auth_server(store_url: str) -> Iterator[AuthServer]:
    with running_auth_server(store_url, resources=RESOURCES, clients={"job": MACHINE}) as server:
        yield server


@pytest.fixture(scope="module")
def person(auth_server: AuthServer) -> Person:
    return auth_server.person()


def verified(server: AuthServer, token: str) -> jwt.Token:
    """The token as somebody sees it who has only the issuer's published keys."""
    keys = KeySet.import_key_set(server.http.get(f"{server.issuer}/jwks").json())
    return jwt.decode(token, keys, algorithms=["ES256"])


def machine_token(server: AuthServer, **parameters: Any) -> dict[str, Any]:
    answer = server.token(("job", MACHINE_SECRET), grant_type="client_credentials", resource=RESOURCE, **parameters)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def test_a_code_gives_a_jwt_as_rfc_9068_has_it(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    answer = auth_server.tokens(client.id, person)
    token = verified(auth_server, answer["access_token"])
    assert set(token.header) == {"alg", "typ", "kid"}
    assert token.header["typ"] == "at+jwt"
    claims = token.claims
    assert set(claims) == {"iss", "aud", "exp", "iat", "jti", "sub", "client_id", "scope"}
    assert (claims["iss"], claims["aud"]) == (auth_server.issuer, RESOURCE)
    assert (claims["client_id"], claims["scope"]) == (client.id, "mcp:basic")
    assert claims["exp"] - claims["iat"] == answer["expires_in"] == 900
    assert abs(claims["iat"] - time.time()) < 5


def test_the_refresh_token_stays_opaque_and_gives_jwts_too(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    assert first["refresh_token"].startswith("kst_rt_")
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    old, new = (verified(auth_server, each["access_token"]).claims for each in (first, second))
    assert (old["sub"], old["scope"]) == (new["sub"], new["scope"])
    assert old["jti"] != new["jti"]


def test_a_refresh_that_is_repeated_answers_the_same_token_newly_signed(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register()
    refresh_token = auth_server.tokens(client.id, person, scope="mcp:basic mcp:jobs")["refresh_token"]
    first = auth_server.refresh(client.id, refresh_token, scope="mcp:basic").json()
    again = auth_server.refresh(client.id, refresh_token).json()
    assert again["refresh_token"] == first["refresh_token"]
    claims = [verified(auth_server, each["access_token"]).claims for each in (first, again)]
    assert claims[0] == claims[1]
    assert claims[0]["scope"] == "mcp:basic"


def test_a_machine_gets_a_jwt_with_itself_as_the_subject(auth_server: AuthServer) -> None:
    answer = machine_token(auth_server)
    claims = verified(auth_server, answer["access_token"]).claims
    assert claims["sub"] == claims["client_id"] == "job"
    assert claims["scope"] == "mcp:jobs"
    assert "refresh_token" not in answer


def test_another_resource_of_the_same_server_has_opaque_tokens(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    answer = auth_server.tokens(client.id, person, resource=OTHER_RESOURCE, scope="other:use")
    assert answer["access_token"].startswith("kst_at_")


def test_introspection_says_of_a_jwt_what_its_claims_say(auth_server: AuthServer, person: Person) -> None:
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    answer = auth_server.introspect(token)
    claims = verified(auth_server, token).claims
    assert answer["active"] is True
    assert {name: answer[name] for name in claims} == claims


def test_another_resource_learns_nothing_of_a_jwt(auth_server: AuthServer, person: Person) -> None:
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    assert auth_server.introspect(token, ("other", OTHER_SECRET)) == {"active": False}


def test_a_revoked_jwt_is_inactive_though_its_signature_holds(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    answer = auth_server.tokens(client.id, person)
    revoked = auth_server.http.post(
        f"{auth_server.issuer}/revoke", data={"token": answer["access_token"], "client_id": client.id}
    )
    assert revoked.status_code == 200
    assert not auth_server.is_active(answer["access_token"])
    assert verified(auth_server, answer["access_token"]).claims["aud"] == RESOURCE
    assert auth_server.refresh(client.id, answer["refresh_token"]).status_code == 200


def test_a_jwt_of_another_client_is_not_revoked(auth_server: AuthServer, person: Person) -> None:
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    data = {"token": token, "client_id": auth_server.register().id}
    assert auth_server.http.post(f"{auth_server.issuer}/revoke", data=data).status_code == 200
    assert auth_server.is_active(token)


def test_revoking_the_refresh_token_makes_its_jwts_inactive(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    answer = auth_server.tokens(client.id, person)
    data = {"token": answer["refresh_token"], "client_id": client.id}
    auth_server.http.post(f"{auth_server.issuer}/revoke", data=data)
    assert auth_server.introspect(answer["access_token"]) == {"active": False}


def test_a_jwt_that_was_changed_or_made_elsewhere_is_inactive(
    auth_server: AuthServer, start_auth_server: StartAuthServer, person: Person
) -> None:
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    head, body, signature = token.split(".")
    other = start_auth_server(resources=RESOURCES)
    for wrong in (f"{head}.{body}.{signature[::-1]}", f"{head}.{body}.", f"{head}.{body}", token[:-2], "a.b.c"):
        assert auth_server.introspect(wrong) == {"active": False}
    # The same keys, of the same store, but another issuer's name.
    assert other.introspect(token) == {"active": False}


def test_an_expired_jwt_is_inactive(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(resources=RESOURCES, clients={"job": MACHINE}, tokens={"access_token_seconds": 4})
    token = machine_token(server)["access_token"]
    assert server.is_active(token)
    time.sleep(5.1)
    assert not server.is_active(token)


def test_a_token_outlives_the_rotation_of_the_key_that_signed_it(
    store_url: str, start_auth_server: StartAuthServer
) -> None:
    ahead = 0.0
    server = start_auth_server(resources=RESOURCES, clients={"job": MACHINE}, clock=lambda: time.time() + ahead)
    old = machine_token(server)["access_token"]
    assert "signs now" in Operator(store_url).done("keys", "rotate", "--force").output
    ahead = 60.0
    new = machine_token(server)["access_token"]
    assert verified(server, old).header["kid"] != verified(server, new).header["kid"]
    assert server.is_active(old)
    assert server.is_active(new)


def test_a_key_that_is_overdue_is_looked_up_before_it_signs(store_url: str, start_auth_server: StartAuthServer) -> None:
    ahead = 0.0
    server = start_auth_server(resources=RESOURCES, clients={"job": MACHINE}, clock=lambda: time.time() + ahead)
    old = verified(server, machine_token(server)["access_token"]).header["kid"]
    with client_of(store_url) as redis:
        keys = json.loads(str(redis.get("ks:signing-keys")))["keys"]
        for key in keys:
            for name in {"created", "since"} & set(key):
                key[name] -= 31 * 86400
        redis.set("ks:signing-keys", json.dumps({"keys": keys}))
    ahead = 60.0
    # It is overdue and nobody has rotated: it signs on, and the alert says so.
    assert verified(server, machine_token(server)["access_token"]).header["kid"] == old
    assert "signs now" in Operator(store_url).done("keys", "rotate").output
    ahead = 65.0
    assert verified(server, machine_token(server)["access_token"]).header["kid"] != old


def test_nothing_is_signed_where_the_request_fails(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    answers = [auth_server.redeem(client.id, code, pkce) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert "access_token" not in answers[1].json()
    assert not auth_server.is_active(answers[0].json()["access_token"])


def test_no_jwt_is_in_the_store_or_in_the_audit_log(auth_server: AuthServer, store_url: str) -> None:
    token = machine_token(auth_server)["access_token"]
    with client_of(store_url) as redis:
        held = "".join(str(redis.get(key)) for key in redis.scan_iter("ks:{*}*"))
    for part in token.split(".")[1:]:
        assert part not in held
        assert part not in auth_server.audit_lines.getvalue()
