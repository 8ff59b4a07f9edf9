"""A resource proves itself by its pod's service-account token (RFC 7523, Kubernetes token projection)."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from joserfc import jws
from joserfc.jwk import OctKey, RSAKey

from tests.auth_server import OTHER_RESOURCE, OTHER_SECRET, RESOURCE, SCOPES, AuthServer, running_auth_server
from tests.clock import Clock
from tests.cluster import Cluster, running_cluster

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    with running_cluster(tmp_path) as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(store_url: str, cluster: Cluster, clock: Clock) -> Iterator[AuthServer]:
    resources = {
        "mcp": {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "service_account": "tools/mcp"},
        "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "secret": OTHER_SECRET},
    }
    kubernetes = {"url": cluster.url, "token_file": str(cluster.token_file)}
    clients = {
        "nightly": {
            "title": "Nightly job",
            "resources": [RESOURCE],
            "scopes": ["mcp:basic"],
            "service_account": "jobs/nightly",
        }
    }
    settings: dict[str, Any] = {"resources": resources, "kubernetes": kubernetes, "clients": clients}
    with running_auth_server(store_url, clock=clock, **settings) as running:
        yield running


def introspect(server: AuthServer, assertion: str, token: str = "x", **parameters: str) -> httpx2.Response:
    data = {"token": token, "client_id": "mcp", "client_assertion_type": JWT_BEARER, "client_assertion": assertion}
    return server.http.post(f"{server.issuer}/introspect", data={**data, **parameters})


def test_a_pods_projected_token_lets_its_resource_introspect(server: AuthServer, cluster: Cluster) -> None:
    access = server.tokens(server.register().id)["access_token"]
    answer = introspect(server, cluster.token(server.issuer), access)
    assert answer.status_code == 200
    assert answer.json()["active"] is True


def test_a_token_is_checked_once_and_the_clusters_documents_are_fetched_once(
    server: AuthServer, cluster: Cluster
) -> None:
    assertion = cluster.token(server.issuer)
    for _ in range(5):
        assert introspect(server, assertion).status_code == 200
    assert introspect(server, cluster.token(server.issuer, jti="another")).status_code == 200
    assert len(cluster.requests) == 2


@pytest.mark.parametrize(
    "claims",
    [
        {"service_account": "tools/other"},
        {"service_account": "elsewhere/mcp"},
        {"aud": ["https://kubernetes.default.svc"]},
        {"aud": None},
        {"exp": 1},
        {"exp": None},
        {"nbf": 9_999_999_999},
        {"iss": "https://another.cluster"},
        {"sub": None},
    ],
)
def test_a_token_of_another_account_audience_time_or_cluster_is_refused(
    server: AuthServer, cluster: Cluster, claims: dict[str, Any]
) -> None:
    account = claims.pop("service_account", "tools/mcp")
    answer = introspect(server, cluster.token(server.issuer, account, **claims))
    assert answer.status_code == 401
    assert answer.json()["error"] == "invalid_client"


def test_a_token_signed_by_anybody_else_is_refused(server: AuthServer, cluster: Cluster) -> None:
    real = cluster.token(server.issuer)
    payload = json.dumps(json.loads(jws.extract_compact(real.encode()).payload))
    stranger = RSAKey.generate_key(2048)
    forged = [
        jws.serialize_compact({"alg": "RS256", "kid": cluster.key.kid}, payload, stranger),
        jws.serialize_compact({"alg": "HS256", "kid": cluster.key.kid}, payload, OctKey.generate_key(256)),
        ".".join([*real.split(".")[:2], ""]),
        real[:-4] + "AAAA",
        "a.b.c",
        "x" * 9000,
    ]
    for assertion in forged:
        assert introspect(server, assertion).status_code == 401


def test_a_resource_with_a_service_account_has_no_secret_that_works(server: AuthServer) -> None:
    for secret in ("", "None", "x" * 40):
        answer = server.http.post(f"{server.issuer}/introspect", data={"token": "x"}, auth=("mcp", secret))
        assert answer.status_code == 401


def test_a_resource_with_a_secret_is_not_proved_by_a_service_account(server: AuthServer, cluster: Cluster) -> None:
    assert introspect(server, cluster.token(server.issuer), client_id="other").status_code == 401


def test_a_cluster_that_changes_its_keys_is_asked_again_but_not_for_every_forgery(
    server: AuthServer, cluster: Cluster, clock: Clock
) -> None:
    assert introspect(server, cluster.token(server.issuer)).status_code == 200
    cluster.rotate_key()
    # Asked a moment ago: for a while the new key is not looked for.
    for _ in range(5):
        assert introspect(server, cluster.token(server.issuer)).status_code == 401
    assert len(cluster.requests) == 2
    clock.ahead += 11
    assert introspect(server, cluster.token(server.issuer)).status_code == 200
    assert len(cluster.requests) == 4


def test_an_api_server_that_is_away_is_503_until_keys_are_had_and_no_trouble_after(
    server: AuthServer, cluster: Cluster, clock: Clock
) -> None:
    cluster.is_down = True
    answer = introspect(server, cluster.token(server.issuer))
    assert answer.status_code == 503
    assert "Retry-After" in answer.headers
    cluster.is_down = False
    assert introspect(server, cluster.token(server.issuer)).status_code == 200
    cluster.is_down = True
    clock.ahead += 301
    assert introspect(server, cluster.token(server.issuer, jti="new")).status_code == 200


def test_a_remembered_token_ends_when_it_expires(server: AuthServer, cluster: Cluster, clock: Clock) -> None:
    assertion = cluster.token(server.issuer)
    assert introspect(server, assertion).status_code == 200
    clock.ahead += 3600 + 31
    assert introspect(server, assertion).status_code == 401


def job(server: AuthServer, assertion: str, **parameters: Any) -> httpx2.Response:
    proof: dict[str, Any] = {"client_id": "nightly", "client_assertion_type": JWT_BEARER, "client_assertion": assertion}
    return server.token(grant_type="client_credentials", resource=RESOURCE, **proof, **parameters)


def test_a_client_of_the_settings_gets_tokens_for_itself_by_its_service_account(
    server: AuthServer, cluster: Cluster
) -> None:
    answer = job(server, cluster.token(server.issuer, "jobs/nightly"))
    assert answer.status_code == 200, answer.text
    assert answer.json()["scope"] == "mcp:basic"
    seen = introspect(server, cluster.token(server.issuer), answer.json()["access_token"]).json()
    assert seen["sub"] == seen["client_id"] == "nightly"


def test_a_client_of_the_settings_gets_no_more_than_they_say_and_only_by_its_own_account(
    server: AuthServer, cluster: Cluster
) -> None:
    own = cluster.token(server.issuer, "jobs/nightly")
    assert job(server, own, scope="mcp:jobs").json()["error"] == "invalid_scope"
    assert job(server, cluster.token(server.issuer)).json()["error"] == "invalid_client"
    public = server.token(grant_type="client_credentials", resource=RESOURCE, client_id="nightly")
    assert public.json()["error"] == "invalid_client"
