"""Dynamic client registration and its management (RFC 7591, RFC 7592)."""

import re
from typing import Any

import httpx2
import pytest

from tests.auth_server import CALLBACK, RESOURCE, AuthServer, Pkce, RegisteredClient
from tests.client_key import ClientKey, key_set
from tests.conftest import StartAuthServer
from tests.person import Person
from tests.stores import client_of

WEB = "https://app.example.com/cb"


def register(server: AuthServer, **metadata: Any) -> httpx2.Response:
    return server.http.post(f"{server.issuer}/register", json=metadata)


def manage(server: AuthServer, client: RegisteredClient, method: str, **metadata: Any) -> httpx2.Response:
    headers = {"Authorization": f"Bearer {client.registration_token}"}
    return server.http.request(method, client.registration_uri, headers=headers, json=metadata or None)


def test_a_registration_answers_every_value_with_the_defaults_that_stand_in(auth_server: AuthServer) -> None:
    answer = register(auth_server, redirect_uris=[WEB])
    assert answer.status_code == 201
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["pragma"] == "no-cache"
    document = answer.json()
    assert re.fullmatch(r"kst_client_[A-Za-z0-9_-]{22}", document.pop("client_id"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", document.pop("client_secret"))
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", document.pop("registration_access_token"))
    assert document.pop("registration_client_uri").startswith(f"{auth_server.issuer}/register/kst_client_")
    assert document.pop("client_id_issued_at") > 1_700_000_000
    assert document == {
        "client_secret_expires_at": 0,
        "client_name": "app.example.com",
        "redirect_uris": [WEB],
        "grant_types": ["authorization_code"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
    }


def test_a_value_that_the_server_replaced_is_answered_as_it_now_is(auth_server: AuthServer) -> None:
    document = register(
        auth_server,
        redirect_uris=[WEB, WEB],
        grant_types=["authorization_code", "client_credentials", "refresh_token", "implicit"],
        response_types=["code", "token"],
        token_endpoint_auth_method="none",
        scope="everything",
        client_uri="https://app.example.com/",
    ).json()
    assert document["redirect_uris"] == [WEB]
    assert document["grant_types"] == ["authorization_code", "refresh_token"]
    assert document["response_types"] == ["code"]
    assert document["client_uri"] == "https://app.example.com/"
    assert "scope" not in document
    assert "client_secret" not in document
    assert "client_secret_expires_at" not in document


@pytest.mark.parametrize("method", ["client_secret_basic", "client_secret_post"])
def test_a_client_with_a_secret_gets_one_of_256_random_bits(auth_server: AuthServer, method: str) -> None:
    one, other = (register(auth_server, redirect_uris=[WEB], token_endpoint_auth_method=method) for _ in range(2))
    assert one.json()["token_endpoint_auth_method"] == method
    assert len(one.json()["client_secret"]) == 43
    assert one.json()["client_secret"] != other.json()["client_secret"]


def test_a_client_with_keys_gets_no_secret_and_its_keys_are_answered(auth_server: AuthServer) -> None:
    keys = key_set(ClientKey.generate())
    document = register(
        auth_server, redirect_uris=[WEB], token_endpoint_auth_method="private_key_jwt", jwks=keys
    ).json()
    assert document["jwks"] == keys
    assert "client_secret" not in document


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "data:text/html,x",
        "https://app.example.com/cb#fragment",
        "https://*.example.com/cb",
        "http://app.example.com/cb",
        "https://user@app.example.com/cb",
        "cb",
        "",
    ],
)
def test_a_redirect_uri_that_may_not_be_is_an_invalid_redirect_uri(auth_server: AuthServer, uri: str) -> None:
    answer = register(auth_server, redirect_uris=[WEB, uri])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_redirect_uri")


@pytest.mark.parametrize(
    "metadata",
    [
        {"token_endpoint_auth_method": "client_secret_jwt"},
        {"token_endpoint_auth_method": "private_key_jwt"},
        {"grant_types": ["client_credentials"]},
        {"response_types": ["token"]},
        {"client_name": "turned\u202eround"},
        {"jwks_uri": "http://app.example.com/jwks"},
    ],
)
def test_metadata_that_may_not_be_is_invalid_client_metadata(auth_server: AuthServer, metadata: dict[str, Any]) -> None:
    answer = register(auth_server, redirect_uris=[WEB], **metadata)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")


def test_a_body_that_is_not_json_is_invalid_client_metadata(auth_server: AuthServer) -> None:
    answer = auth_server.http.post(f"{auth_server.issuer}/register", data={"redirect_uris": WEB})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")


def test_a_private_use_scheme_is_for_those_that_the_settings_name(
    auth_server: AuthServer, start_auth_server: StartAuthServer
) -> None:
    assert register(auth_server, redirect_uris=["cursor://oauth/cb"]).status_code == 201
    assert register(auth_server, redirect_uris=["com.example.app:/cb"]).status_code == 400
    other = start_auth_server(
        registration={"private_use_schemes": ["com.example.app"], "per_hour_and_address": 100_000}
    )
    assert register(other, redirect_uris=["com.example.app:/cb"]).status_code == 201
    assert register(other, redirect_uris=["cursor://oauth/cb"]).status_code == 400


def test_a_client_reads_its_own_registration(auth_server: AuthServer) -> None:
    client = auth_server.register(client_name="Reader", token_endpoint_auth_method="client_secret_basic")
    answer = manage(auth_server, client, "GET")
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    assert document["client_id"] == client.id
    assert document["client_name"] == "Reader"
    assert document["registration_access_token"] == client.registration_token
    assert document["registration_client_uri"] == client.registration_uri


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("token", ["", "wrong", "another's"])
def test_without_its_own_token_a_registration_cannot_be_touched(
    auth_server: AuthServer, method: str, token: str
) -> None:
    client = auth_server.register()
    presented = auth_server.register().registration_token if token == "another's" else token
    headers = {"Authorization": f"Bearer {presented}"} if presented else {}
    answer = auth_server.http.request(method, client.registration_uri, headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_token")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert manage(auth_server, client, "GET").status_code == 200


def test_an_unknown_client_is_answered_as_a_wrong_token_is(auth_server: AuthServer) -> None:
    client = auth_server.register()
    headers = {"Authorization": f"Bearer {client.registration_token}"}
    unknown = auth_server.http.get(f"{auth_server.issuer}/register/kst_client_unknown", headers=headers)
    wrong = auth_server.http.get(client.registration_uri, headers={"Authorization": "Bearer wrong"})
    assert (unknown.status_code, unknown.json()) == (wrong.status_code, wrong.json())


def test_an_update_replaces_all_metadata(auth_server: AuthServer) -> None:
    client = auth_server.register(client_uri="https://app.example.com/")
    document = {"client_id": client.id, "redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
    updated = manage(auth_server, client, "PUT", **document)
    assert updated.status_code == 200
    for body in (updated.json(), manage(auth_server, client, "GET").json()):
        assert body["redirect_uris"] == [WEB]
        assert body["client_name"] == "app.example.com"
        assert body["grant_types"] == ["authorization_code"]
        assert "client_uri" not in body
        assert body["registration_access_token"] == client.registration_token


def test_an_update_keeps_the_secret(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert client.secret is not None
    document = {"client_id": client.id, "redirect_uris": [WEB], "token_endpoint_auth_method": "client_secret_post"}
    assert "client_secret" not in manage(auth_server, client, "PUT", **document).json()
    answer = auth_server.token((client.id, client.secret), grant_type="authorization_code", code="junk")
    assert answer.json()["error"] == "invalid_grant"


def test_an_update_may_name_the_secret_it_has_but_never_choose_another(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    document = {"client_id": client.id, "redirect_uris": [WEB]}
    assert manage(auth_server, client, "PUT", **document, client_secret=client.secret).status_code == 200
    for chosen in ("chosen", "", 7):
        answer = manage(auth_server, client, "PUT", **document, client_secret=chosen)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")


def test_an_update_to_a_method_with_a_secret_gives_one(auth_server: AuthServer) -> None:
    client = auth_server.register()
    document = {"client_id": client.id, "redirect_uris": [WEB], "token_endpoint_auth_method": "client_secret_basic"}
    secret = manage(auth_server, client, "PUT", **document).json()["client_secret"]
    answer = auth_server.token((client.id, secret), grant_type="authorization_code", code="junk")
    assert answer.json()["error"] == "invalid_grant"


def test_an_update_to_a_public_client_forgets_the_secret(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert client.secret is not None
    document = {"client_id": client.id, "redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
    assert manage(auth_server, client, "PUT", **document).status_code == 200
    answer = auth_server.token((client.id, client.secret), grant_type="authorization_code", code="junk")
    assert answer.status_code == 401


@pytest.mark.parametrize("client_id", [None, "kst_client_another", 7])
def test_an_update_must_name_the_clients_own_id(auth_server: AuthServer, client_id: Any) -> None:
    client = auth_server.register()
    answer = manage(auth_server, client, "PUT", client_id=client_id, redirect_uris=[WEB])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_client_metadata")
    assert manage(auth_server, client, "GET").json()["redirect_uris"] == [CALLBACK]


def test_an_update_is_checked_as_a_registration_is(auth_server: AuthServer) -> None:
    client = auth_server.register()
    answer = manage(auth_server, client, "PUT", client_id=client.id, redirect_uris=["javascript:alert(1)"])
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_redirect_uri")


def test_a_redirect_uri_that_was_taken_out_is_no_longer_sent_to(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    auth_server.tokens(client.id, person)
    document = {"client_id": client.id, "redirect_uris": [WEB], "token_endpoint_auth_method": "none"}
    manage(auth_server, client, "PUT", **document)
    assert person.get(auth_server.authorization_url(client.id, Pkce())).status_code == 400


def test_deleting_a_registration_ends_its_grants_and_its_token(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    answer = manage(auth_server, client, "DELETE")
    assert (answer.status_code, answer.content) == (204, b"")
    assert answer.headers["cache-control"] == "no-store"
    assert not auth_server.is_active(tokens["access_token"])
    assert auth_server.refresh(client.id, tokens["refresh_token"]).status_code == 401
    assert manage(auth_server, client, "GET").status_code == 401
    (event,) = [each for each in auth_server.events("client.deleted") if each["actor"]["client_id"] == client.id]
    assert event["target"] == {"grants": "1"}


def test_a_deleted_client_leaves_the_tokens_of_others_alone(auth_server: AuthServer, person: Person) -> None:
    client, other = auth_server.register(), auth_server.register()
    tokens = auth_server.tokens(other.id, person)
    manage(auth_server, client, "DELETE")
    assert auth_server.introspect(tokens["access_token"])["aud"] == RESOURCE


def test_beyond_the_quota_of_an_address_registration_answers_429_with_retry_after(
    start_auth_server: StartAuthServer, store_url: str
) -> None:
    with client_of(store_url) as redis:
        for key in redis.scan_iter("ks:limit:registration:*"):
            redis.delete(key)
    server = start_auth_server(registration={"per_hour_and_address": 2})
    # A refused one counts too: trying costs as much.
    assert [register(server, redirect_uris=uris).status_code for uris in ([WEB], [], [WEB])] == [201, 400, 429]
    answer = register(server, redirect_uris=[WEB])
    assert 3500 < int(answer.headers["retry-after"]) <= 3600
    assert "try again" in answer.json()["error_description"]
    assert server.metrics.registry.get_sample_value("keystile_rate_limited_total", {"endpoint": "registration"}) == 2
    refused = {"source": "registration", "outcome": "limited"}
    assert server.metrics.registry.get_sample_value("keystile_client_registrations_total", refused) == 2


def test_registration_that_is_turned_off_leaves_no_endpoint(
    auth_server: AuthServer, start_auth_server: StartAuthServer
) -> None:
    client = auth_server.register()
    server = start_auth_server(registration={"enabled": False})
    headers = {"Authorization": f"Bearer {client.registration_token}"}
    assert server.http.get(f"{server.issuer}/register/{client.id}", headers=headers).status_code == 404
    # Those who registered before go on.
    assert server.tokens(client.id)["token_type"] == "Bearer"
