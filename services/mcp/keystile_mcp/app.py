"""The resource server, put together."""

import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from keystile_common import health
from keystile_common.audit import AuditLog
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import McpMetrics
from keystile_common.traces import TraceMiddleware, Tracing
from keystile_mcp import __version__, asgi_app, reference_server, transport
from keystile_mcp.backend import Backend
from keystile_mcp.introspection_cache import Clock
from keystile_mcp.protection import McpEndpoint, Protection
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from keystile_mcp.upstream import Upstream


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

    Raises:
        BackendError: what shall serve MCP cannot be had.
        SettingsError: a file that the settings name cannot be used.
    """
    protection = Protection(
        settings, metrics, audit, tracing, streams=streams, backend=_backend(settings, metrics), clock=clock
    )

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with protection.running():
            yield

    app = FastAPI(
        routes=[*health.routes({"authorization_server": protection.check}), *protection.routes()],
        lifespan=lifespan,
        openapi_url=None,
    )
    # The last one added is the outermost.
    app.add_middleware(McpEndpoint, endpoint=protection.endpoint, path=settings.endpoint_path)
    app.add_middleware(LimitsMiddleware, max_body_bytes=transport.MAX_BODY_BYTES)
    if tracing.enabled:
        app.add_middleware(TraceMiddleware, tracer=tracing.tracer)
    return app


def _backend(settings: McpSettings, metrics: McpMetrics) -> Backend:
    if settings.app is not None:
        return asgi_app.backend(settings.app, settings, metrics)
    if settings.upstream.url is not None:
        # One process, one key; what several replicas share is not there yet.
        return Upstream(settings, metrics, secrets.token_bytes(32))
    return transport.SdkServer(reference_server.create_server(__version__), settings, metrics)
