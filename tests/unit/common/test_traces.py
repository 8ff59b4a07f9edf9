"""Server spans: children of the caller's, without what a query holds."""

from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Tracer
from starlette.types import Receive, Scope, Send

from keystile_common import traces
from keystile_common.settings import TraceSettings
from keystile_common.traces import TraceMiddleware

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracer(spans: InMemorySpanExporter) -> Iterator[Tracer]:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    yield provider.get_tracer("t")
    provider.shutdown()


async def ask(tracer: Tracer, status: int = 200, **headers: bytes) -> dict[str, str]:
    injected: dict[str, str] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        traces.inject(injected)
        await send({"type": "http.response.start", "status": status, "headers": []})

    async def receive() -> Any:
        raise AssertionError

    async def send(message: Any) -> None:
        assert message["status"] == status

    scope = {
        "type": "http", "method": "GET", "path": "/authorize", "query_string": b"code=s3cr3t",
        "headers": [(name.encode(), value) for name, value in headers.items()],
    }  # fmt: skip
    await TraceMiddleware(app, tracer)(scope, receive, send)
    return injected


async def test_a_span_is_a_child_of_the_callers_and_parent_of_what_is_asked_next(
    tracer: Tracer, spans: InMemorySpanExporter
) -> None:
    injected = await ask(tracer, traceparent=PARENT.encode())
    (span,) = spans.get_finished_spans()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert f"{span.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert injected["traceparent"].split("-")[2] == f"{span.context.span_id:016x}"


async def test_no_query_and_no_header_is_in_a_span(tracer: Tracer, spans: InMemorySpanExporter) -> None:
    await ask(tracer, authorization=b"s3cr3t", cookie=b"s3cr3t")
    assert "s3cr3t" not in spans.get_finished_spans()[0].to_json()


@pytest.mark.parametrize(("status", "is_error"), [(200, False), (404, False), (500, True), (503, True)])
async def test_a_server_error_marks_its_span(
    tracer: Tracer, spans: InMemorySpanExporter, status: int, is_error: bool
) -> None:
    await ask(tracer, status)
    (span,) = spans.get_finished_spans()
    assert (span.status.status_code.name == "ERROR") is is_error
    assert dict(span.attributes or {})["http.response.status_code"] == status


@pytest.mark.parametrize("header", [b"\xff", b"00-zz-zz-01", b"", b"x" * 5000, b"00-" + b"0" * 32 + b"-" + b"0" * 16])
async def test_a_trace_context_that_is_none_begins_a_new_trace(
    tracer: Tracer, spans: InMemorySpanExporter, header: bytes
) -> None:
    await ask(tracer, traceparent=header)
    assert spans.get_finished_spans()[0].parent is None


def test_without_an_endpoint_there_are_no_traces() -> None:
    tracing = traces.configure(TraceSettings(), "keystile-auth", "1")
    assert not tracing.enabled
    tracing.close()
