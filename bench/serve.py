"""The servers that are measured, each a process: `python -m bench.serve KIND PORT [UPSTREAM]`.

hello is uvicorn with an application that says hello. bare is the SDK's server with no authorization; keystile the
same server behind the bearer, the policy, the audit log and the metrics; proxy is Keystile before UPSTREAM.
Introspection is answered from memory in the same process, and asked for once in 30 seconds.
"""

import asyncio
import logging
import sys
from contextlib import AsyncExitStack

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from bench.rounds import SERVER_CORE, pin
from keystile_common import audit, opaque, traces
from keystile_common.metrics import McpMetrics
from keystile_common.recurring_protocol import HttpProtocol
from keystile_common.server import Server
from keystile_common.settings import AuditSettings, TraceSettings
from keystile_mcp.app import create_app
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from tests.integration.mcp.resource_server import CLIENT_SECRET, authorization_server

_TEXT = opaque.ACCESS_TOKEN_PREFIX + "A" * 43
TOKEN = _TEXT + opaque.checksum(_TEXT)


def tools() -> MCPServer:
    """An MCP server with a tool that costs next to nothing, so that what is around it shows."""
    server = MCPServer("bench")

    @server.tool()
    async def echo(text: str) -> str:
        """Say it again."""
        return text

    logging.getLogger("mcp").setLevel(logging.WARNING)
    return server


served = tools()


def bare() -> Starlette:
    """The SDK's own application, as safe against rebinding as Keystile's."""
    security = TransportSecuritySettings(allowed_hosts=["127.0.0.1:*"])
    return tools().streamable_http_app(transport_security=security)


def settings(resource: str, issuer: str, upstream: str | None = None) -> McpSettings:
    """Those that a server needs."""
    values = {
        "resource": resource,
        "authorization_server": issuer,
        "introspection": {"client_id": "bench", "client_secret": CLIENT_SECRET},
        "revocations": {"poll": False},
        **({"upstream": {"url": upstream}} if upstream else {"app": "bench.serve:served"}),
    }
    return McpSettings.model_validate(values)


async def hello(scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG001 (ASGI)
    """Say hello, the least that an ASGI application can do."""
    if scope["type"] == "http":
        headers = [(b"content-type", b"text/plain"), (b"content-length", b"5")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"hello"})


async def _serve(kind: str, port: int, upstream: str | None) -> None:
    async with AsyncExitStack() as stack:
        app: ASGIApp = hello
        if kind != "hello":
            app = bare() if kind == "bare" else await _keystile(stack, f"http://127.0.0.1:{port}/mcp", upstream)
        is_ours = kind in {"keystile", "proxy"}
        config = uvicorn.Config(
            app,
            port=port,
            # Keystile as its commands serve it, the others as uvicorn does.
            http=HttpProtocol if is_ours else "auto",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            lifespan="auto",
        )
        await (Server(config, on_stop=None, certificate=None) if is_ours else uvicorn.Server(config)).serve()


async def _keystile(stack: AsyncExitStack, resource: str, upstream: str | None) -> ASGIApp:
    scripted = await stack.enter_async_context(authorization_server())
    scripted.resource = resource
    scripted.issue(token=TOKEN, exp=4_000_000_000)
    metrics = McpMetrics(CollectorRegistry(), "bench")
    return create_app(
        settings(resource, scripted.issuer, upstream),
        metrics,
        audit.configure(AuditSettings(), metrics.audit),
        traces.configure(TraceSettings(), "keystile-mcp", "bench"),
        streams=OpenStreams(),
    )


def main() -> None:
    """Serve until told to stop."""
    kind, port, *upstream = sys.argv[1:]
    pin(SERVER_CORE)
    loop_factory = uvicorn.Config(bare).get_loop_factory()
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(_serve(kind, int(port), upstream[0] if upstream else None))


if __name__ == "__main__":
    main()
