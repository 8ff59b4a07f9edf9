"""Servers that the tests put behind the bearer: the users' own code."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateSecurity
from mcp.server.transport_security import TransportSecuritySettings
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from keystile_mcp.reference_server import create_server

mcp = MCPServer("served")
state: list[str] = []
seen_headers: list[dict[str, str]] = []

not_an_app = 5


@mcp.tool()
def greet(name: str) -> str:
    """Greet somebody."""
    token = get_access_token()
    return f"Hello {name}, says {token.subject if token else 'nobody'}"


@mcp.tool()
def fail() -> str:
    """Fail."""
    raise ValueError("as it should")


@mcp.tool()
def remove_all() -> str:
    """Remove everything."""
    return "removed"


hasty = create_server(
    "1", account_url="http://127.0.0.1:1/account", request_state=RequestStateSecurity(keys=[b"k" * 32], ttl=5)
)

low_level: Server = mcp._lowlevel_server


async def _whoami(request: Request) -> Response:
    seen_headers.append(dict(request.headers))
    return JSONResponse({"sub": request.user.access_token.subject})


async def _health(_: Request) -> Response:
    return PlainTextResponse("ok")


def make_asgi() -> Starlette:
    """An ASGI application with MCP at /mcp and pages of its own; its lifespan is noted in `state`."""
    served = MCPServer("served by ASGI")
    for tool in (greet, fail, remove_all):
        served.tool()(tool)
    inner = served.streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        state.append("started")
        async with inner.router.lifespan_context(inner):
            yield
        state.append("stopped")

    routes = [Route("/whoami", _whoami), Route("/healthz", _health), *inner.routes]
    return Starlette(routes=routes, lifespan=lifespan)


asgi = make_asgi()


@asynccontextmanager
async def _broken(_: Starlette) -> AsyncIterator[None]:
    if "no database":
        raise RuntimeError("no database")
    yield


broken = Starlette(lifespan=_broken)
