"""The SDK's Streamable HTTP transport: every MCP revision at one endpoint.

A request that names 2026-07-28 is served alone, without a session, and answered in JSON unless it streams;
older revisions open a session and get event streams.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mcp.server._otel import OpenTelemetryMiddleware
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from opentelemetry.trace import ProxyTracerProvider, get_tracer_provider
from sse_starlette.sse import AppStatus
from starlette.types import ASGIApp

from keystile_common.metrics import McpMetrics
from keystile_common.settings import LogSettings
from keystile_mcp.host_and_origin import HostAndOrigin
from keystile_mcp.session_store import SessionStore
from keystile_mcp.settings import MAX_BODY_BYTES, ResourceServerSettings
from keystile_mcp.shared_sessions import SharedManager, SharedSessions

# Who may send a request is decided further out, for every kind of server alike.
_NO_SECURITY = TransportSecuritySettings(enable_dns_rebinding_protection=False)


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
            "security_settings": _NO_SECURITY,
            "max_request_body_size": MAX_BODY_BYTES,
            "stateless": settings.sessions == "none",
        }
        _drop_spans_that_nobody_sees(low_level)
        self._manager: StreamableHTTPSessionManager
        self._shared: SharedSessions | None = None
        if sessions is None:
            self._manager = StreamableHTTPSessionManager(low_level, **arguments)
            served = _served(self._manager)
        else:
            self._manager = shared = SharedManager(low_level, sessions, **arguments)
            self._shared = SharedSessions(_served(shared), shared, sessions, listen=settings.handover, metrics=metrics)
            served = self._shared
        self.app: ASGIApp = HostAndOrigin(served, settings)
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


def _served(manager: StreamableHTTPSessionManager) -> ASGIApp:
    """The transport as ASGI, whose tools can ask the SDK's `get_access_token()` who calls.

    Past the SDK's own limit on bodies, which reads and keeps each once more: ours stands further out.
    """
    return AuthContextMiddleware(manager._handle_request)


def _drop_spans_that_nobody_sees(server: Server[Any]) -> None:
    """Take out the SDK's spans, unless somebody has set up OpenTelemetry for the whole process.

    They go to the global provider; Keystile's own go to one of its own.
    """
    if isinstance(get_tracer_provider(), ProxyTracerProvider):
        server.middleware[:] = [each for each in server.middleware if not isinstance(each, OpenTelemetryMiddleware)]
