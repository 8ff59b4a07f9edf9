"""An https server that clients publish their metadata documents and key sets on."""

import json
import secrets
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import trustme

from tests.auth_server import CALLBACK

_WITHOUT_BODY = {204, 304}


@dataclass
class Answer:
    """What the host answers at a path."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class DocumentHost:
    """The host: `ca_file` is what must be trusted to reach it, `fetches` counts requests by path.

    `connections` counts those that came, whether a request followed or not.
    """

    origin: str
    ca_file: Path
    answers: dict[str, Answer] = field(default_factory=dict)
    fetches: Counter[str] = field(default_factory=Counter)
    connections: int = 0

    def url(self, name: str = "client.json") -> str:
        """An address here that nothing else uses."""
        return f"{self.origin}/{secrets.token_hex(8)}/{name}"

    def at(self, path: str) -> str:
        """The address of a path here."""
        return self.origin + path

    def serve(self, url: str, content: Any, status: int = 200, **headers: str) -> str:
        """Answer `content` (bytes as they are, all else as JSON) at `url`, which is answered."""
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answers[url.removeprefix(self.origin)] = Answer(body, status, named)
        return url

    def client(self, headers: dict[str, Any] | None = None, **metadata: Any) -> str:
        """Publish a client's metadata document at a new URL, which is the client's id.

        `metadata` replaces the document's own values, None leaves one out.
        """
        url = self.url()
        document = {"client_id": url, "client_name": "Document client", "redirect_uris": [CALLBACK], **metadata}
        content = {name: value for name, value in document.items() if value is not None}
        return self.serve(url, content, **(headers or {}))

    def fetched(self, url: str) -> int:
        """How often `url` was asked for."""
        return self.fetches[url.removeprefix(self.origin)]


class _Handler(BaseHTTPRequestHandler):
    host: DocumentHost

    def do_GET(self) -> None:
        self.host.fetches[self.path] += 1
        answer = self.host.answers.get(self.path, Answer(b"", 404))
        self.send_response(answer.status)
        for name, value in {"Content-Type": "application/json", **answer.headers}.items():
            self.send_header(name, value)
        has_body = answer.status not in _WITHOUT_BODY
        if has_body:
            self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body if has_body else b"")

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    host: DocumentHost

    def verify_request(self, request: Any, client_address: Any) -> bool:  # noqa: ARG002 (socketserver's signature)
        self.host.connections += 1
        return True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up in the middle, as it may on a body too long, is no error of a test."""


@contextmanager
def running_document_host(folder: Path) -> Iterator[DocumentHost]:
    """Run a host on `localhost`, its authority's certificate in `folder`, while the block runs."""
    authority = trustme.CA()
    ca_file = folder / "authority.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        # The handshake belongs to the thread of its connection: one that stalls must not hold up the others.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        host = DocumentHost(f"https://localhost:{server.server_address[1]}", ca_file)
        handler.host = host  # type: ignore[attr-defined]
        server.host = host
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield host
        finally:
            server.shutdown()
            thread.join(timeout=5)
