"""The release under test, as it is seen from outside: https, by way of the ingress controller."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2

from tests.auth_server import Pkce
from tests.e2e.kubernetes import Kubernetes, eventually
from tests.person import Person

CALLBACK = "http://127.0.0.1:49155/callback"
REVISION = "2026-07-28"
ACCESS_TOKEN_SECONDS = 10
CACHE_SECONDS = 2
"""`tokens.access_token_seconds` and `introspection.cache_seconds` in values.yaml."""


@dataclass
class SignedIn:
    """What a client has once somebody let it in."""

    client_id: str
    access_token: str
    refresh_token: str


@dataclass
class Site:
    """Keystile in a cluster, and the steps of the protocol as a client takes them.

    Attributes:
        figures: what was measured, by what it is; printed after the last test.
        access_token_seconds: how long an access token lives.
        cache_seconds: for how long a server goes by an introspection answer.
        ready_seconds: from `helm install` until every pod was ready.
        first_call_seconds: from `helm install` until somebody had signed in and called a tool.
        username: who signs in.
    """

    issuer: str
    resource: str
    ca_file: Path
    password: str
    kubernetes: Kubernetes
    figures: dict[str, str]
    tls: ssl.SSLContext = field(init=False)
    access_token_seconds: float = ACCESS_TOKEN_SECONDS
    cache_seconds: float = CACHE_SECONDS
    ready_seconds: float = 0
    first_call_seconds: float = 0
    username: str = "demo"

    def __post_init__(self) -> None:
        self.tls = ssl.create_default_context(cafile=str(self.ca_file))

    def http(self, transport: httpx2.BaseTransport | None = None) -> httpx2.Client:
        """A client that trusts the site's certificate."""
        return httpx2.Client(timeout=20, verify=self.tls, transport=transport)

    def wait_until_served(self, *resources: str, with_issuer: bool = True) -> None:
        """Wait until the ingress controller leads to the issuer and its servers, and these reach the issuer.

        The controller looks at what has changed every two seconds, and the nodes' own tables follow after as long: helm
        has seen a release ready before either knows of it.

        Args:
            resources: the servers; the release's first one if none is given.
            with_issuer: whether the issuer is the release's.
        """
        with self.http() as http:
            if with_issuer:
                known = f"{self.issuer}/.well-known/oauth-authorization-server"
                eventually("the issuer is served", lambda: status_of(http, known) == 200)
            # 503 from a server that cannot ask what the token is worth.
            for url in resources or (self.resource,):
                eventually(f"{url} is served", partial(_is_refused, http, url))

    @contextmanager
    def person(self, transport: httpx2.BaseTransport | None = None) -> Iterator[Person]:
        """The user in a new browser."""
        person = Person(self.issuer, self.username, self.password)
        person.browser.close()
        person.browser = self.http(transport)
        person.browser.headers["Accept"] = "text/html"
        try:
            yield person
        finally:
            person.browser.close()

    def register(self, http: httpx2.Client, name: str = "Test client") -> str:
        """Register a public client; answers its id."""
        document = {
            "client_name": name,
            "redirect_uris": [CALLBACK],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
        }
        answer = http.post(f"{self.issuer}/register", json=document)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["client_id"])

    def sign_in(
        self,
        http: httpx2.Client,
        client_id: str | None = None,
        resource: str | None = None,
        transport: httpx2.BaseTransport | None = None,
        scope: str = "mcp:basic",
    ) -> SignedIn:
        """Let the user allow a client the basic tools of a server.

        Args:
            http: what registers and asks for tokens.
            client_id: a client that was registered before; a new one otherwise.
            resource: the server; the release's first one otherwise.
            transport: how the person's browser reaches the site.
            scope: what the client asks for.
        """
        client_id, pkce = client_id or self.register(http), Pkce()
        parameters = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": CALLBACK,
            "state": "st4te",
            "resource": resource or self.resource,
            "scope": scope,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
        }
        with self.person(transport) as person:
            callback = person.allow(f"{self.issuer}/authorize?{urlencode(parameters)}")
        answer = parse_qs(urlsplit(callback).query)
        assert "code" in answer, callback
        form = {"grant_type": "authorization_code", "code": answer["code"][0], "code_verifier": pkce.verifier}
        tokens = http.post(f"{self.issuer}/token", data={"client_id": client_id, **form})
        assert tokens.status_code == 200, tokens.text
        return SignedIn(client_id, tokens.json()["access_token"], tokens.json()["refresh_token"])

    def refresh(self, http: httpx2.Client, client: SignedIn) -> httpx2.Response:
        """Refresh, and keep the new tokens."""
        form = {"grant_type": "refresh_token", "client_id": client.client_id, "refresh_token": client.refresh_token}
        answer = http.post(f"{self.issuer}/token", data=form)
        if answer.status_code == 200:
            client.access_token, client.refresh_token = answer.json()["access_token"], answer.json()["refresh_token"]
        return answer

    def call_tool(
        self,
        http: httpx2.Client,
        access_token: str,
        resource: str | None = None,
        tool: str = "echo",
        arguments: dict[str, Any] | None = None,
    ) -> httpx2.Response:
        """Call a tool, in one request of the revision that needs no session."""
        document = _tool_call(tool, {"text": "hello"} if arguments is None else arguments)
        return http.post(resource or self.resource, headers=_tool_headers(access_token, tool), json=document)


def status_of(http: httpx2.Client, url: str, headers: dict[str, str] | None = None) -> int | None:
    """None without an answer: a connection may lead to an ingress controller that has just ended."""
    try:
        return http.get(url, headers=headers, timeout=5).status_code
    except httpx2.TransportError:
        return None


def _is_refused(http: httpx2.Client, resource: str) -> bool:
    return status_of(http, resource, {"Authorization": "Bearer nobody-s-token"}) == 401


def _tool_call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "e2e", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    }
    parameters = {"name": tool, "arguments": arguments, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}


def _tool_headers(access_token: str, tool: str) -> dict[str, str]:
    return {
        "Authorization": f"Bearer {access_token}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": REVISION,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
