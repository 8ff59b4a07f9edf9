"""The certificate that a client showed in the TLS handshake, and how an application learns of it.

It stands among the extensions of the ASGI scope, which the server alone writes: no header can say it.
"""

import asyncio
import ssl
from dataclasses import dataclass

from starlette.types import Scope

EXTENSION = "keystile.client_certificate"


@dataclass(frozen=True, slots=True)
class ClientCertificate:
    """One that chains to an authority of `listen.tls.client_ca_file`.

    Args:
        names: its subject alternative names of the types DNS and URI, as pairs of type and name (RFC 5280 section
            4.2.1.6). The subject's common name is none of them.
        not_after: its end, Unix seconds.
    """

    names: frozenset[tuple[str, str]]
    not_after: float


def shown_on(transport: asyncio.Transport) -> ClientCertificate | None:
    """What the client of a connection showed; None without TLS, without being asked, and from who showed none."""
    connection = transport.get_extra_info("ssl_object")
    if connection is None or connection.context.verify_mode is ssl.CERT_NONE or connection.session_reused:
        return None
    # Empty unless OpenSSL has verified it; the handshake fails for one that does not chain.
    certificate = connection.getpeercert()
    if not certificate:
        return None
    names = frozenset((kind, name) for kind, name in certificate.get("subjectAltName", ()) if kind in {"DNS", "URI"})
    return ClientCertificate(names, ssl.cert_time_to_seconds(certificate["notAfter"]))


def of(scope: Scope) -> ClientCertificate | None:
    """The certificate of the client that sent this request."""
    certificate = scope.get("extensions", {}).get(EXTENSION, {}).get("certificate")
    return certificate if isinstance(certificate, ClientCertificate) else None
