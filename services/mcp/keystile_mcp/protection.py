"""Bearer tokens and the policy around a backend, with the metadata that clients find them by."""

import time
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

import structlog
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common import audit, settings, traces
from keystile_common.audit import AuditLog
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import McpMetrics
from keystile_common.traces import TraceMiddleware
from keystile_mcp import __version__, metadata, pushed_events
from keystile_mcp.asgi_app import AsgiApp
from keystile_mcp.backend import Backend
from keystile_mcp.bearer import Bearer
from keystile_mcp.challenge import Challenge
from keystile_mcp.denials import Denials
from keystile_mcp.enforcement import PolicyEnforcement, RequiredScopes
from keystile_mcp.introspection_cache import Clock
from keystile_mcp.policy import Policy
from keystile_mcp.pushed_events import push_path
from keystile_mcp.settings import MAX_BODY_BYTES, McpSettings, ResourceServerSettings
from keystile_mcp.streams import OpenStreams
from keystile_mcp.token_source import Tokens, token_source
from keystile_mcp.tool_calls import ToolCalls
from keystile_mcp.validation import TokenValidator

_log = structlog.stdlib.get_logger(__name__)


class Protection:
    """One protected resource: its endpoint, its metadata, and what it needs while it serves.

    Args:
        settings: as loaded.
        tokens: how tokens are checked.
        metrics: what it counts in.
        audit: what it records in.
        streams: where it notes the streams that are open.
        backend: what serves MCP.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        settings: ResourceServerSettings,
        tokens: Tokens,
        metrics: McpMetrics,
        audit: AuditLog,
        *,
        streams: OpenStreams,
        backend: Backend,
        clock: Clock = time.time,
    ) -> None:
        self._settings = settings
        self._backend = backend
        self._client, self._source, self.check, self._revocations, self._pushed = tokens
        for each in self._revocations:
            each.holders.append(streams)
        if self._pushed is not None:
            self._pushed.holders.of_all.append(streams)
        self._validator = TokenValidator(self._source, settings, metrics, clock)
        self._challenge = Challenge(
            metadata.metadata_url(settings.resource), settings.required_scopes, settings.advertised_prefix
        )
        self._denials = Denials(audit, settings.resource, clock)
        self._streams = streams
        self._clock = clock
        self._policy = Policy(settings.required_scopes, settings.policy)
        self._tool_calls = ToolCalls(audit, metrics, settings.resource)
        enforced = PolicyEnforcement(backend, self._policy, self._challenge, self._tool_calls, metrics)
        self.endpoint = self._with_cors(self._bearer(enforced))

    def routes(self) -> list[Route]:
        """The metadata of the resource, open to all (RFC 9728), and where issuers push events if any does."""
        pushed = [] if self._pushed is None else self._pushed.routes(self._settings.endpoint_path)
        return [*metadata.routes(self._settings), *pushed]

    def limits(self) -> dict[str, int]:
        """What a body may have at these paths, in bytes."""
        return {push_path(self._settings.endpoint_path): pushed_events.MAX_BODY_BYTES}

    def guard(self, app: ASGIApp) -> ASGIApp:
        """`app`, for requests with a token that has the scopes every request needs. For what is not MCP."""
        return self._bearer(RequiredScopes(app, self._policy.required, self._challenge))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves."""
        tools = await self._backend.tools()
        self._tool_calls.know(tools)
        for name in sorted(self._policy.named_tools - tools if tools else ()):
            _log.warning("the policy names a tool that does not exist", tool=name)
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._client)
            for each in self._revocations:
                await stack.enter_async_context(each)
            if self._pushed is not None:
                await stack.enter_async_context(self._pushed)
            await stack.enter_async_context(self._backend.running())
            yield
            await self._source.close()

    def _bearer(self, app: ASGIApp) -> ASGIApp:
        return Bearer(app, self._validator, self._challenge, self._denials, streams=self._streams, clock=self._clock)

    def _with_cors(self, endpoint: ASGIApp) -> ASGIApp:
        if not self._settings.allowed_origins:
            return endpoint
        return CORSMiddleware(
            endpoint,
            allow_origins=self._settings.allowed_origins,
            allow_methods=["GET", "POST", "DELETE"],
            allow_headers=["*"],
            expose_headers=["WWW-Authenticate", "Mcp-Session-Id", "Mcp-Protocol-Version"],
        )


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


def protect(
    app: ASGIApp,
    chosen: McpSettings | None = None,
    *,
    public: Collection[str] = (),
    registry: CollectorRegistry | None = None,
) -> ASGIApp:
    """Put bearer tokens, the policy and the resource's metadata around an ASGI application.

    At the path of `resource` the application serves MCP, and each tool needs what the policy says. Every other
    path needs a token with `required_scopes`, but for those in `public` and the metadata (RFC 9728).

    Args:
        app: serves MCP at the path of the setting `resource`; its lifespan is run.
        chosen: the settings; by default they are read as the command `keystile-mcp` reads them. Of them `listen`,
            `metrics` and `log` are the business of whoever serves what is returned.
        public: paths that need no token, such as "/healthz".
        registry: where metrics are registered; give your own to export them.

    Returns:
        The application to serve, once. It opens connections while it runs, so it must get ASGI's lifespan.

    Raises:
        SettingsError: the settings cannot be used.
    """
    chosen = chosen or settings.load(McpSettings)
    metrics = McpMetrics(registry or CollectorRegistry(), __version__)
    log = audit.configure(chosen.audit, metrics.audit)
    tracing = traces.configure(chosen.traces, "keystile-mcp", __version__)
    backend = AsgiApp(app, chosen)
    tokens = token_source(chosen, metrics, tracing.tracer, time.time)
    protection = Protection(chosen, tokens, metrics, log, streams=OpenStreams(), backend=backend)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        try:
            async with protection.running():
                yield
        finally:
            tracing.close()
            log.close()

    # What they have for `/` is the business of the application.
    described = [route for route in protection.routes() if route.path != "/"]
    ours = Starlette(routes=described, lifespan=lifespan)
    our_paths = {route.path for route in described}
    guarded = McpEndpoint(protection.guard(app), protection.endpoint, chosen.endpoint_path)

    async def dispatch(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            # It has no place for a challenge, and MCP no place for it.
            await send({"type": "websocket.close", "code": 1008})
        elif scope["type"] == "lifespan" or scope["path"] in our_paths:
            await ours(scope, receive, send)
        else:
            await (app if scope["path"] in public else guarded)(scope, receive, send)

    limited = LimitsMiddleware(dispatch, MAX_BODY_BYTES, protection.limits())
    return TraceMiddleware(limited, tracing.tracer) if tracing.enabled else limited
