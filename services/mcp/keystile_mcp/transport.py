"""The SDK's Streamable HTTP transport: every MCP revision at one endpoint.

A request that names 2026-07-28 is served alone, without a session, and answered in JSON unless it streams;
older revisions open a session and get event streams.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common.metrics import McpMetrics
from keystile_mcp.settings import McpSettings

MAX_BODY_BYTES = 4 * 1024 * 1024

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def allowed_hosts(settings: McpSettings) -> list[str]:
    """What the Host header may say: the resource's own host, or any loopback name if it is a local one.

    A web page that has its name rebound to our address still sends its own name.
    """
    url = urlsplit(settings.resource)
    if not settings.is_local:
        hosts = [url.netloc] if url.port else [url.netloc, f"{url.netloc}:{_DEFAULT_PORTS[url.scheme]}"]
    else:
        hosts = [f"{name}:{url.port}" if url.port else name for name in _LOOPBACK_NAMES]
    return hosts


def allowed_origins(settings: McpSettings) -> list[str]:
    """What the Origin header may say, if there is one: those set, and the resource's own."""
    scheme = urlsplit(settings.resource).scheme
    return [*settings.allowed_origins, *(f"{scheme}://{host}" for host in allowed_hosts(settings))]


def _security(settings: McpSettings) -> TransportSecuritySettings:
    return TransportSecuritySettings(allowed_hosts=allowed_hosts(settings), allowed_origins=allowed_origins(settings))


class HostAndOrigin:
    """Lets a request through to `app` if it names this resource's host, and an allowed origin if any (MCP, transports).

    The SDK's own transport does so by itself.
    """

    def __init__(self, app: ASGIApp, settings: McpSettings) -> None:
        self._app = app
        self._security = TransportSecurityMiddleware(_security(settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = await self._security.validate_request(Request(scope), is_post=scope["method"] == "POST")
        await (refusal or self._app)(scope, receive, send)


class SdkServer:
    """A backend: a server of the Python SDK, in this process.

    Args:
        server: as `MCPServer` or the low-level `Server`.
        settings: the resource, its sessions, and the hosts and origins it is reached by.
        metrics: where sessions are counted.
    """

    reads_elsewhere = False

    def __init__(self, server: MCPServer | Server[Any], settings: McpSettings, metrics: McpMetrics) -> None:
        self._server = server
        self._manager = StreamableHTTPSessionManager(
            # The public way to one, `MCPServer.streamable_http_app`, makes a whole application around it.
            server._lowlevel_server if isinstance(server, MCPServer) else server,
            security_settings=_security(settings),
            max_request_body_size=MAX_BODY_BYTES,
            stateless=settings.sessions == "none",
        )
        # The SDK has no public count of its sessions.
        metrics.sessions.set_function(lambda: len(self._manager._server_instances))
        # Tools can ask the SDK's `get_access_token()` who calls.
        self.app: ASGIApp = AuthContextMiddleware(StreamableHTTPASGIApp(self._manager))

    def running(self) -> AbstractAsyncContextManager[None]:
        """The time in which it serves; once."""
        return self._manager.run()

    async def tools(self) -> frozenset[str]:
        """The tools that it has now."""
        if isinstance(self._server, MCPServer):
            return frozenset(tool.name for tool in await self._server.list_tools())
        return frozenset()
