"""Signing in at a real Keycloak: there and back, roles as scopes, an account that is disabled there."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx2
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.auth_server import CALLBACK, RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer, Pkce
from tests.clock import Clock
from tests.keycloak import add_saml_client
from tests.openid_provider import choose, newcomer, to_provider
from tests.person import Person, form, forms
from tests.saml_provider import SigningKey

pytestmark = pytest.mark.docker

_IMAGE = "quay.io/keycloak/keycloak:26.7"
_REALM = Path(__file__).parent / "keycloak" / "realm.json"
_PASSWORD = "analytical engine"


@dataclass
class Keycloak:
    """A running Keycloak with the realm `company`."""

    origin: str

    @property
    def issuer(self) -> str:
        return f"{self.origin}/realms/company"

    @contextmanager
    def administrator(self) -> Iterator[httpx2.Client]:
        """What an administrator can do."""
        login = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
        with httpx2.Client(timeout=20) as http:
            answer = http.post(f"{self.origin}/realms/master/protocol/openid-connect/token", data=login)
            http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
            yield http

    def add_saml_client(self, metadata: str, **attributes: str) -> None:
        """Register a service provider by its metadata."""
        with self.administrator() as http:
            add_saml_client(http, f"{self.origin}/admin/realms/company", metadata, attributes)

    def set_enabled(self, username: str, *, enabled: bool) -> None:
        """Enable or disable an account, as its administrator does."""
        with self.administrator() as http:
            users = f"{self.origin}/admin/realms/company/users"
            (user,) = http.get(users, params={"username": username, "exact": "true"}).json()
            answer = http.put(f"{users}/{user['id']}", json={**user, "enabled": enabled})
            assert answer.status_code == 204, answer.text


@pytest.fixture(scope="session")
def keycloak() -> Iterator[Keycloak]:
    """One container a session: it takes half a minute to start."""
    container = (
        DockerContainer(_IMAGE)
        .with_command("start-dev --import-realm")
        .with_env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
        .with_env("KC_BOOTSTRAP_ADMIN_PASSWORD", "admin")
        .with_copy_into_container(_REALM.read_bytes(), "/opt/keycloak/data/import/company.json")
        .with_exposed_ports(8080)
        .waiting_for(LogMessageWaitStrategy("Listening on").with_startup_timeout(240))
    )
    with container:
        yield Keycloak(f"http://127.0.0.1:{container.get_exposed_port(8080)}")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def server(start_auth_server: Callable[..., AuthServer], keycloak: Keycloak, clock: Clock) -> AuthServer:
    scopes = {"keycloak/staff": ["mcp:basic"], "keycloak/admins": ["mcp:jobs"]}
    mcp = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET, "user_scopes": scopes}
    return start_auth_server(
        clock=clock,
        resources={"mcp": mcp},
        identity={
            "local": {"kind": "local"},
            "keycloak": {
                "kind": "oidc",
                "preset": "keycloak",
                "issuer": keycloak.issuer,
                "client_id": "keystile",
                "client_secret": "keycloak-secret-of-the-tests",
                "recheck_seconds": 60,
            },
        },
    )


def signed_in_there(person: Person, there: httpx2.Response, password: str = _PASSWORD) -> httpx2.Response:
    """Sign in at Keycloak with its own form; answers what it answers."""
    page = person.browser.get(there.headers["location"])
    for cookie in person.browser.cookies.jar:
        # A browser sends Secure cookies to a loopback address, Python's cookie jar does not.
        cookie.secure = False
    found = [each for each in forms(page) if "password" in each.fields]
    assert found, page.text
    (login,) = found
    return person.browser.post(login.action, data={**login.fields, "username": "ada", "password": password})


def back_from(person: Person, there: httpx2.Response, password: str = _PASSWORD) -> httpx2.Response:
    """The same, and go where it sends the browser."""
    answer = signed_in_there(person, there, password)
    return person.get(answer.headers["location"]) if "location" in answer.headers else answer


def tokens(server: AuthServer) -> Any:
    client, pkce, person = server.register(), Pkce(), newcomer(server)
    url = server.authorization_url(client.id, pkce, scope="mcp:basic mcp:jobs")
    answer = back_from(person, to_provider(person, url, "keycloak"))
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(CALLBACK)
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    redeemed = server.redeem(client.id, code, pkce)
    assert redeemed.status_code == 200, redeemed.text
    return {**redeemed.json(), "client_id": client.id}


def test_somebody_signs_in_at_keycloak_and_has_the_scopes_of_the_roles_there(server: AuthServer) -> None:
    issued = tokens(server)
    answer = server.introspect(issued["access_token"])
    assert answer["username"] == "keycloak/ada"
    assert answer["scope"] == answer["grantable_scope"] == "mcp:basic"


def test_keycloak_is_asked_again_and_answers_for_who_is_still_there(server: AuthServer, clock: Clock) -> None:
    issued = tokens(server)
    clock.ahead = 61
    answer = server.refresh(issued["client_id"], issued["refresh_token"])
    assert answer.status_code == 200, answer.text
    clock.ahead = 122
    again = server.refresh(issued["client_id"], answer.json()["refresh_token"])
    assert again.status_code == 200, again.text


def test_an_account_that_is_disabled_at_keycloak_ends_here_too(
    server: AuthServer, keycloak: Keycloak, clock: Clock
) -> None:
    issued = tokens(server)
    keycloak.set_enabled("ada", enabled=False)
    try:
        clock.ahead = 61
        answer = server.refresh(issued["client_id"], issued["refresh_token"])
    finally:
        keycloak.set_enabled("ada", enabled=True)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert not server.is_active(issued["access_token"])


def test_a_wrong_password_stays_at_keycloak(server: AuthServer) -> None:
    person = newcomer(server)
    there = to_provider(person, server.authorization_url(server.register().id, Pkce()), "keycloak")
    answer = back_from(person, there, "wrong")
    assert answer.status_code == 200
    assert not server.events("user.login")


def test_a_second_client_is_consented_to_though_keycloak_still_knows_the_browser(server: AuthServer) -> None:
    person = newcomer(server)
    url = server.authorization_url(server.register().id, Pkce())
    back_from(person, to_provider(person, url, "keycloak"))
    page = person.get(f"{server.issuer}/account")
    person.submit(form(page, "/sign-out"))
    page = person.get(server.authorization_url(server.register(client_name="Another").id, Pkce()))
    page = choose(person, page, "keycloak")
    assert page.status_code == 200
    assert "Another" in page.text
    assert json.dumps("allow") in page.text


OWN_KEY = SigningKey()


@pytest.fixture
def saml_server(start_auth_server: Callable[..., AuthServer], keycloak: Keycloak) -> Callable[..., AuthServer]:
    """Starts servers that have Keycloak as their SAML identity provider."""

    def start(**settings: Any) -> AuthServer:
        scopes = {"keycloak/staff": ["mcp:basic"], "keycloak/admins": ["mcp:jobs"]}
        mcp = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET, "user_scopes": scopes}
        identity = {
            "kind": "saml",
            "metadata_url": f"{keycloak.issuer}/protocol/saml/descriptor",
            "groups_claim": "Role",
            **settings,
        }
        return start_auth_server(resources={"mcp": mcp}, identity={"keycloak": identity})

    return start


def posted_back(person: Person, there: httpx2.Response) -> httpx2.Response:
    """Sign in at Keycloak, whose page then posts to us: another site, so without our cookies."""
    page = signed_in_there(person, there)
    (answer,) = [each for each in forms(page) if "SAMLResponse" in each.fields]
    with httpx2.Client() as elsewhere:
        back = elsewhere.post(answer.action, data=answer.fields)
    assert back.status_code == 303, back.text
    return person.get(urljoin(answer.action, back.headers["location"]))


def saml_tokens(server: AuthServer) -> Any:
    client, pkce, person = server.register(), Pkce(), newcomer(server)
    url = server.authorization_url(client.id, pkce, scope="mcp:basic mcp:jobs")
    answer = posted_back(person, to_provider(person, url, "keycloak"))
    assert answer.status_code == 303, answer.text
    code = parse_qs(urlsplit(answer.headers["location"]).query)["code"][0]
    return server.redeem(client.id, code, pkce).json()


@pytest.mark.xmlsec1
def test_somebody_signs_in_at_keycloak_by_saml(saml_server: Callable[..., AuthServer], keycloak: Keycloak) -> None:
    server = saml_server()
    metadata = server.http.get(f"{server.issuer}/saml/keycloak/metadata").text
    keycloak.add_saml_client(metadata, **{"saml.assertion.signature": "true", "saml.client.signature": "false"})
    answer = server.introspect(saml_tokens(server)["access_token"])
    assert answer["username"] == "keycloak/ada"
    assert answer["scope"] == answer["grantable_scope"] == "mcp:basic"
    assert server.introspect(saml_tokens(server)["access_token"])["sub"] == answer["sub"]


@pytest.mark.xmlsec1
def test_keycloak_checks_our_signature_and_encrypts_for_us(
    saml_server: Callable[..., AuthServer], keycloak: Keycloak
) -> None:
    server = saml_server(key=OWN_KEY.pem, certificate=OWN_KEY.certificate_pem)
    metadata = server.http.get(f"{server.issuer}/saml/keycloak/metadata").text
    # Keycloak does not read which ciphers metadata asks for, and its own choice is newer than Debian's xmlsec1.
    ciphers = {
        "saml.encrypt": "true",
        "saml.encryption.algorithm": "http://www.w3.org/2009/xmlenc11#aes256-gcm",
        "saml.encryption.keyAlgorithm": "http://www.w3.org/2001/04/xmlenc#rsa-oaep-mgf1p",
        "saml.encryption.digestMethod": "http://www.w3.org/2000/09/xmldsig#sha1",
    }
    keycloak.add_saml_client(metadata, **{"saml.assertion.signature": "true"}, **ciphers)
    assert server.introspect(saml_tokens(server)["access_token"])["username"] == "keycloak/ada"


@pytest.mark.xmlsec1
def test_keycloak_without_signed_assertions_lets_nobody_in(
    saml_server: Callable[..., AuthServer], keycloak: Keycloak
) -> None:
    server = saml_server()
    metadata = server.http.get(f"{server.issuer}/saml/keycloak/metadata").text
    keycloak.add_saml_client(metadata, **{"saml.assertion.signature": "false", "saml.client.signature": "false"})
    person = newcomer(server)
    page = posted_back(person, to_provider(person, server.authorization_url(server.register().id, Pkce()), "keycloak"))
    assert page.status_code == 403
    assert server.events("user.login")[-1]["reason"] == "keycloak failure: saml not signed"
