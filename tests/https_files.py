"""A host on the web, as far as a test can have one: files over https on loopback, with a CA of the test's own."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import trustme


@dataclass
class Answer:
    """What is served at a path."""

    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class HttpsFiles:
    """A running server. `files` maps a path to its answer; `requests` lists the paths asked for."""

    url: str
    ca_file: Path
    files: dict[str, Answer | Callable[[], Answer]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)


@contextmanager
def https_files(folder: Path, host: str = "localhost") -> Iterator[HttpsFiles]:
    """Serve https on a loopback port while the block runs."""
    authority = trustme.CA()
    ca_file = folder / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    server: HttpsFiles

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            server.requests.append(self.path)
            answer = server.files.get(self.path, Answer(b"", 404))
            answer = answer() if callable(answer) else answer
            self.send_response(answer.status)
            for name, value in {"Content-Length": str(len(answer.body)), **answer.headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(answer.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(host, "127.0.0.1").configure_cert(context)
        listener.socket = context.wrap_socket(listener.socket, server_side=True)
        server = HttpsFiles(f"https://{host}:{listener.server_address[1]}", ca_file)
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            listener.shutdown()
            thread.join()
