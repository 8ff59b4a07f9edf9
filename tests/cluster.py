"""What of a Kubernetes API server matters here: its discovery documents, its keys, and tokens signed with them."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from joserfc import jws
from joserfc.jwk import KeySet, RSAKey

ISSUER = "https://kubernetes.default.svc.cluster.local"
POD_TOKEN = "token-of-the-authorization-servers-own-pod"


@dataclass
class Cluster:
    """A running API server. It answers its documents to who brings `POD_TOKEN`, and counts the requests."""

    url: str
    token_file: Path
    key: RSAKey = field(default_factory=lambda: RSAKey.generate_key(2048, auto_kid=True))
    requests: list[str] = field(default_factory=list)
    is_down: bool = False

    def rotate_key(self) -> None:
        """Sign with another key from now on."""
        self.key = RSAKey.generate_key(2048, auto_kid=True)

    def token(self, audience: str, service_account: str = "tools/mcp", **claims: Any) -> str:
        """A projected token, as the kubelet writes it into a pod."""
        now = int(time.time())
        values = {
            "iss": ISSUER,
            "sub": f"system:serviceaccount:{service_account.replace('/', ':')}",
            "aud": [audience],
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            **claims,
        }
        header = {"alg": "RS256", "kid": self.key.kid}
        payload = json.dumps({name: value for name, value in values.items() if value is not None})
        return jws.serialize_compact(header, payload, self.key)

    def document(self, path: str) -> dict[str, Any] | None:
        """What is at a path."""
        if path == "/.well-known/openid-configuration":
            return {"issuer": ISSUER, "jwks_uri": "https://10.0.0.1:6443/openid/v1/jwks"}
        if path == "/openid/v1/jwks":
            return dict(KeySet([self.key]).as_dict(private=False))
        return None


@contextmanager
def running_cluster(folder: Path) -> Iterator[Cluster]:
    """Serve a cluster's discovery documents on loopback while the block runs."""
    cluster: Cluster

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            cluster.requests.append(self.path)
            document = cluster.document(self.path)
            status = 200 if document else 404
            if self.headers.get("Authorization") != f"Bearer {POD_TOKEN}":
                status = 401
            if cluster.is_down:
                status = 500
            body = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    token_file = folder / "token"
    token_file.write_text(POD_TOKEN + "\n")
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as listener:
        cluster = Cluster(f"http://127.0.0.1:{listener.server_address[1]}", token_file)
        thread = threading.Thread(target=listener.serve_forever, daemon=True)
        thread.start()
        try:
            yield cluster
        finally:
            listener.shutdown()
            thread.join()
