"""An authorization server behind a front proxy that signs people in, and the connections that such a proxy makes."""

import socket
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
from prometheus_client import CollectorRegistry, Gauge

from keystile_common.certificates import ServerCertificate
from tests.auth_server import AuthServer, running_auth_server
from tests.person import Person
from tests.tls import Authority, MountedSecret

PROXY_NAME = "proxy.example.com"
PROXY_URI = "spiffe://example.com/ns/ingress/sa/proxy"
IDENTITY = {
    "kind": "header",
    "title": "The portal",
    "certificate_names": [PROXY_NAME, PROXY_URI],
    "name_header": "X-Remote-Name",
    "email_header": "X-Remote-Email",
    "groups_header": "X-Remote-Groups",
}
Headers = dict[str, str]


@dataclass
class Site:
    """The server, the authority of its certificate and the proxy's, and a folder for files."""

    server: AuthServer
    authority: Authority
    certificate: ServerCertificate
    folder: Path

    @property
    def port(self) -> int:
        return int(self.server.issuer.rpartition(":")[2])

    def showing(self, *names: str) -> ssl.SSLContext:
        """A context of a client with a certificate of the right authority for `names`."""
        return self.authority.showing(self.authority.client_pair(*names), self.folder)

    @property
    def proxy(self) -> ssl.SSLContext:
        return self.showing(PROXY_NAME)

    def person(self, headers: Headers, context: ssl.SSLContext | None = None) -> Person:
        """A browser whose requests come through the proxy, which says `headers` with each."""
        person = Person(self.server.issuer, "", "")
        person.browser.close()
        person.browser = httpx2.Client(timeout=10, verify=context or self.proxy)
        spoken = {"Accept": "text/html", **headers}
        person.browser.headers.update({name.encode(): value.encode() for name, value in spoken.items()})
        self.server.people.append(person)
        return person

    def logins(self) -> list[str]:
        return [event["reason"] for event in self.server.events("user.login")]

    def raw(self, context: ssl.SSLContext, *requests: bytes) -> list[bytes]:
        """The answers to `requests`, sent at once on one connection."""
        with (
            closing(socket.create_connection(("127.0.0.1", self.port), timeout=10)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as secure,
        ):
            secure.sendall(b"".join(requests))
            heard = b""
            while part := secure.recv(65536):
                heard += part
        return [b"HTTP/1.1 " + each for each in heard.split(b"HTTP/1.1 ")[1:]]


def get(path: str, headers: Sequence[tuple[str, bytes]], *, close: bool = False) -> bytes:
    """A request as it is sent."""
    last = [b"Connection: close"] if close else []
    lines = [f"GET {path} HTTP/1.1".encode(), b"Host: localhost", *(n.encode() + b": " + v for n, v in headers), *last]
    return b"\r\n".join([*lines, b"", b""])


@contextmanager
def behind_proxy(
    store_url: str, folder: Path, *, identity: dict[str, Any] | None = None, **more: Any
) -> Iterator[Site]:
    """Run the server behind TLS that asks clients for certificates; `identity` replaces all identities."""
    authority = Authority()
    secret = MountedSecret(folder / "tls")
    authority.renew(secret, "localhost")
    ca_file = folder / "client-ca.pem"
    ca_file.write_bytes(authority.pem)
    certificate = ServerCertificate(
        secret.certificate_file,
        secret.key_file,
        "1.2",
        Gauge("not_after", "-", ["setting"], registry=CollectorRegistry()),
        ca_file,
    )
    files = {"certificate_file": secret.certificate_file, "key_file": secret.key_file, "client_ca_file": ca_file}
    with running_auth_server(
        store_url,
        certificate=certificate,
        verify=authority.trusting,
        identity=identity or {"portal": IDENTITY},
        listen={"tls": files},
        **{"clock": time.time, **more},
    ) as server:
        yield Site(server, authority, certificate, folder)
