"""OpenTelemetry's SDK and its exporter, OTLP over HTTP; imported only where traces are on."""

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased


def provider(endpoint: str, sample_ratio: float, service: str, version: str) -> TracerProvider:
    """What makes tracers whose spans are sent away.

    Args:
        endpoint: of the collector, with or without `/v1/traces`.
        sample_ratio: the share of traces that begin here and are kept, from 0 to 1.
        service: as it is called in the traces.
        version: of the service.
    """
    made = TracerProvider(
        resource=Resource.create({"service.name": service, "service.version": version}),
        sampler=ParentBased(TraceIdRatioBased(sample_ratio)),
    )
    endpoint = endpoint.rstrip("/")
    endpoint = endpoint if endpoint.endswith("/v1/traces") else f"{endpoint}/v1/traces"
    made.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint, timeout=5)))
    return made
