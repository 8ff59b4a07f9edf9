"""The resource server, put together."""

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from mcp.server.request_state import RequestStateSecurity
from starlette.types import ASGIApp

from keystile_common import health
from keystile_common.audit import AuditLog
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import McpMetrics
from keystile_common.store import connect
from keystile_common.traces import TraceMiddleware, Tracing
from keystile_mcp import __version__, asgi_app, reference_server, transport
from keystile_mcp.backend import Backend
from keystile_mcp.introspection_cache import Clock
from keystile_mcp.protection import McpEndpoint, Protection
from keystile_mcp.request_state import ReplicaCodec
from keystile_mcp.session_store import SessionStore
from keystile_mcp.settings import MAX_BODY_BYTES, McpSettings, ResourceServerSettings
from keystile_mcp.shared_sessions import REMEMBERED_SECONDS
from keystile_mcp.streams import OpenStreams
from keystile_mcp.token_source import Tokens, token_source
from keystile_mcp.upstream import Upstream


def create_app(
    settings: McpSettings,
    metrics: McpMetrics,
    audit: AuditLog,
    tracing: Tracing,
    *,
    streams: OpenStreams,
    clock: Clock = time.time,
) -> ASGIApp:
    """Make the application of a resource server that checks tokens as its settings say.

    Args:
        settings: as loaded.
        metrics: what it counts in.
        audit: what it records in.
        tracing: what it traces with.
        streams: where it notes the streams that are open.
        clock: Unix time in seconds.

    Raises:
        BackendError: what shall serve MCP cannot be had.
        SettingsError: a file that the settings name cannot be used.
    """
    tokens = token_source(settings, metrics, tracing.tracer, clock)
    return create_protected_app(settings, tokens, metrics, audit, tracing, streams=streams, clock=clock)


def create_protected_app(
    settings: ResourceServerSettings,
    tokens: Tokens,
    metrics: McpMetrics,
    audit: AuditLog,
    tracing: Tracing,
    *,
    streams: OpenStreams,
    clock: Clock = time.time,
) -> ASGIApp:
    """Make the application of a resource server, however it learns about tokens.

    Args:
        settings: as loaded.
        tokens: how tokens are checked.
        metrics: what it counts in.
        audit: what it records in.
        tracing: what it traces with.
        streams: where it notes the streams that are open.
        clock: Unix time in seconds.

    Raises:
        BackendError: what shall serve MCP cannot be had.
        SettingsError: a file that the settings name cannot be used.
    """
    backend = _backend(settings, metrics, tracing)
    protection = Protection(settings, tokens, metrics, audit, streams=streams, backend=backend, clock=clock)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with protection.running():
            yield

    app = FastAPI(
        routes=[*health.routes({"authorization_server": protection.check}), *protection.routes()],
        lifespan=lifespan,
        openapi_url=None,
    )
    # Around the application and not within it: what it does for every request is twelve microseconds of a call.
    endpoint = McpEndpoint(app, protection.endpoint, settings.endpoint_path)
    limited = LimitsMiddleware(endpoint, MAX_BODY_BYTES, protection.limits())
    return TraceMiddleware(limited, tracing.tracer) if tracing.enabled else limited


def _backend(settings: ResourceServerSettings, metrics: McpMetrics, tracing: Tracing) -> Backend:
    sessions = _shared(settings, metrics, tracing) if settings.sessions == "shared" else None
    if settings.app is not None:
        return asgi_app.backend(settings.app, settings, metrics, sessions)
    if settings.upstream.url is not None:
        return Upstream(settings, metrics, sessions)
    return _reference_server(settings, metrics, sessions)


def _shared(settings: ResourceServerSettings, metrics: McpMetrics, tracing: Tracing) -> SessionStore:
    store = connect(settings.store, metrics.store(), tracing.tracer)
    return SessionStore(store, settings.resource, REMEMBERED_SECONDS)


def _reference_server(
    settings: ResourceServerSettings, metrics: McpMetrics, sessions: SessionStore | None
) -> transport.SdkServer:
    codec = ReplicaCodec(settings.request_state_key)
    server = reference_server.create_server(
        __version__,
        account_url=settings.authorization_server.rstrip("/") + "/account",
        request_state=RequestStateSecurity(codec=codec, audience=settings.resource),
    )
    return transport.SdkServer(server, settings, metrics, sessions, use_key=codec.use)
