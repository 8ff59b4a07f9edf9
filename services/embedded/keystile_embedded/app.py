"""Both services as one application: the MCP endpoint and its metadata, everything else the authorization server's."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, nullcontext
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

import keystile_auth.app
import keystile_mcp.app
from keystile_auth.store.grants import GrantStore
from keystile_common.audit import AuditLog
from keystile_common.metrics import AuthMetrics, McpMetrics, ProcessMetrics
from keystile_common.store import Store
from keystile_common.traces import Tracing
from keystile_embedded import __version__
from keystile_embedded.lifespan import running
from keystile_embedded.settings import EmbeddedSettings
from keystile_embedded.tokens import StoredTokens
from keystile_mcp.introspection_cache import Clock
from keystile_mcp.metadata import WELL_KNOWN
from keystile_mcp.streams import OpenStreams
from keystile_mcp.token_source import Tokens


class EmbeddedMetrics:
    """The metrics of both services, on one registry."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        process = ProcessMetrics(self.registry, "embedded", __version__)
        self.audit = process.audit
        self.auth = AuthMetrics(self.registry, __version__, process)
        self.mcp = McpMetrics(self.registry, __version__, process)


def create_app(
    settings: EmbeddedSettings,
    store: Store,
    metrics: EmbeddedMetrics,
    tracing: Tracing,
    audit: AuditLog,
    *,
    streams: OpenStreams,
    clock: Clock = time.time,
    on_ready: Callable[[], None] = lambda: None,
) -> ASGIApp:
    """Make the application.

    Args:
        settings: as loaded, with the store's address.
        store: connected lazily; the application closes it when it stops.
        metrics: what both services count in.
        tracing: what both trace with.
        audit: what both record in, as one chain.
        streams: where the resource server notes the streams that are open.
        clock: Unix time in seconds.
        on_ready: called once everything has started.
    """
    told = settings.resource_server
    auth = keystile_auth.app.create_app(settings, store, metrics.auth, tracing.tracer, audit, clock)
    tokens = StoredTokens(GrantStore(store), settings.issuer, told.resource, clock)
    mcp = keystile_mcp.app.create_protected_app(
        told,
        Tokens(nullcontext(), tokens, tokens.check),
        metrics.mcp,
        audit,
        tracing,
        streams=streams,
        clock=clock,
    )

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        # The authorization server waits for the store when it starts, and closes it when it stops.
        async with running(auth), running(mcp):
            on_ready()
            yield

    paths = {told.endpoint_path, f"{told.endpoint_path}/", WELL_KNOWN, WELL_KNOWN + told.endpoint_path}
    if urlsplit(settings.issuer).path:
        paths.add("/")
    return _Dispatcher(Starlette(lifespan=lifespan), auth, mcp, frozenset(paths))


class _Dispatcher:
    """Sends a request to the service whose path it names."""

    def __init__(self, surrounding: ASGIApp, auth: ASGIApp, mcp: ASGIApp, mcp_paths: frozenset[str]) -> None:
        self._surrounding = surrounding
        self._auth = auth
        self._mcp = mcp
        self._mcp_paths = mcp_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] == "lifespan":
            await self._surrounding(scope, receive, send)
        elif scope["path"] in self._mcp_paths:
            await self._mcp(_without_cookies(scope), receive, send)
        else:
            await self._auth(scope, receive, send)


def _without_cookies(scope: Scope) -> Scope:
    """The session of a person who signed in on this origin is none of the tools' business."""
    return {**scope, "headers": [header for header in scope["headers"] if header[0] != b"cookie"]}
