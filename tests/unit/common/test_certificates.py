"""Certificates and authorities in files: what is refused, and what a renewal changes."""

import asyncio
import re
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID
from prometheus_client import CollectorRegistry, Gauge
from pydantic import ValidationError
from structlog.testing import capture_logs

from keystile_common import certificates
from keystile_common.certificates import REREAD_SECONDS, CertificateError, ServerCertificate, TrustedAuthorities
from keystile_common.settings import ListenTls
from tests.tls import Authority, MountedSecret

AUTHORITY = Authority()


class Clock:
    """Seconds that go on when they are told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def secret(tmp_path: Path) -> MountedSecret:
    return MountedSecret(tmp_path / "tls")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def not_after(registry: CollectorRegistry) -> Gauge:
    return Gauge("not_after", "-", ["setting"], registry=registry)


def load(secret: MountedSecret, not_after: Gauge) -> ServerCertificate:
    return ServerCertificate(secret.certificate_file, secret.key_file, "1.2", not_after)


def refusal(secret: MountedSecret, not_after: Gauge, **files: bytes) -> str:
    secret.write(**files)
    with pytest.raises(CertificateError) as refused:
        load(secret, not_after)
    return str(refused.value)


def encrypted(key: bytes) -> bytes:
    private = load_pem_private_key(key, password=None)
    return private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))


def test_each_pair_that_cannot_be_used_is_refused_by_the_setting(secret: MountedSecret, not_after: Gauge) -> None:
    certificate, key = AUTHORITY.pair()
    _, other_key = AUTHORITY.pair()
    expired, its_key = AUTHORITY.pair(ends_in=timedelta(seconds=-5))
    cases = [
        ({"tls_key": key}, "listen.tls.certificate_file: cannot read"),
        ({"tls_crt": certificate}, "listen.tls.key_file: cannot read"),
        ({"tls_crt": b"", "tls_key": key}, "listen.tls.certificate_file: .* holds no certificate"),
        ({"tls_crt": b"\xff\0junk", "tls_key": key}, "listen.tls.certificate_file: .* holds no certificate"),
        ({"tls_crt": certificate[:200], "tls_key": key}, "listen.tls.certificate_file: .* holds no certificate"),
        ({"tls_crt": key, "tls_key": certificate}, "listen.tls.certificate_file: .* holds no certificate"),
        ({"tls_crt": expired, "tls_key": its_key}, "listen.tls.certificate_file: the certificate in .* expired at 20"),
        ({"tls_crt": certificate, "tls_key": b""}, "listen.tls.key_file: .* holds no private key"),
        ({"tls_crt": certificate, "tls_key": encrypted(key)}, "listen.tls.key_file: .* without a passphrase"),
        ({"tls_crt": certificate, "tls_key": other_key}, "listen.tls.key_file: the key in .* is not that of the cert"),
    ]
    for number, (files, sentence) in enumerate(cases):
        said = refusal(MountedSecret(secret.folder / str(number)), not_after, **files)
        assert re.search(sentence, said), said
        assert "PRIVATE KEY" not in said


def weak_pair() -> tuple[bytes, bytes]:
    """A key that belongs to its certificate, and is too short for OpenSSL."""
    key = rsa.generate_private_key(65537, 1024)
    name, now = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")]), datetime.now(UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    certificate = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(key, SHA256())
    spelled = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return certificate.public_bytes(Encoding.PEM), spelled


def test_what_openssl_alone_refuses_costs_the_server_nothing(secret: MountedSecret, not_after: Gauge) -> None:
    AUTHORITY.renew(secret)
    loaded = load(secret, not_after)
    certificate, key = weak_pair()
    secret.write(tls_crt=certificate, tls_key=key)
    with capture_logs() as logs:
        loaded.renew()
    assert "cannot be used with its key (EE_KEY_TOO_SMALL)" in logs[0]["problem"]
    # What the context holds is still whole: the pair's key is checked against its certificate when another is loaded.
    AUTHORITY.renew(secret)
    loaded.renew()


def test_the_end_of_the_loaded_certificate_is_told(
    secret: MountedSecret, not_after: Gauge, registry: CollectorRegistry
) -> None:
    def told() -> float:
        return registry.get_sample_value("not_after", {"setting": "listen.tls"}) or 0.0

    AUTHORITY.renew(secret, ends_in=timedelta(days=1))
    loaded = load(secret, not_after)
    first = told()
    AUTHORITY.renew(secret, ends_in=timedelta(days=3))
    loaded.renew()
    assert told() - first == pytest.approx(2 * 86400, abs=5)


def test_a_renewal_is_logged_once_and_a_broken_one_once(secret: MountedSecret, not_after: Gauge) -> None:
    AUTHORITY.renew(secret)
    loaded = load(secret, not_after)
    context = loaded.context
    with capture_logs() as logs:
        loaded.renew()
        assert logs == []
        AUTHORITY.renew(secret)
        loaded.renew()
        loaded.renew()
        assert [entry["event"] for entry in logs] == ["the certificate was renewed"]
        certificate, _ = AUTHORITY.pair()
        _, key = AUTHORITY.pair()
        secret.write(tls_crt=certificate, tls_key=key)
        loaded.renew()
        loaded.renew()
        secret.write(tls_crt=b"", tls_key=b"")
        loaded.renew()
        AUTHORITY.renew(secret)
        loaded.renew()
    assert [entry["log_level"] for entry in logs] == ["info", "error", "error", "info"]
    assert "is not that of the certificate" in logs[1]["problem"]
    assert loaded.context is context


def test_links_that_go_in_a_circle_are_refused(secret: MountedSecret, not_after: Gauge) -> None:
    AUTHORITY.renew(secret)
    loaded = load(secret, not_after)
    secret.key_file.unlink()
    secret.key_file.symlink_to(secret.key_file.name)
    with pytest.raises(CertificateError, match=r"listen\.tls\.key_file: cannot read"):
        load(secret, not_after)
    with capture_logs() as logs:
        loaded.renew()
    assert len(logs) == 1


def test_half_of_a_pair_is_refused_in_the_settings(not_after: Gauge) -> None:
    for half in ({"certificate_file": "a"}, {"key_file": "a"}):
        with pytest.raises(ValidationError, match="needs certificate_file and key_file, or neither"):
            ListenTls.model_validate(half)
    assert certificates.load(ListenTls(), not_after) is None


def test_the_oldest_version_may_be_written_as_a_number(secret: MountedSecret, not_after: Gauge) -> None:
    AUTHORITY.renew(secret)
    values = {"certificate_file": secret.certificate_file, "key_file": secret.key_file, "minimum_version": 1.3}
    loaded = certificates.load(ListenTls.model_validate(values), not_after)
    assert loaded is not None
    assert loaded.context.minimum_version.name == "TLSv1_3"
    with pytest.raises(ValidationError, match=r"'1\.2' or '1\.3'"):
        ListenTls.model_validate({**values, "minimum_version": "1.1"})


def test_renewed_authorities_are_trusted_and_the_old_ones_no_longer(tmp_path: Path) -> None:
    path, clock = tmp_path / "ca.crt", Clock()
    path.write_bytes(AUTHORITY.pem)
    trusted = TrustedAuthorities(path, "introspection.ca_file", clock)
    first = trusted.context()
    other = Authority()
    path.write_bytes("# Prüfstelle\n".encode() + other.pem)
    assert trusted.context() is first
    clock.now += REREAD_SECONDS
    second = trusted.context()
    assert second is not first
    assert [each["serialNumber"] for each in second.get_ca_certs()] != [
        each["serialNumber"] for each in first.get_ca_certs()
    ]
    assert len(second.get_ca_certs()) == 1
    clock.now += REREAD_SECONDS
    assert trusted.context() is second


def test_authorities_may_stand_beside_those_of_the_system(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    path.write_bytes(AUTHORITY.pem)
    alone = TrustedAuthorities(path, "x").context().get_ca_certs()
    beside = TrustedAuthorities(path, "x", beside_system=True).context()
    system = ssl.create_default_context().get_ca_certs()
    assert len(beside.get_ca_certs()) == len(alone) + len(system)


@pytest.mark.parametrize("content", [b"", b" \n", b"junk", "ü".encode(), None])
def test_a_file_without_authorities_never_means_those_of_the_system(tmp_path: Path, content: bytes | None) -> None:
    path, clock = tmp_path / "ca.crt", Clock()
    if content is not None:
        path.write_bytes(content)
    trusted = TrustedAuthorities(path, "introspection.ca_file", clock)
    with pytest.raises(CertificateError, match=r"introspection\.ca_file: (cannot read|.* holds no certificate)"):
        trusted.context()
    path.write_bytes(AUTHORITY.pem)
    clock.now += REREAD_SECONDS
    good = trusted.context()
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with capture_logs() as logs:
        for _ in range(3):
            clock.now += REREAD_SECONDS
            assert trusted.context() is good
    assert len(logs) == 1


def test_a_client_authority_that_cannot_be_used_is_refused_by_the_setting(
    secret: MountedSecret, not_after: Gauge, tmp_path: Path
) -> None:
    AUTHORITY.renew(secret)
    path = tmp_path / "client-ca.pem"
    for content, sentence in ((None, "cannot read"), (b"", "holds no certificate"), (b"\xff junk", "holds no cert")):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(CertificateError, match=f"listen.tls.client_ca_file: .*{sentence}"):
            ServerCertificate(secret.certificate_file, secret.key_file, "1.2", not_after, path)


async def test_the_watch_tells_when_the_authorities_of_clients_are_others(
    secret: MountedSecret, not_after: Gauge, tmp_path: Path
) -> None:
    AUTHORITY.renew(secret)
    path = tmp_path / "client-ca.pem"
    path.write_bytes(AUTHORITY.pem)
    loaded = ServerCertificate(secret.certificate_file, secret.key_file, "1.2", not_after, path)
    told = asyncio.Event()
    watching = asyncio.create_task(loaded.watch(told.set, interval_seconds=0.01))
    try:
        AUTHORITY.renew(secret)
        await asyncio.sleep(0.1)
        assert not told.is_set()
        path.write_bytes(Authority().pem)
        await asyncio.wait_for(told.wait(), 5)
    finally:
        watching.cancel()
