"""A real Keycloak in front of the MCP server: a person signs in, a tool is called, and a logout ends it."""

import base64
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.integration.mcp.providers import RESOURCE
from tests.integration.mcp.resource_server import ResourceServer, ScriptedAuthorizationServer, resource_server

pytestmark = pytest.mark.docker

IMAGE = "quay.io/keycloak/keycloak:26.7"
ADMIN = "admin-password-1"
PASSWORD = "alice-password-1"
SECRET = "introspection-secret-1"
REDIRECT = "http://127.0.0.1:8765/callback"


def scope(name: str) -> dict[str, Any]:
    """A scope of the MCP server; whoever has it has its audience too."""
    mapper = {
        "name": "mcp server",
        "protocol": "openid-connect",
        "protocolMapper": "oidc-audience-mapper",
        "config": {
            "included.custom.audience": RESOURCE,
            "access.token.claim": "true",
            "introspection.token.claim": "true",
        },
    }
    attributes = {"include.in.token.scope": "true", "display.on.consent.screen": "true"}
    return {"name": name, "protocol": "openid-connect", "attributes": attributes, "protocolMappers": [mapper]}


REALM = {
    "realm": "example",
    "enabled": True,
    "sslRequired": "none",
    "users": [
        {
            "username": "alice",
            "enabled": True,
            "email": "alice@example.com",
            "emailVerified": True,
            "firstName": "Alice",
            "lastName": "Example",
            "credentials": [{"type": "password", "value": PASSWORD}],
        }
    ],
    "clients": [
        {
            "clientId": "cli",
            "publicClient": True,
            "standardFlowEnabled": True,
            "redirectUris": [REDIRECT],
            "attributes": {"pkce.code.challenge.method": "S256"},
        },
        # Keycloak tells a client only of tokens that have it in their audience.
        {"clientId": RESOURCE, "publicClient": False, "secret": SECRET, "standardFlowEnabled": False},
    ],
}


@dataclass
class Keycloak:
    """The running server, and a client of it as a program with a browser is one."""

    origin: str

    @property
    def issuer(self) -> str:
        return f"{self.origin}/realms/example"

    def at(self, what: str) -> str:
        return f"{self.issuer}/protocol/openid-connect/{what}"

    def prepare(self) -> None:
        with httpx2.Client(base_url=self.origin, timeout=60) as http:
            form = {"grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": ADMIN}
            token = http.post("/realms/master/protocol/openid-connect/token", data=form).json()["access_token"]
            http.headers["Authorization"] = f"Bearer {token}"
            assert http.post("/admin/realms", json=REALM).status_code == 201
            (client,) = http.get("/admin/realms/example/clients", params={"clientId": "cli"}).json()
            for name in ("mcp:basic", "mcp:jobs"):
                made = http.post("/admin/realms/example/client-scopes", json=scope(name))
                made_id = made.headers["location"].rpartition("/")[2]
                path = f"/admin/realms/example/clients/{client['id']}/optional-client-scopes/{made_id}"
                assert http.put(path).status_code == 204

    async def sign_in(self, wanted: str) -> dict[str, Any]:
        """The tokens of a whole code flow with PKCE: alice fills in the form."""
        verifier = secrets.token_urlsafe(32)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
        query = {
            "response_type": "code",
            "client_id": "cli",
            "redirect_uri": REDIRECT,
            "scope": f"openid {wanted}",
            "state": "s",
            "code_challenge": challenge,
            "code_challenge_method": "S256",
            "resource": RESOURCE,
        }
        async with httpx2.AsyncClient(timeout=60) as browser:
            page = await browser.get(self.at("auth"), params=query)
            action = re.search(r'<form[^>]+action="([^"]+)"', page.text)
            assert action, page.text
            # They are marked Secure, which browsers take as fulfilled on loopback and this client does not.
            cookies = "; ".join(cookie.partition(";")[0] for cookie in page.headers.get_list("set-cookie"))
            form = {"username": "alice", "password": PASSWORD, "credentialId": ""}
            answer = await browser.post(unescape(action[1]), data=form, headers={"Cookie": cookies})
            assert answer.status_code == 302, answer.text
            (code,) = parse_qs(urlsplit(answer.headers["location"]).query)["code"]
        return await self.token(
            grant_type="authorization_code", code=code, redirect_uri=REDIRECT, code_verifier=verifier
        )

    async def token(self, **form: str) -> dict[str, Any]:
        async with httpx2.AsyncClient(timeout=60) as http:
            answer = await http.post(self.at("token"), data={"client_id": "cli", **form})
            assert answer.status_code == 200, answer.text
            return dict(answer.json())

    async def log_out(self, refresh_token: str) -> None:
        async with httpx2.AsyncClient(timeout=60) as http:
            form = {"client_id": "cli", "refresh_token": refresh_token}
            assert (await http.post(self.at("logout"), data=form)).status_code == 204


@pytest.fixture(scope="module")
def keycloak() -> Iterator[Keycloak]:
    container = (
        DockerContainer(IMAGE)
        .with_command("start-dev")
        .with_env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin")
        .with_env("KC_BOOTSTRAP_ADMIN_PASSWORD", ADMIN)
        .with_exposed_ports(8080)
        .waiting_for(LogMessageWaitStrategy("Listening on:").with_startup_timeout(240))
    )
    with container:
        running = Keycloak(f"http://127.0.0.1:{container.get_exposed_port(8080)}")
        running.prepare()
        yield running


def scripted(keycloak: Keycloak) -> ScriptedAuthorizationServer:
    named = ScriptedAuthorizationServer()
    named.issuer = keycloak.issuer
    return named


@pytest.fixture
async def by_keys(keycloak: Keycloak) -> AsyncIterator[ResourceServer]:
    async with resource_server(scripted(keycloak), provider="keycloak", resource=RESOURCE) as server:
        yield server


@pytest.fixture
async def by_introspection(keycloak: Keycloak) -> AsyncIterator[ResourceServer]:
    introspection = {"client_id": RESOURCE, "client_secret": SECRET, "cache_seconds": 0}
    settings: dict[str, Any] = {"validation": "introspection", "introspection": introspection}
    async with resource_server(scripted(keycloak), provider="keycloak", resource=RESOURCE, **settings) as server:
        yield server


async def test_a_sign_in_at_keycloak_is_a_tool_call_here_until_the_logout(
    keycloak: Keycloak, by_keys: ResourceServer, by_introspection: ResourceServer
) -> None:
    tokens = await keycloak.sign_in("mcp:basic mcp:jobs")
    for server in (by_keys, by_introspection):
        assert (await server.http.get(f"{server.origin}/readyz")).status_code == 200
        answer = await server.call(tokens["access_token"], "who_am_i")
        assert answer.status_code == 200, answer.text
        assert server.audit[-1]["actor"]["client_id"] == "cli"
        assert "mcp:jobs" in answer.text

    tokens = await keycloak.token(grant_type="refresh_token", refresh_token=tokens["refresh_token"])
    for server in (by_keys, by_introspection):
        assert (await server.call(tokens["access_token"], "long_running", seconds=0)).status_code == 200

    await keycloak.log_out(tokens["refresh_token"])
    assert (await by_introspection.call(tokens["access_token"])).status_code == 401
    # By its signature it is good until it expires: nobody is asked.
    assert (await by_keys.call(tokens["access_token"])).status_code == 200


async def test_keycloak_s_other_tokens_are_refused_both_ways(
    keycloak: Keycloak, by_keys: ResourceServer, by_introspection: ResourceServer
) -> None:
    tokens = await keycloak.sign_in("mcp:basic")
    for server in (by_keys, by_introspection):
        assert (await server.call(tokens["id_token"])).status_code == 401
        assert (await server.call(tokens["refresh_token"])).status_code == 401
        refused = await server.call(tokens["access_token"], "long_running", seconds=0)
        assert refused.status_code == 403
        assert 'scope="mcp:basic mcp:jobs"' in refused.headers["www-authenticate"]


async def test_a_token_without_the_audience_is_refused_both_ways(
    keycloak: Keycloak, by_keys: ResourceServer, by_introspection: ResourceServer
) -> None:
    tokens = await keycloak.sign_in("profile")
    for server in (by_keys, by_introspection):
        assert (await server.call(tokens["access_token"])).status_code == 401
