"""The SDK's Streamable HTTP transport: every MCP revision at one endpoint.

A request that names 2026-07-28 is served alone, without a session, and answered in JSON unless it streams;
older revisions open a session and get event streams.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecurityMiddleware, TransportSecuritySettings
from sse_starlette.sse import AppStatus
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common.metrics import McpMetrics
from keystile_common.settings import LogSettings
from keystile_mcp.session_store import SessionStore
from keystile_mcp.settings import MAX_BODY_BYTES, ResourceServerSettings
from keystile_mcp.shared_sessions import SharedManager, SharedSessions

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}


def allowed_hosts(settings: ResourceServerSettings) -> list[str]:
    """What the Host header may say: the resource's own host, or any loopback name if it is a local one.

    A web page that has its name rebound to our address still sends its own name.
    """
    url = urlsplit(settings.resource)
    if not settings.is_local:
        hosts = [url.netloc] if url.port else [url.netloc, f"{url.netloc}:{_DEFAULT_PORTS[url.scheme]}"]
    else:
        hosts = [f"{name}:{url.port}" if url.port else name for name in _LOOPBACK_NAMES]
    return hosts


def allowed_origins(settings: ResourceServerSettings) -> list[str]:
    """What the Origin header may say, if there is one: those set, and the resource's own."""
    scheme = urlsplit(settings.resource).scheme
    return [*settings.allowed_origins, *(f"{scheme}://{host}" for host in allowed_hosts(settings))]


def _security(settings: ResourceServerSettings) -> TransportSecuritySettings:
    return TransportSecuritySettings(allowed_hosts=allowed_hosts(settings), allowed_origins=allowed_origins(settings))


class HostAndOrigin:
    """Lets a request through to `app` if it names this resource's host, and an allowed origin if any (MCP, transports).

    The SDK's own transport does so by itself.
    """

    def __init__(self, app: ASGIApp, settings: ResourceServerSettings) -> None:
        self._app = app
        self._security = TransportSecurityMiddleware(_security(settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        refusal = await self._security.validate_request(Request(scope), is_post=scope["method"] == "POST")
        await (refusal or self._app)(scope, receive, send)


def prepare(log: LogSettings) -> None:
    """Set what the SDK and its streams have one of in a process."""
    if log.level != "debug":
        # The SDK tells of every session and request at level info.
        logging.getLogger("mcp").setLevel(logging.WARNING)
    # The SDK's streams would be cut on the signal, answers that are under way among them; ours are ended in order.
    AppStatus.enable_automatic_graceful_drain = False


class SdkServer:
    """A backend: a server of the Python SDK, in this process.

    Args:
        server: as `MCPServer` or the low-level `Server`.
        settings: the resource, its sessions, and the hosts and origins it is reached by.
        metrics: where sessions are counted.
        sessions: where replicas find each other's sessions; None where each process has its own.
        use_key: is given the bytes that all replicas share, if there are any, before anything is served.
    """

    reads_elsewhere = False

    def __init__(
        self,
        server: MCPServer | Server[Any],
        settings: ResourceServerSettings,
        metrics: McpMetrics,
        sessions: SessionStore | None = None,
        use_key: Callable[[bytes], None] | None = None,
    ) -> None:
        self._server = server
        self._use_key = use_key
        self._sessions = sessions
        self._start_seconds = settings.store.start_seconds
        # The public way to one, `MCPServer.streamable_http_app`, makes a whole application around it.
        low_level = server._lowlevel_server if isinstance(server, MCPServer) else server
        arguments: dict[str, Any] = {
            "security_settings": _security(settings),
            "max_request_body_size": MAX_BODY_BYTES,
            "stateless": settings.sessions == "none",
        }
        # Tools can ask the SDK's `get_access_token()` who calls.
        self._manager: StreamableHTTPSessionManager
        self._shared: SharedSessions | None = None
        if sessions is None:
            self._manager = StreamableHTTPSessionManager(low_level, **arguments)
            self.app: ASGIApp = AuthContextMiddleware(StreamableHTTPASGIApp(self._manager))
        else:
            self._manager = shared = SharedManager(low_level, sessions, **arguments)
            local = AuthContextMiddleware(StreamableHTTPASGIApp(shared))
            host = allowed_hosts(settings)[0]
            self._shared = SharedSessions(local, shared, sessions, listen=settings.handover, host=host, metrics=metrics)
            self.app = self._shared
        # The SDK has no public count of its sessions.
        metrics.sessions.set_function(lambda: len(self._manager._server_instances))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves; once.

        Raises:
            StoreUnavailableError: the store did not answer in time.
            StoreUnsuitableError: it must not be used.
            ListenError: requests of other replicas cannot be listened for.
        """
        if self._sessions is None or self._shared is None:
            async with self._manager.run():
                yield
            return
        async with self._sessions.connected(self._start_seconds), self._manager.run(), self._shared.running():
            if self._use_key is not None:
                self._use_key(await self._sessions.shared_key())
            yield

    async def tools(self) -> frozenset[str]:
        """The tools that it has now."""
        if isinstance(self._server, MCPServer):
            return frozenset(tool.name for tool in await self._server.list_tools())
        return frozenset()
