"""OpenTelemetry traces: W3C context in and out, OTLP over HTTP, off unless an endpoint is set."""

from collections.abc import Callable
from http import HTTPStatus

from opentelemetry import propagate, trace
from opentelemetry.trace import NoOpTracer, SpanKind, StatusCode, Tracer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common import recurring_requests
from keystile_common.settings import TraceSettings

_CONTEXT = frozenset({b"traceparent", b"tracestate"})


class Tracing:
    """A tracer, and what must be called at the end so that no span is lost."""

    def __init__(self, tracer: Tracer, close: Callable[[], None]) -> None:
        self.tracer = tracer
        self.close = close

    @property
    def enabled(self) -> bool:
        """Whether spans go anywhere."""
        return not isinstance(self.tracer, NoOpTracer)


def configure(settings: TraceSettings, service: str, version: str) -> Tracing:
    """Make the tracer of `service` (`keystile-auth` or `keystile-mcp`)."""
    if not settings.otlp_endpoint:
        return Tracing(NoOpTracer(), lambda: None)
    # The SDK, its exporter and protobuf take some megabytes, which a server without traces need not have.
    from keystile_common import otlp  # noqa: PLC0415

    provider = otlp.provider(settings.otlp_endpoint, settings.sample_ratio, service, version)
    return Tracing(provider.get_tracer("keystile", version), provider.shutdown)


class TraceMiddleware:
    """A server span around every HTTP request, child of the caller's. Holds no query: a code may be in it."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer
        self._is_silent = isinstance(tracer, NoOpTracer)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        carrier = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"] if name in _CONTEXT
        }
        if self._is_silent and not carrier:
            await self._app(scope, receive, send)  # no span, and no caller's trace to name in the audit log
            return
        scope.get("extensions", {}).pop(recurring_requests.EXTENSION, None)  # a span for each of them
        with self._tracer.start_as_current_span(
            f"{scope['method']} {scope['path'][:200]}",
            context=propagate.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"http.request.method": scope["method"], "url.path": scope["path"][:200]},
        ) as span:

            async def send_and_note(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.set_attribute("http.response.status_code", message["status"])
                    if message["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR:
                        span.set_status(StatusCode.ERROR)
                await send(message)

            await self._app(scope, receive, send_and_note)


def inject(headers: dict[str, str]) -> dict[str, str]:
    """Add the current trace's W3C headers to `headers` and return it."""
    propagate.inject(headers)
    return headers


def trace_id() -> str | None:
    """The current trace's id in hex, or None outside one."""
    context = trace.get_current_span().get_span_context()
    return f"{context.trace_id:032x}" if context.is_valid else None
