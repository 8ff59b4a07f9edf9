"""Certificates in files that somebody else renews: a server's own, and the authorities that a client trusts.

A mounted Kubernetes Secret is renewed by swapping one link. So what a path leads to is read again every few seconds,
and what is there then serves new handshakes; connections that are open go on.
"""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import structlog
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from prometheus_client import Gauge

from keystile_common.settings import ListenTls, SettingsError

REREAD_SECONDS = 10.0
"""The kubelet brings a changed Secret within about a minute; certificates are renewed weeks before they expire."""

_CLIENT_CA = "listen.tls.client_ca_file"
_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

_log = structlog.stdlib.get_logger(__name__)


class CertificateError(SettingsError):
    """A certificate, key or authority cannot be used; `str()` names the setting, never what is in a key."""


class ServerCertificate:
    """The certificate that a server shows, in a context that stays the same when it is renewed.

    Args:
        certificate_file: PEM, the server's own first, those that lead to its authority behind it.
        key_file: its private key, PEM without a passphrase.
        minimum_version: of TLS, "1.2" or "1.3".
        not_after: where the end of the loaded certificate is told, by setting.
        client_ca_file: PEM; clients are asked for a certificate of these authorities, and may come without one. Then
            it is TLS 1.3 alone, without sessions to resume: each connection shows its certificate anew.

    Raises:
        CertificateError: they are missing, unreadable, expired or of two different pairs.
    """

    def __init__(
        self,
        certificate_file: Path,
        key_file: Path,
        minimum_version: str,
        not_after: Gauge,
        client_ca_file: Path | None = None,
    ) -> None:
        self._certificate_file = certificate_file
        self._key_file = key_file
        self._client_ca_file = client_ca_file
        self._version = _VERSIONS["1.3" if client_ca_file else minimum_version]
        self._not_after = not_after.labels("listen.tls")
        self._loaded = b""
        self._client_authorities = b""
        self._refused: str | None = None
        self.context = self._empty_context()
        self._latest = self.context
        if client_ca_file is not None:
            # Called in each handshake, with a server name or without. OpenSSL adds to what a context trusts and takes
            # nothing back, so a renewal makes a new one; this one trusts nobody.
            self.context.sni_callback = self._choose_latest
        self._load()

    async def watch(
        self, on_other_authorities: Callable[[], None] = lambda: None, interval_seconds: float = REREAD_SECONDS
    ) -> None:
        """Load what has changed anew, until cancelled.

        Args:
            on_other_authorities: called when clients' certificates are of other authorities from now on.
            interval_seconds: between two looks.
        """
        while True:
            await asyncio.sleep(interval_seconds)
            before = self._client_authorities
            self.renew()
            if self._client_authorities != before:
                on_other_authorities()

    def renew(self) -> None:
        """Load what has changed. What cannot be used is logged once, and the old stays."""
        try:
            is_new = self._load()
        except CertificateError as problem:
            if str(problem) != self._refused:
                _log.error("a renewed certificate cannot be used, the old one stays", problem=str(problem))
            self._refused = str(problem)
            return
        self._refused = None
        if is_new:
            _log.info("the certificate was renewed", setting="listen.tls")

    def _empty_context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = self._version
        context.set_alpn_protocols(["http/1.1"])
        if self._client_ca_file is not None:
            context.verify_mode = ssl.CERT_OPTIONAL
            context.num_tickets = 0
        return context

    def _choose_latest(self, connection: ssl.SSLSocket | ssl.SSLObject, _name: str | None, _: ssl.SSLContext) -> None:
        connection.context = self._latest

    def _load(self) -> bool:
        # Followed to where they lead now: both are of one Secret, though its link is swapped meanwhile.
        certificate_file = _target(self._certificate_file, "listen.tls.certificate_file")
        key_file = _target(self._key_file, "listen.tls.key_file")
        certificate = _read(certificate_file, "listen.tls.certificate_file")
        key = _read(key_file, "listen.tls.key_file")
        authorities = _read(self._client_ca_file, _CLIENT_CA) if self._client_ca_file else b""
        digest = hashlib.sha256(b"\0".join((certificate, key, authorities))).digest()
        if digest == self._loaded:
            return False
        not_after = _check_pair(certificate, self._certificate_file, key, self._key_file)
        latest = self._empty_context()
        if self._client_ca_file is not None:
            _trust(latest, authorities, self._client_ca_file)
        # Whatever else OpenSSL may not like must not cost the context the pair it has.
        for context in (latest, self.context):
            try:
                context.load_cert_chain(certificate_file, key_file, password="")
            except (OSError, ValueError) as problem:
                reason = getattr(problem, "reason", None) or getattr(problem, "strerror", None) or "not readable"
                raise CertificateError(
                    f"listen.tls.certificate_file: {self._certificate_file} cannot be used with its key ({reason})"
                ) from None
        self._loaded, self._client_authorities, self._latest = digest, authorities, latest
        self._not_after.set(not_after.timestamp())
        return True


def _target(path: Path, setting: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # Python before 3.13 raises RuntimeError for links that go in a circle
        raise CertificateError(f"{setting}: cannot read {path}: its links lead nowhere") from None


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as problem:
        raise CertificateError(f"{setting}: cannot read {path}: {problem.strerror}") from None


def _check_pair(certificate: bytes, certificate_file: Path, key: bytes, key_file: Path) -> datetime:
    """The end of the first certificate, which is the server's own (RFC 8446 section 4.4.2)."""
    try:
        first = x509.load_pem_x509_certificates(certificate)[0]
        public = first.public_key()
    except (ValueError, UnsupportedAlgorithm):
        raise CertificateError(
            f"listen.tls.certificate_file: {certificate_file} holds no certificate that can be read, as PEM"
        ) from None
    if first.not_valid_after_utc <= datetime.now(UTC):
        raise CertificateError(
            f"listen.tls.certificate_file: the certificate in {certificate_file} expired at "
            f"{first.not_valid_after_utc.isoformat()}"
        )
    try:
        private = load_pem_private_key(key, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise CertificateError(
            f"listen.tls.key_file: {key_file} holds no private key that can be read, as PEM without a passphrase"
        ) from None
    if private.public_key() != public:
        raise CertificateError(
            f"listen.tls.key_file: the key in {key_file} is not that of the certificate in {certificate_file}"
        )
    return first.not_valid_after_utc


def _trust(context: ssl.SSLContext, authorities: bytes, path: Path) -> None:
    """Let `context` accept clients' certificates of the authorities of a file."""
    try:
        # Anything may stand between the certificates.
        context.load_verify_locations(cadata=authorities.decode("ascii", errors="ignore").strip() or "none")
    except (ssl.SSLError, ValueError):
        raise CertificateError(f"{_CLIENT_CA}: {path} holds no certificate, as PEM") from None


def load(tls: ListenTls, not_after: Gauge, client_ca_file: Path | None = None) -> ServerCertificate | None:
    """The certificate that the settings name, if they name one.

    Args:
        tls: the settings.
        not_after: see `ServerCertificate`.
        client_ca_file: see `ServerCertificate`.

    Raises:
        CertificateError: as `ServerCertificate`.
    """
    if tls.certificate_file is None or tls.key_file is None:
        return None
    return ServerCertificate(tls.certificate_file, tls.key_file, tls.minimum_version, not_after, client_ca_file)


class TrustedAuthorities:
    """The certificate authorities of a file.

    Args:
        path: PEM, one certificate or several.
        setting: what names the file, for sentences.
        beside_system: whether the system's are trusted too.
        clock: seconds that only go forward.
    """

    def __init__(
        self,
        path: Path,
        setting: str,
        clock: Callable[[], float] = time.monotonic,
        *,
        beside_system: bool = False,
    ) -> None:
        self._path = path
        self._setting = setting
        self._beside_system = beside_system
        self._clock = clock
        self._content = b""
        self._context: ssl.SSLContext | None = None
        self._read_at = float("-inf")
        self._refused: str | None = None

    def context(self) -> ssl.SSLContext:
        """A client's context that trusts what the file holds; a new one once it holds something else.

        Raises:
            CertificateError: the file could not be used from the beginning. One that is renewed and cannot be used
                is logged once, and the old one stays.
        """
        if self._context is not None and self._clock() - self._read_at < REREAD_SECONDS:
            return self._context
        self._read_at = self._clock()
        try:
            self._context = self._renewed()
            self._refused = None
        except CertificateError as problem:
            if self._context is None:
                raise
            if str(problem) != self._refused:
                _log.error("renewed certificate authorities cannot be used, the old ones stay", problem=str(problem))
            self._refused = str(problem)
        return self._context

    def _renewed(self) -> ssl.SSLContext:
        content = _read(self._path, self._setting)
        if content == self._content and self._context is not None:
            return self._context
        # Anything may stand between the certificates. Where there are none, Python would trust the system's.
        text = content.decode("ascii", errors="ignore").strip() or "none"
        try:
            # OpenSSL adds to what a context trusts and takes nothing back, so it is a new one.
            context = ssl.create_default_context(cadata=text)
            if self._beside_system:
                context.load_default_certs()
        except (ssl.SSLError, ValueError):
            raise CertificateError(f"{self._setting}: {self._path} holds no certificate, as PEM") from None
        self._content = content
        return context
