"""One trace crosses client, MCP server, authorization server and store (W3C Trace Context, OTLP over HTTP)."""

import gzip
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.made_run import Topology, made_run, sign_in

_EXPORT_SECONDS = 20


@contextmanager
def _otlp_receiver(seen: list[tuple[str, str, str]]) -> Iterator[str]:
    """Receives spans; `seen` gets service, span name and trace id of each."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                names = {each.key: each.value.string_value for each in resource.resource.attributes}
                for scope in resource.scope_spans:
                    seen.extend((names["service.name"], span.name, span.trace_id.hex()) for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("topology", "wanted"),
    [
        ("embedded", {("keystile-embedded", "POST /mcp"), ("keystile-embedded", "store token.find")}),
        (
            "separate",
            {
                ("keystile-mcp", "POST /mcp"),
                ("keystile-auth", "POST /introspect"),
                ("keystile-auth", "store token.find"),
            },
        ),
    ],
)
def test_one_trace_crosses_the_client_both_services_and_the_store(
    tmp_path: Path, topology: Topology, wanted: set[tuple[str, str]]
) -> None:
    seen: list[tuple[str, str, str]] = []
    trace_id = secrets.token_hex(16)
    with (
        _otlp_receiver(seen) as endpoint,
        made_run(tmp_path / "data", topology, KEYSTILE_TRACES__OTLP_ENDPOINT=endpoint) as run,
        httpx2.Client(timeout=10) as http,
    ):
        headers = {
            "Authorization": f"Bearer {sign_in(run, http).access_token}",
            "Accept": "application/json, text/event-stream",
            "traceparent": f"00-{trace_id}-{secrets.token_hex(8)}-01",
        }
        call = {
            "jsonrpc": "2.0",
            "id": 1,
            "method": "initialize",
            "params": {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "clientInfo": {"name": "test", "version": "1"},
            },
        }
        assert http.post(run.resource, headers=headers, json=call).status_code == 200
        deadline = time.monotonic() + _EXPORT_SECONDS
        while time.monotonic() < deadline:
            if wanted <= {(service, name) for service, name, trace in seen if trace == trace_id}:
                break
            time.sleep(0.1)
        assert wanted <= {(service, name) for service, name, trace in seen if trace == trace_id}
