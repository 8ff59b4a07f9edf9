"""A company's own site: names of its own for issuer and servers, its own authority, a store beside the cluster.

The way in is an Ingress first, and then the Gateway API.
"""

import os
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.auth_server import Pkce
from tests.e2e import company as site_of
from tests.e2e.company import Company
from tests.e2e.kubernetes import eventually
from tests.e2e.site import Site, status_of
from tests.e2e.stock_client import run_to_the_end

_PUBLISHED = "https://github.com/kubernetes-sigs/gateway-api/releases/download/v1.6.1/standard-install.yaml"


@pytest.fixture
def http(on_site: Site) -> Iterator[httpx2.Client]:
    """What reaches the company's hosts as its clients do."""
    with on_site.http() as client:
        yield client


@pytest.fixture(scope="module")
def gateway(on_site: Site, install_on_site: Callable[..., None]) -> Site:
    """The release behind a Gateway, with no Ingress any more."""
    kubernetes = on_site.kubernetes
    place = os.environ.get("GATEWAY_API_CRDS", _PUBLISHED)
    answer = kubernetes.run("kubectl", "apply", "--server-side", "--filename", place, check=False)
    if answer.returncode != 0:
        sentence = f"no Gateway API from {place}; GATEWAY_API_CRDS names a file or folder with its resource definitions"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(sentence)
    kubernetes.run("kubectl", "wait", "--for=condition=Established", "crd/httproutes.gateway.networking.k8s.io")
    kubernetes.run("kubectl", "apply", "--filename", "tests/e2e/gateway.yaml")
    kubernetes.give_traefik("--providers.kubernetesgateway")
    install_on_site("--set", "network.ingress.enabled=false")
    with on_site.http() as http:
        known = f"{on_site.issuer}/.well-known/oauth-authorization-server"
        eventually("the Ingress is gone", lambda: status_of(http, known) == 404)
    install_on_site("--set", "network.ingress.enabled=false", "--set", "network.gateway.enabled=true")
    on_site.wait_until_served(on_site.resource, _other(on_site))
    return on_site


def _other(site: Site) -> str:
    return site.resource.replace("tools.", "notes.").replace("/mcp", "/notes")


async def test_a_stock_client_comes_in_by_hosts_of_their_own_for_issuer_and_server(on_site: Site) -> None:
    assistant = await run_to_the_end(on_site)
    assert assistant.storage.client is not None
    assert not assistant.storage.client.client_id.startswith("https:")


async def test_a_stock_client_is_known_by_its_metadata_document_on_site(on_site: Site, company: Company) -> None:
    assistant = await run_to_the_end(on_site, client_metadata_url=site_of.CLIENT_ID)
    assert assistant.storage.client is not None
    assert assistant.storage.client.client_id == site_of.CLIENT_ID
    assert company.fetched("/client.json")


def test_a_document_at_the_same_address_by_another_name_is_not_fetched(
    on_site: Site, http: httpx2.Client, company: Company
) -> None:
    pkce = Pkce()
    parameters = {
        "response_type": "code",
        "client_id": site_of.STRANGER_ID,
        "redirect_uri": "http://127.0.0.1:49153/callback",
        "resource": on_site.resource,
        "code_challenge": pkce.challenge,
        "code_challenge_method": "S256",
    }
    answer = http.get(f"{on_site.issuer}/authorize", params=parameters)
    assert answer.status_code == 400
    assert "not public" in answer.text
    assert not company.fetched("/stranger.json")


def test_each_server_has_a_host_and_tokens_of_its_own(on_site: Site, http: httpx2.Client) -> None:
    other = _other(on_site)
    for resource in (on_site.resource, other):
        origin, _, path = resource.rpartition("/")
        for known in (
            f"{origin}/.well-known/oauth-protected-resource/{path}",
            f"{origin}/.well-known/oauth-protected-resource",
        ):
            metadata = http.get(known).json()
            assert (metadata["resource"], metadata["authorization_servers"]) == (resource, [on_site.issuer])
    _assert_tokens_stay_apart(on_site, http)


def _assert_tokens_stay_apart(site: Site, http: httpx2.Client) -> None:
    other = _other(site)
    for own, foreign in ((site.resource, other), (other, site.resource)):
        token = site.sign_in(http, resource=own).access_token
        assert site.call_tool(http, token, own).status_code == 200
        assert site.call_tool(http, token, foreign).status_code == 401


async def test_the_same_by_the_gateway_api(gateway: Site) -> None:
    with gateway.http() as http:
        _assert_tokens_stay_apart(gateway, http)
        assert http.get(f"{gateway.issuer}/introspect").status_code == 404
    await run_to_the_end(gateway)


def test_a_server_without_pods_is_503_and_not_404(gateway: Site, http: httpx2.Client) -> None:
    deployment, notes = "deployment/keystile-notes", _other(gateway)
    gateway.kubernetes.kubectl("scale", deployment, "--replicas=0")
    eventually("nobody answers for it", lambda: http.get(notes).status_code != 401)
    seen = {http.get(notes).status_code for _ in range(20)}
    gateway.kubernetes.kubectl("scale", deployment, "--replicas=1")
    eventually("it answers again", lambda: http.get(notes).status_code == 401)
    assert seen <= {502, 503, 504}
