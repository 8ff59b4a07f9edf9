"""Signing in at a real Keycloak: there and back, roles as scopes, an account that is disabled there."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.auth_server import CALLBACK, RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer, Pkce
from tests.openid_provider import choose, newcomer, to_provider
from tests.person import Person, form, forms

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

    def set_enabled(self, username: str, *, enabled: bool) -> None:
        """Enable or disable an account, as its administrator does."""
        login = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "admin"}
        with httpx2.Client(timeout=20) as http:
            answer = http.post(f"{self.origin}/realms/master/protocol/openid-connect/token", data=login)
            http.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
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


class Clock:
    """Time that a test moves on."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


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


def back_from(person: Person, there: httpx2.Response, password: str = _PASSWORD) -> httpx2.Response:
    """Sign in at Keycloak with its own form, and go where it sends the browser."""
    page = person.browser.get(there.headers["location"])
    for cookie in person.browser.cookies.jar:
        # A browser sends Secure cookies to a loopback address, Python's cookie jar does not.
        cookie.secure = False
    (login,) = [each for each in forms(page) if "password" in each.fields]
    answer = person.browser.post(login.action, data={**login.fields, "username": "ada", "password": password})
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
