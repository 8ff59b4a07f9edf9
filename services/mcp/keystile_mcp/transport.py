"""The SDK's Streamable HTTP transport: every MCP revision at one endpoint.

A request that names 2026-07-28 is served alone, without a session, and answered in JSON unless it streams;
older revisions open a session and get event streams.
"""

from urllib.parse import urlsplit

from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.mcpserver import MCPServer
from mcp.server.streamable_http_manager import StreamableHTTPASGIApp, StreamableHTTPSessionManager
from mcp.server.transport_security import TransportSecuritySettings
from starlette.types import ASGIApp

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


def session_manager(server: MCPServer, settings: McpSettings, metrics: McpMetrics) -> StreamableHTTPSessionManager:
    """Make the transport of `server`; it serves while its `run()` context is open."""
    manager = StreamableHTTPSessionManager(
        # The public way to one, `MCPServer.streamable_http_app`, makes a whole application around it.
        server._lowlevel_server,
        security_settings=TransportSecuritySettings(
            allowed_hosts=allowed_hosts(settings), allowed_origins=allowed_origins(settings)
        ),
        max_request_body_size=MAX_BODY_BYTES,
        stateless=settings.sessions == "none",
    )
    # The SDK has no public count of its sessions.
    metrics.sessions.set_function(lambda: len(manager._server_instances))
    return manager


def endpoint(manager: StreamableHTTPSessionManager) -> ASGIApp:
    """The transport as an ASGI application, whose tools can ask the SDK's `get_access_token()` who calls."""
    return AuthContextMiddleware(StreamableHTTPASGIApp(manager))
