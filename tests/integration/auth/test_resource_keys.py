"""A resource server outside of the cluster proves itself at /introspect by a key of its own (RFC 7523 section 2.2)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keystile_mcp.credentials import PrivateKey
from keystile_mcp.key_files import RenewedFile, SigningKey
from tests.auth_server import OTHER_RESOURCE, RESOURCE, SCOPES, AuthServer, running_auth_server
from tests.client_key import ClientKey, key_set
from tests.document_host import DocumentHost

KEYS: list[ECKey | RSAKey | OKPKey] = [
    ECKey.generate_key("P-256", auto_kid=True),
    ECKey.generate_key("P-384", auto_kid=True),
    RSAKey.generate_key(2048, auto_kid=True),
    OKPKey.generate_key("Ed25519", auto_kid=True),
]
OTHERS = ClientKey.generate()
OTHERS_KEYS = "jwks.json"


@pytest.fixture(scope="module")
def server(store_url: str, document_host: DocumentHost) -> Iterator[AuthServer]:
    uri = document_host.serve(document_host.url(OTHERS_KEYS), key_set(OTHERS))
    jwks = {"keys": [key.as_dict(private=False) for key in KEYS]}
    resources: dict[str, dict[str, Any]] = {
        "mcp": {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "jwks": jwks},
        "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "jwks_uri": uri},
    }
    for number, key in enumerate(KEYS):
        only = {"keys": [key.as_dict(private=False)]}
        resources[f"only-{number}"] = {**resources["mcp"], "uri": f"{OTHER_RESOURCE}/{number}", "jwks": only}
    documents = {"allow_loopback": True, "ca_file": str(document_host.ca_file)}
    with running_auth_server(store_url, resources=resources, metadata_documents=documents) as running:
        yield running


def introspect(server: AuthServer, **parameters: Any) -> httpx2.Response:
    return server.http.post(f"{server.issuer}/introspect", data=parameters)


@pytest.mark.parametrize("number", range(len(KEYS)))
def test_a_key_from_a_pem_file_has_no_id_and_proves_its_resource_all_the_same(
    server: AuthServer, tmp_path: Path, number: int
) -> None:
    path = tmp_path / "key.pem"
    path.write_bytes(KEYS[number].as_pem(private=True))
    proof = PrivateKey(f"only-{number}", SigningKey(RenewedFile("key", path)), server.issuer)
    assert introspect(server, token="x", **proof.form()).json() == {"active": False}


@pytest.mark.parametrize("key", KEYS, ids=lambda key: f"{key.key_type} {getattr(key, 'curve_name', '')}")
def test_a_resource_introspects_with_assertions_signed_by_its_private_key(
    server: AuthServer, tmp_path: Path, key: ECKey | RSAKey | OKPKey
) -> None:
    path = tmp_path / "key"
    path.write_text(json.dumps(key.as_dict(private=True)))
    proof = PrivateKey("mcp", SigningKey(RenewedFile("key", path)), server.issuer)
    access = server.tokens(server.register().id)["access_token"]
    for _ in range(2):
        answer = introspect(server, token=access, **proof.form())
        assert (answer.status_code, answer.json().get("active")) == (200, True)


def test_a_resources_keys_may_be_served_by_itself(server: AuthServer) -> None:
    answer = introspect(server, token="x", client_id="other", **OTHERS.credentials("other", server.issuer))
    assert answer.json() == {"active": False}


def test_an_assertion_of_a_resource_is_used_once(server: AuthServer) -> None:
    proof = OTHERS.credentials("other", server.issuer)
    assert introspect(server, token="x", **proof).status_code == 200
    assert introspect(server, token="x", **proof).status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": OTHER_RESOURCE},
        {"iss": "mcp"},
        {"sub": "mcp"},
        {"exp": 1},
        {"jti": None},
    ],
)
def test_an_assertion_for_another_server_resource_or_time_is_refused(
    server: AuthServer, claims: dict[str, Any]
) -> None:
    answer = introspect(server, token="x", client_id="other", **OTHERS.credentials("other", server.issuer, **claims))
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_one_resources_key_does_not_prove_another(server: AuthServer) -> None:
    answer = introspect(server, token="x", client_id="mcp", **OTHERS.credentials("mcp", server.issuer))
    assert answer.status_code == 401


@pytest.mark.parametrize("name", ["other", "nobody"])
def test_a_resource_that_signs_may_not_come_with_less(server: AuthServer, name: str) -> None:
    for less in ({}, {"client_secret": ""}, {"client_secret": "x" * 40}):
        assert introspect(server, token="x", client_id=name, **less).status_code == 401


def test_a_resources_assertion_is_worth_nothing_at_the_token_endpoint(server: AuthServer) -> None:
    data = {"grant_type": "client_credentials", "resource": OTHER_RESOURCE}
    answer = server.http.post(
        f"{server.issuer}/token", data={**data, "client_id": "other", **OTHERS.credentials("other", server.issuer)}
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
