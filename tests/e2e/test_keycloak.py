"""A Keycloak in the cluster: people of one release sign in there; another has it as its authorization server."""

import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx2
import pytest

from tests.auth_server import Pkce
from tests.e2e.company import Company
from tests.e2e.keycloak import CLIENT_SECRET, Keycloak, external_resource
from tests.e2e.kubernetes import ROOT, Kubernetes
from tests.e2e.site import CALLBACK, SignedIn, Site
from tests.openid_provider import to_provider
from tests.person import Person, forms

_EXTERNAL = "external"


def _filled_in(name: str, folder: Path, **words: str) -> str:
    """A file of values with words in it replaced."""
    text = (ROOT / "tests" / "e2e" / name).read_text()
    for word, value in words.items():
        text = text.replace(word, value)
    (folder / name).write_text(text)
    return str(folder / name)


@pytest.fixture(scope="module")
def site_with_keycloak(
    keycloak: Keycloak,
    site: Site,
    company: Company,
    upgrade: Callable[..., None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Site:
    """The release, where people sign in at Keycloak or locally."""
    kubernetes = site.kubernetes
    kubernetes.kubectl("delete", "configmap", "corp-ca", "--ignore-not-found")
    kubernetes.kubectl("create", "configmap", "corp-ca", f"--from-file=ca.crt={company.ca_file}")
    patch = f'{{"stringData": {{"keycloak-secret": "{CLIENT_SECRET}"}}}}'
    kubernetes.kubectl("patch", "secret", "keystile", "--patch", patch)
    values = _filled_in("identities.yaml", tmp_path_factory.mktemp("identities"), PORT=str(keycloak.port))
    upgrade("--set", "resource=", "--values", values)
    kubernetes.wait_for_rollout("deployment/keystile-auth")
    site.wait_until_served()
    return site


@pytest.fixture(scope="module")
def external(
    cluster: tuple[Kubernetes, int],
    keycloak: Keycloak,
    site: Site,
    company: Company,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """A release whose authorization server is Keycloak, in a namespace of its own that goes afterwards."""
    kubernetes, folder = replace(cluster[0], namespace=_EXTERNAL), tmp_path_factory.mktemp(_EXTERNAL)
    resource = external_resource(site)
    kubernetes.run("kubectl", "delete", "namespace", _EXTERNAL, "--ignore-not-found", "--wait")
    kubernetes.run("kubectl", "create", "namespace", _EXTERNAL)
    kubernetes.run("kubectl", "label", "namespace", _EXTERNAL, "pod-security.kubernetes.io/enforce=restricted")
    company.put_certificate(kubernetes, "keystile-tls", str(urlsplit(resource).hostname))
    kubernetes.kubectl("create", "configmap", "corp-ca", f"--from-file=ca.crt={company.ca_file}")
    values = _filled_in("external-values.yaml", folder, PORT=str(keycloak.port), RESOURCE=resource)
    release = ("keystile", "charts/keystile", "--namespace", _EXTERNAL, "--values", values)
    kubernetes.run("helm", "install", *release, "--wait", "--timeout", "120s")
    made = Site(keycloak.issuer, resource, company.ca_file, "", kubernetes, site.figures)
    made.wait_until_served(with_issuer=False)
    yield made
    kubernetes.run("kubectl", "delete", "namespace", _EXTERNAL, "--wait=false")


def _sign_in(
    site: Site, keycloak: Keycloak, company: Company, http: httpx2.Client, identity: str = "keycloak"
) -> SignedIn:
    """Ada lets a client use the release's server, and says at Keycloak who she is."""
    client_id, pkce = site.register(http), Pkce()
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": CALLBACK,
        "state": "st4te",
        "resource": site.resource,
        "scope": "mcp:basic mcp:jobs",
        "code_challenge": pkce.challenge,
        "code_challenge_method": "S256",
    }
    trusted = ssl.create_default_context(cafile=str(site.ca_file))
    trusted.load_verify_locations(cafile=str(company.ca_file))
    person = Person(site.issuer, "", "")
    person.browser.close()
    with httpx2.Client(timeout=60, verify=trusted, headers={"Accept": "text/html"}) as person.browser:
        there = to_provider(person, f"{site.issuer}/authorize?{urlencode(parameters)}", identity)
        page = person.browser.get(there.headers["location"])
        by = _back_by_post if identity == "saml" else _back_by_redirect
        back = person.get(by(keycloak, person, page, http))
    assert back.status_code in {302, 303}, back.text
    answer = parse_qs(urlsplit(back.headers["location"]).query)
    assert "code" in answer, answer
    form = {"grant_type": "authorization_code", "code": answer["code"][0], "code_verifier": pkce.verifier}
    tokens = http.post(f"{site.issuer}/token", data={"client_id": client_id, **form})
    assert tokens.status_code == 200, tokens.text
    assert tokens.json()["scope"] == "mcp:basic"
    return SignedIn(client_id, tokens.json()["access_token"], tokens.json()["refresh_token"])


def _back_by_redirect(keycloak: Keycloak, person: Person, page: httpx2.Response, _: httpx2.Client) -> str:
    return keycloak.log_in(person.browser, page)


def _back_by_post(keycloak: Keycloak, person: Person, page: httpx2.Response, http: httpx2.Client) -> str:
    (answer,) = [each for each in forms(keycloak.fill_in(person.browser, page)) if "SAMLResponse" in each.fields]
    # Keycloak's page posts it: another site, so without our cookies.
    posted = http.post(answer.action, data=answer.fields)
    assert posted.status_code == 303, posted.text
    return urljoin(answer.action, posted.headers["location"])


def test_somebody_signs_in_at_keycloak_and_calls_a_tool(
    site_with_keycloak: Site, keycloak: Keycloak, company: Company, http: httpx2.Client
) -> None:
    site = site_with_keycloak
    client = _sign_in(site, keycloak, company, http)
    assert site.call_tool(http, client.access_token).status_code == 200
    assert site.call_tool(http, client.access_token, tool="long_running", arguments={"seconds": 0}).status_code == 403
    assert site.refresh(http, client).status_code == 200
    assert site.call_tool(http, site.sign_in(http).access_token).status_code == 200


def test_somebody_signs_in_at_keycloak_by_saml_and_calls_a_tool(
    site_with_keycloak: Site, keycloak: Keycloak, company: Company, http: httpx2.Client
) -> None:
    site = site_with_keycloak
    metadata = http.get(f"{site.issuer}/saml/saml/metadata")
    assert metadata.status_code == 200, metadata.text
    keycloak.add_saml_client(metadata.text)
    client = _sign_in(site, keycloak, company, http, "saml")
    assert site.call_tool(http, client.access_token).status_code == 200
    assert site.call_tool(http, client.access_token, tool="long_running", arguments={"seconds": 0}).status_code == 403


def test_an_account_that_is_disabled_at_keycloak_ends_at_the_next_refresh(
    site_with_keycloak: Site, keycloak: Keycloak, company: Company, http: httpx2.Client
) -> None:
    site = site_with_keycloak
    client = _sign_in(site, keycloak, company, http)
    keycloak.set_enabled(enabled=False)
    try:
        time.sleep(1.1)  # recheck_seconds in identities.yaml
        answer = site.refresh(http, client)
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        time.sleep(site.cache_seconds)
        assert site.call_tool(http, client.access_token).status_code == 401
    finally:
        keycloak.set_enabled(enabled=True)


def test_a_token_of_keycloak_calls_a_tool_where_keycloak_is_the_authorization_server(
    external: Site, keycloak: Keycloak
) -> None:
    with external.http() as http:
        known = external.resource.replace("/mcp", "/.well-known/oauth-protected-resource/mcp")
        assert http.get(known).json()["authorization_servers"] == [keycloak.issuer]
        token = keycloak.sign_in("mcp:basic", external.resource)
        assert external.call_tool(http, token).status_code == 200
        assert external.call_tool(http, token + "x").status_code == 401


def test_a_token_of_keycloak_for_another_audience_is_refused(external: Site, keycloak: Keycloak) -> None:
    with external.http() as http:
        answer = external.call_tool(http, keycloak.sign_in("profile", external.resource))
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_helm_test_says_what_it_can_check_without_an_authorization_server(external: Site) -> None:
    answer = external.kubernetes.run("helm", "test", "keystile", "--namespace", _EXTERNAL, "--logs", check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "mcp names the authorization server" in answer.stdout
    assert "mcp says where its metadata are" in answer.stdout
    assert "no token was asked for: the authorization server is not this release's" in answer.stdout


def test_nothing_of_an_authorization_server_runs_there(external: Site) -> None:
    pods = external.kubernetes.objects("pods", "app.kubernetes.io/instance=keystile")
    components = {each["metadata"]["labels"]["app.kubernetes.io/component"] for each in pods}
    assert components <= {"mcp", "test"}
