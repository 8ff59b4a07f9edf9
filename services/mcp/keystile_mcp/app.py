"""The resource server, put together."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog
from fastapi import FastAPI
from mcp.server.mcpserver import MCPServer
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common import health
from keystile_common.audit import AuditLog
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import McpMetrics
from keystile_common.traces import TraceMiddleware, Tracing
from keystile_mcp import __version__, metadata, reference_server, transport
from keystile_mcp.bearer import Bearer
from keystile_mcp.challenge import Challenge
from keystile_mcp.denials import Denials
from keystile_mcp.enforcement import PolicyEnforcement
from keystile_mcp.introspection import IntrospectionClient
from keystile_mcp.introspection_cache import Clock, IntrospectionCache
from keystile_mcp.policy import Policy
from keystile_mcp.readiness import AuthorizationServerCheck
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from keystile_mcp.tool_calls import ToolCalls
from keystile_mcp.validation import TokenValidator

_log = structlog.stdlib.get_logger(__name__)


def create_app(
    settings: McpSettings,
    metrics: McpMetrics,
    audit: AuditLog,
    tracing: Tracing,
    *,
    streams: OpenStreams,
    clock: Clock = time.time,
) -> FastAPI:
    """Make the application.

    Args:
        settings: as loaded.
        metrics: what it counts in.
        audit: what it records in.
        tracing: what it traces with.
        streams: where it notes the streams that are open.
        clock: Unix time in seconds.
    """
    server = reference_server.create_server(__version__)
    tool_calls = ToolCalls(audit, metrics, settings.resource)
    server.middleware.append(tool_calls)
    manager = transport.session_manager(server, settings, metrics)

    client = IntrospectionClient(settings, tracing.tracer)
    cache = IntrospectionCache(client.introspect, settings, metrics, clock)
    validator = TokenValidator(cache, settings, metrics, clock)
    challenge = Challenge(metadata.metadata_url(settings.resource), settings.required_scopes)
    policy = Policy(settings.required_scopes, settings.policy)

    enforced = PolicyEnforcement(transport.endpoint(manager), policy, challenge, tool_calls, metrics)
    denials = Denials(audit, settings.resource, clock)
    bearer = Bearer(enforced, validator, challenge, denials, streams=streams, clock=clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await _learn_tools(server, tool_calls, policy)
        async with client, manager.run():
            yield
            await cache.close()

    app = FastAPI(
        routes=[
            *health.routes({"authorization_server": AuthorizationServerCheck(client)}),
            *metadata.routes(settings),
        ],
        lifespan=lifespan,
        openapi_url=None,
    )
    # The last one added is the outermost.
    app.add_middleware(McpEndpoint, endpoint=_with_cors(bearer, settings), path=settings.endpoint_path)
    app.add_middleware(LimitsMiddleware, max_body_bytes=transport.MAX_BODY_BYTES)
    if tracing.enabled:
        app.add_middleware(TraceMiddleware, tracer=tracing.tracer)
    return app


class McpEndpoint:
    """Sends requests for the MCP endpoint, with or without a slash at its end, past the router."""

    def __init__(self, app: ASGIApp, endpoint: ASGIApp, path: str) -> None:
        self._app = app
        self._endpoint = endpoint
        self._paths = {path, f"{path}/"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        is_mcp = scope["type"] == "http" and scope["path"] in self._paths
        await (self._endpoint if is_mcp else self._app)(scope, receive, send)


def _with_cors(endpoint: ASGIApp, settings: McpSettings) -> ASGIApp:
    if not settings.allowed_origins:
        return endpoint
    return CORSMiddleware(
        endpoint,
        allow_origins=settings.allowed_origins,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["*"],
        expose_headers=["WWW-Authenticate", "Mcp-Session-Id", "Mcp-Protocol-Version"],
    )


async def _learn_tools(server: MCPServer, tool_calls: ToolCalls, policy: Policy) -> None:
    tools = frozenset(tool.name for tool in await server.list_tools())
    tool_calls.know(tools)
    for name in sorted(policy.named_tools - tools):
        _log.warning("the policy names a tool that does not exist", tool=name)
