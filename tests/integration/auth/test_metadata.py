"""Authorization server metadata (RFC 8414, OpenID Connect Discovery) and the key set (RFC 7517)."""

import json
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.auth_server import OTHER_RESOURCE, RESOURCE, AuthServer, running_auth_server
from tests.conftest import StartAuthServer
from tests.stores import client_of

ORIGIN = "https://app.example.com"


@pytest.fixture(scope="module")
def tenant(store_url: str) -> Iterator[AuthServer]:
    """A server whose issuer has a path."""
    with running_auth_server(store_url, path="/tenant") as server:
        yield server


def root(server: AuthServer) -> str:
    parts = urlsplit(server.issuer)
    return f"{parts.scheme}://{parts.netloc}"


@pytest.mark.parametrize("document", ["oauth-authorization-server", "openid-configuration"])
def test_metadata_is_at_the_well_known_place_and_its_issuer_is_the_settings_byte_for_byte(
    auth_server: AuthServer, document: str
) -> None:
    answer = auth_server.http.get(f"{auth_server.issuer}/.well-known/{document}")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["issuer"] == auth_server.issuer


@pytest.mark.parametrize(
    "place",
    [
        "/.well-known/oauth-authorization-server/tenant",
        "/.well-known/openid-configuration/tenant",
        "/tenant/.well-known/openid-configuration",
        "/tenant/.well-known/oauth-authorization-server",
    ],
)
def test_an_issuer_with_a_path_has_its_metadata_at_each_form_a_client_tries(tenant: AuthServer, place: str) -> None:
    answer = tenant.http.get(root(tenant) + place)
    assert answer.status_code == 200
    assert answer.json()["issuer"] == tenant.issuer


@pytest.mark.parametrize("document", ["oauth-authorization-server", "openid-configuration"])
def test_an_issuer_with_a_path_has_no_metadata_for_the_issuer_without(tenant: AuthServer, document: str) -> None:
    assert tenant.http.get(f"{root(tenant)}/.well-known/{document}").status_code == 404


def test_every_endpoint_of_an_issuer_with_a_path_is_below_it_and_works(tenant: AuthServer) -> None:
    document = tenant.http.get(f"{root(tenant)}/.well-known/oauth-authorization-server/tenant").json()
    endpoints = {name: url for name, url in document.items() if name.endswith("_endpoint")}
    assert set(endpoints) == {
        "authorization_endpoint",
        "token_endpoint",
        "introspection_endpoint",
        "revocation_endpoint",
        "registration_endpoint",
    }
    assert all(url.startswith(f"{tenant.issuer}/") for url in endpoints.values())
    client = tenant.register()
    person = tenant.person()
    tokens = tenant.tokens(client.id, person)
    assert tenant.introspect(tokens["access_token"])["iss"] == tenant.issuer
    assert client.registration_uri.startswith(f"{tenant.issuer}/register/")
    assert tenant.http.get(document["jwks_uri"]).status_code == 200
    assert "Test client" in person.get(f"{tenant.issuer}/account").text


def test_metadata_says_what_the_server_does_and_nothing_else(auth_server: AuthServer) -> None:
    issuer = auth_server.issuer
    document = auth_server.http.get(f"{issuer}/.well-known/oauth-authorization-server").json()
    algorithms = ["ES256", "ES384", "PS256", "RS256", "Ed25519"]
    methods = ["none", "client_secret_basic", "client_secret_post", "private_key_jwt"]
    assert document == {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "introspection_endpoint": f"{issuer}/introspect",
        "revocation_endpoint": f"{issuer}/revoke",
        "registration_endpoint": f"{issuer}/register",
        "jwks_uri": f"{issuer}/jwks",
        "scopes_supported": ["mcp:basic", "mcp:jobs", "other:use"],
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": ["authorization_code", "refresh_token", "client_credentials"],
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": methods,
        "token_endpoint_auth_signing_alg_values_supported": algorithms,
        "revocation_endpoint_auth_methods_supported": methods,
        "revocation_endpoint_auth_signing_alg_values_supported": algorithms,
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "client_id_metadata_document_supported": True,
        "authorization_response_iss_parameter_supported": True,
        "protected_resources": [RESOURCE, OTHER_RESOURCE],
    }


def test_the_openid_document_has_what_discovery_requires_and_the_challenge_methods(auth_server: AuthServer) -> None:
    document = auth_server.http.get(f"{auth_server.issuer}/.well-known/openid-configuration").json()
    assert document["subject_types_supported"] == ["public"]
    assert document["id_token_signing_alg_values_supported"] == ["ES256"]
    assert document["code_challenge_methods_supported"] == ["S256"]


def test_registration_that_is_turned_off_is_neither_announced_nor_answered(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(registration={"enabled": False})
    document = server.http.get(f"{server.issuer}/.well-known/oauth-authorization-server").json()
    assert "registration_endpoint" not in document
    assert server.http.post(f"{server.issuer}/register", json={}).status_code == 404


def test_metadata_documents_that_are_turned_off_are_announced_as_unsupported(
    start_auth_server: StartAuthServer,
) -> None:
    server = start_auth_server(metadata_documents={"enabled": False})
    document = server.http.get(f"{server.issuer}/.well-known/oauth-authorization-server").json()
    assert document["client_id_metadata_document_supported"] is False


@pytest.mark.parametrize(
    "header",
    [
        {"Host": "evil.example"},
        {"X-Forwarded-Host": "evil.example"},
        {"X-Forwarded-Proto": "https"},
        {"X-Forwarded-For": "192.0.2.1"},
        {"Forwarded": "host=evil.example;proto=https"},
        {"X-Forwarded-Prefix": "/evil"},
        {"X-Original-URL": "/evil"},
    ],
)
def test_no_header_of_a_request_changes_the_issuer_or_a_link(auth_server: AuthServer, header: dict[str, str]) -> None:
    url = f"{auth_server.issuer}/.well-known/oauth-authorization-server"
    assert auth_server.http.get(url, headers=header).content == auth_server.http.get(url).content
    client = auth_server.http.post(
        f"{auth_server.issuer}/register", headers=header, json={"redirect_uris": ["https://app.example.com/cb"]}
    ).json()
    assert client["registration_client_uri"].startswith(f"{auth_server.issuer}/register/")


@pytest.mark.parametrize(
    "path", ["/authorize/", "/login/", "/token/", "/account/", "/.well-known/openid-configuration/"]
)
def test_no_address_leads_to_another_by_the_host_that_a_request_names(auth_server: AuthServer, path: str) -> None:
    answer = auth_server.http.get(f"{auth_server.issuer}{path}", headers={"Host": "evil.example"})
    assert answer.status_code == 404
    assert "location" not in answer.headers


@pytest.mark.parametrize(
    "path", ["/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/jwks"]
)
def test_any_origin_may_read_metadata_and_keys(auth_server: AuthServer, path: str) -> None:
    answer = auth_server.http.get(auth_server.issuer + path, headers={"Origin": ORIGIN})
    assert answer.headers["access-control-allow-origin"] == "*"
    assert answer.headers["cache-control"] == "public, max-age=300"


@pytest.mark.parametrize(
    ("path", "method"),
    [
        ("/.well-known/oauth-authorization-server", "GET"),
        ("/token", "POST"),
        ("/revoke", "POST"),
        ("/register", "POST"),
        ("/register/some-client", "PUT"),
        ("/register/some-client", "DELETE"),
        ("/jwks", "GET"),
    ],
)
def test_a_script_of_any_origin_may_ask_before_it_calls(auth_server: AuthServer, path: str, method: str) -> None:
    headers = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type,mcp-protocol-version",
    }
    answer = auth_server.http.options(auth_server.issuer + path, headers=headers)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"
    assert method in answer.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("path", ["/token", "/revoke", "/register"])
def test_a_script_may_read_why_its_call_was_refused(auth_server: AuthServer, path: str) -> None:
    answer = auth_server.http.post(auth_server.issuer + path, headers={"Origin": ORIGIN})
    assert answer.status_code == 400
    assert answer.headers["access-control-allow-origin"] == "*"
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"]


@pytest.mark.parametrize("path", ["/authorize", "/login", "/consent", "/account", "/introspect"])
def test_no_script_may_call_what_people_or_resources_use(auth_server: AuthServer, path: str) -> None:
    headers = {"Origin": ORIGIN, "Access-Control-Request-Method": "GET"}
    for answer in (
        auth_server.http.get(auth_server.issuer + path, headers=headers),
        auth_server.http.options(auth_server.issuer + path, headers=headers),
    ):
        assert not [name for name in answer.headers if name.startswith("access-control-")]


def test_the_key_set_has_the_key_that_signs_and_the_next_one_as_public_es256_keys(auth_server: AuthServer) -> None:
    keys = auth_server.http.get(f"{auth_server.issuer}/jwks").json()["keys"]
    assert len({key["kid"] for key in keys}) == 2
    for key in keys:
        assert set(key) == {"kty", "crv", "x", "y", "kid", "use", "alg"}
        assert (key["kty"], key["crv"], key["use"], key["alg"]) == ("EC", "P-256", "sig", "ES256")


def test_the_key_set_is_the_same_after_a_restart_and_in_every_process(
    auth_server: AuthServer, start_auth_server: StartAuthServer
) -> None:
    restarted = start_auth_server()
    first = auth_server.http.get(f"{auth_server.issuer}/jwks").json()
    assert restarted.http.get(f"{restarted.issuer}/jwks").json() == first
    assert restarted.events("key.created") == []


def test_private_keys_are_encrypted_in_the_store(auth_server: AuthServer, store_url: str) -> None:
    assert auth_server.http.get(f"{auth_server.issuer}/jwks").status_code == 200
    with client_of(store_url) as redis:
        stored = json.loads(redis.get("ks:signing-keys"))["keys"]
    assert [set(key) for key in stored] == [
        {"kid", "state", "created", "since", "private"},
        {"kid", "state", "created", "from_the_start", "private"},
    ]
    assert not any(key["private"].startswith("{") for key in stored)


def test_the_root_leads_people_to_their_account(auth_server: AuthServer) -> None:
    answer = auth_server.http.get(f"{auth_server.issuer}/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/account")


def test_the_server_is_alive_and_ready(auth_server: AuthServer) -> None:
    assert auth_server.http.get(f"{auth_server.issuer}/healthz").json() == {"status": "ok"}
    assert auth_server.http.get(f"{auth_server.issuer}/readyz").json() == {"status": "ok", "problems": {}}
