"""A real MCP server and a real authorization server behind one proxy that can be made to misbehave."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from aiohttp import web

from keystile_common.doctor.examination import Report, examine
from keystile_common.doctor.finding import Finding, Outcome
from keystile_common.doctor.scene import Options
from tests.auth_server import RESOURCE_SECRET, SCOPES, AuthServer
from tests.integration.mcp.resource_server import ResourceServer, ScriptedAuthorizationServer, resource_server

_OWN = {"transfer-encoding", "content-length", "connection", "content-encoding"}


@dataclass
class Passed:
    """An answer on its way back."""

    request: web.Request
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.request.path

    def change_json(self, **members: Any) -> None:
        """Put members into the document; None takes one out."""
        document = json.loads(self.body) | members
        self.body = json.dumps({name: value for name, value in document.items() if value is not None}).encode()


Change = Callable[[Passed], None]
Replacement = Callable[[web.Request], Awaitable[web.StreamResponse | None]]


@dataclass
class Way:
    """The proxy.

    Attributes:
        port: of the proxy.
        auth: the authorization server behind it.
        change: changes each answer.
        replace: answers by itself, unless it answers None.
        is_buffering: whether streams are held back until they end.
        requests: what came.
    """

    port: int
    auth: AuthServer
    change: Change = lambda _: None
    replace: Replacement | None = None
    is_buffering: bool = False
    requests: list[tuple[str, str]] = field(default_factory=list)
    mcp: ResourceServer | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{self.origin}/mcp"

    async def examine(self, url: str | None = None, timeout: float = 5.0, **options: Any) -> "Seen":  # noqa: ASYNC109
        return Seen(await examine(Options(url or self.url, **options), timeout))

    async def serve(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.method, request.path))
        if self.replace is not None:
            replaced = await self.replace(request)
            if replaced is not None:
                return replaced
        assert self.mcp is not None
        to_mcp = request.path.startswith(("/mcp", "/.well-known/oauth-protected-resource"))
        target = (self.mcp.origin if to_mcp else self.auth.issuer) + request.path_qs
        headers = {name: value for name, value in request.headers.items() if name.lower() not in _OWN}
        # As an ingress does it: only its own name leads to the servers.
        headers["Host"] = f"127.0.0.1:{self.port}"
        async with (
            aiohttp.ClientSession(auto_decompress=False, timeout=aiohttp.ClientTimeout(total=30)) as session,
            session.request(
                request.method, target, headers=headers, data=await request.read(), allow_redirects=False
            ) as answer,
        ):
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _OWN}
            if answer.content_type == "text/event-stream" and not self.is_buffering:
                return await _streamed(request, answer, kept)
            passed = Passed(request, answer.status, kept, await answer.read())
        self.change(passed)
        return web.Response(status=passed.status, headers=passed.headers, body=passed.body)


async def _streamed(
    request: web.Request, answer: aiohttp.ClientResponse, headers: dict[str, str]
) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    await response.prepare(request)
    async for part in answer.content.iter_any():
        await response.write(part)
    return response


class Seen:
    """A report, as tests read it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self.findings = {each.check: each for each in report.findings}

    def __getitem__(self, check: str) -> Finding:
        return self.findings[check]

    def names(self, outcome: Outcome) -> set[str]:
        return {each.check for each in self.report.findings if each.outcome is outcome}

    @property
    def problems(self) -> set[str]:
        return self.names(Outcome.PROBLEM)

    @property
    def warnings(self) -> set[str]:
        return self.names(Outcome.WARNING)

    @property
    def text(self) -> str:
        return "\n".join(f"{each.seen} {each.advice}" for each in self.report.findings)


@asynccontextmanager
async def proxy(way: Way) -> AsyncIterator[Way]:
    """Serve `way` with an MCP server behind it."""
    application = web.Application(client_max_size=8 * 1024 * 1024)
    application.router.add_route("*", "/{path:.*}", way.serve)
    runner = web.AppRunner(
        application,
        access_log=None,
        handler_cancellation=True,
        max_field_size=64 * 1024,
        max_line_size=64 * 1024,
        shutdown_timeout=0.1,
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", way.port).start()
    settings: dict[str, Any] = {
        "resource": way.url,
        "authorization_server": way.origin,
        "scopes": SCOPES,
        "introspection": {
            "url": f"{way.auth.issuer}/introspect",
            "client_id": "mcp",
            "client_secret": RESOURCE_SECRET,
        },
    }
    try:
        async with resource_server(ScriptedAuthorizationServer(), **settings) as way.mcp:
            yield way
    finally:
        await runner.cleanup()


async def hold(_: web.Request) -> web.StreamResponse:
    """Say nothing for longer than anybody waits."""
    await asyncio.sleep(60)
    return web.Response()
