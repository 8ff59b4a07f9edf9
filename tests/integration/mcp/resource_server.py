"""The resource server as its clients meet it, and an authorization server that can be made to misbehave."""

import asyncio
import io
import json
import secrets
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx2
import uvicorn
from aiohttp import web
from mcp import Client
from mcp.client.client import ConnectMode
from mcp.client.streamable_http import streamable_http_client
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from keystile_common import opaque, traces
from keystile_common.audit import AuditLog, StreamSink
from keystile_common.metrics import McpMetrics
from keystile_common.recurring_protocol import HttpProtocol
from keystile_common.settings import TraceSettings
from keystile_common.traces import Tracing
from keystile_mcp.app import create_app
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams

CLIENT_SECRET = "correct horse: battery/staple"
MODERN = "2026-07-28"

Behaviour = Callable[[web.Request, str], Awaitable[web.StreamResponse]]


def opaque_token() -> str:
    """A well-formed access token that nobody knows yet."""
    text = opaque.ACCESS_TOKEN_PREFIX + secrets.token_urlsafe(32)
    return text + opaque.checksum(text)


class ScriptedAuthorizationServer:
    """An introspection endpoint on loopback; what it says is set token by token, or replaced by a behaviour."""

    def __init__(self) -> None:
        self.issuer = ""
        self.requests: list[web.Request] = []
        self.behaviour: Behaviour | None = None
        self.resource = ""
        self._answers: dict[str, dict[str, Any]] = {}

    def issue(self, scope: str = "mcp:basic mcp:jobs", *, token: str | None = None, **claims: Any) -> str:
        """Make an active token; a claim that is None is left out of the answer."""
        token = token or opaque_token()
        now = int(time.time())
        answer = {
            "active": True,
            "scope": scope,
            "client_id": "client-1",
            "sub": "alice",
            "aud": self.resource,
            "iss": self.issuer,
            "iat": now,
            "exp": now + 600,
            "token_type": "Bearer",
        } | claims
        self._answers[token] = {name: value for name, value in answer.items() if value is not None}
        return token

    def revoke(self, token: str) -> None:
        """Call the token inactive from now on."""
        del self._answers[token]

    async def introspect(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        token = str((await request.post())["token"])
        if self.behaviour is not None:
            return await self.behaviour(request, token)
        return self.answer(token)

    def answer(self, token: str) -> web.Response:
        return web.json_response(self._answers.get(token, {"active": False}))


@dataclass(frozen=True)
class ResourceServer:
    """A running resource server.

    Attributes:
        url: its MCP endpoint, which is also its identifier.
        authorization_server: whom it asks.
        registry: its metrics.
        audit_text: what it wrote to its audit log.
    """

    url: str
    authorization_server: ScriptedAuthorizationServer
    registry: CollectorRegistry
    audit_text: io.StringIO
    http: httpx2.AsyncClient = field(repr=False)

    @property
    def origin(self) -> str:
        return self.url.removesuffix("/mcp")

    @property
    def audit(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.audit_text.getvalue().splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(name, labels) or 0.0

    async def call(self, token: str | None, tool: str = "echo", **arguments: Any) -> httpx2.Response:
        """Call a tool as revision 2026-07-28 has it: one POST, alone."""
        return await self.http.post(self.url, headers=modern_headers(tool, token), json=tool_call(tool, arguments))

    @asynccontextmanager
    async def client(self, token: str, mode: ConnectMode = MODERN, **options: Any) -> AsyncIterator[Client]:
        """The SDK's own client, with `token` on every request; `options` are its own."""
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=10) as http,
            Client(streamable_http_client(self.url, http_client=http), mode=mode, **options) as client,
        ):
            yield client


def tool_call(tool: str, arguments: dict[str, Any]) -> dict[str, Any]:
    meta = {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
    }
    parameters = {"name": tool, "arguments": arguments or {"text": "hello"}, "_meta": meta}
    return {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": parameters}


def modern_headers(tool: str, token: str | None) -> dict[str, str]:
    headers = {
        "Accept": "application/json, text/event-stream",
        "Mcp-Protocol-Version": MODERN,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    return headers if token is None else {**headers, "Authorization": f"Bearer {token}"}


async def post_patiently(
    http: httpx2.AsyncClient, url: str, headers: dict[str, str], message: dict[str, Any]
) -> httpx2.Response:
    """Post a message, again after a moment where a busy machine made it a 503, as a client does."""
    for _ in range(5):
        response = await http.post(url, headers=headers, json=message)
        if response.status_code != httpx2.codes.SERVICE_UNAVAILABLE:
            return response
        await asyncio.sleep(0.3)
    return await http.post(url, headers=headers, json=message)


async def open_session(http: httpx2.AsyncClient, url: str, token: str) -> dict[str, str]:
    """Open a session of revision 2025-11-25; the headers of its further requests."""
    headers = {
        "Accept": "application/json, text/event-stream",
        "Authorization": f"Bearer {token}",
        "Mcp-Protocol-Version": "2025-11-25",
    }
    parameters = {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    }
    opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}
    response = await post_patiently(http, url, headers, opening)
    assert response.status_code == 200, response.text
    return {**headers, "Mcp-Session-Id": response.headers["mcp-session-id"]}


@asynccontextmanager
async def authorization_server() -> AsyncIterator[ScriptedAuthorizationServer]:
    scripted = ScriptedAuthorizationServer()
    application = web.Application()
    application.router.add_post("/introspect", scripted.introspect)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True)
    await runner.setup()
    listener = _loopback()
    site = web.SockSite(runner, listener)
    await site.start()
    scripted.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield scripted
    finally:
        await runner.cleanup()


@asynccontextmanager
async def resource_server(
    scripted: ScriptedAuthorizationServer,
    tracing: Tracing | None = None,
    http: type[HttpProtocol] = HttpProtocol,
    **settings: Any,
) -> AsyncIterator[ResourceServer]:
    """Serve the application under uvicorn; `settings` go over those that every test needs."""

    def make(chosen: McpSettings, metrics: McpMetrics, audit: AuditLog) -> ASGIApp:
        used = tracing or traces.configure(TraceSettings(), "keystile-mcp", "test")
        return create_app(chosen, metrics, audit, used, streams=OpenStreams())

    async with serving(scripted, make, http, **settings) as server:
        yield server


@asynccontextmanager
async def serving(
    scripted: ScriptedAuthorizationServer,
    make: Callable[[McpSettings, McpMetrics, AuditLog], ASGIApp],
    http: type[HttpProtocol] = HttpProtocol,
    **settings: Any,
) -> AsyncIterator[ResourceServer]:
    """Serve what `make` makes under uvicorn."""
    listener = _loopback()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    introspection = {"client_id": "resource server", "client_secret": CLIENT_SECRET}
    values = {
        "resource": url,
        "authorization_server": scripted.issuer,
        "revocations": {"poll": False},
        **settings,
        "introspection": introspection | settings.get("introspection", {}),
    }
    scripted.resource = values["resource"]
    metrics, audit_text = McpMetrics(CollectorRegistry(), "test"), io.StringIO()
    audit = AuditLog([StreamSink("stdout", audit_text)], metrics.audit)
    app = make(McpSettings.model_validate(values), metrics, audit)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http=http,
            log_config=None,
            access_log=False,
            proxy_headers=False,
            lifespan="on",
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done(), "the server did not start"
        await asyncio.sleep(0.005)
    # As through an ingress: what is connected to need not be what the resource is called.
    headers = {"Host": urlsplit(scripted.resource).netloc}
    async with httpx2.AsyncClient(timeout=10, headers=headers) as client:
        try:
            yield ResourceServer(url, scripted, metrics.registry, audit_text, client)
        finally:
            server.should_exit = True
            await task


def _loopback() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    return listener
