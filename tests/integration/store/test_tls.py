"""Each shape over TLS with a client certificate and an ACL user, on the Valkey of its container image."""

import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from opentelemetry.trace import NoOpTracer
from testcontainers.core.container import DockerContainer

from keystile_auth.app import create_metrics
from keystile_common.settings import StoreSettings
from keystile_common.store import StoreUnavailableError, StoreUnsuitableError, connect
from tests.auth_server import running_auth_server
from tests.stores import SHAPES, Site, Stores

pytestmark = pytest.mark.docker


def write_certificates(folder: Path) -> None:
    """An authority, and a certificate of its for servers on 127.0.0.1 and their clients."""
    folder.mkdir()
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test authority")])
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "store")])

    def sign(subject: x509.Name, public: Any, extensions: list[tuple[x509.ExtensionType, bool]]) -> bytes:
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(subject).issuer_name(ca_name).public_key(public)
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now - timedelta(hours=1)).not_valid_after(now + timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(ca_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority = (x509.BasicConstraints(ca=True, path_length=0), True)
    address = (x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    (folder / "ca.crt").write_bytes(sign(ca_name, ca_key.public_key(), [authority]))
    (folder / "tls.crt").write_bytes(sign(name, key.public_key(), [address]))
    form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "tls.key").write_bytes(key.private_bytes(*form))


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One that the container has under the same path."""
    with tempfile.TemporaryDirectory(prefix="ks-") as short:
        write_certificates(Path(short) / "certificates")
        write_certificates(Path(short) / "strangers")
        yield Path(short)


@pytest.fixture(scope="module")
def container(folder: Path) -> Iterator[str]:
    image = DockerContainer("valkey/valkey:8").with_command("sleep 600")
    with image.with_kwargs(network_mode="host").with_volume_mapping(str(folder), str(folder), "rw") as running:
        yield str(running.get_wrapped_container().id)


@pytest.fixture(scope="module", params=sorted(SHAPES))
def stores(request: pytest.FixtureRequest, folder: Path, container: str) -> Iterator[Stores]:
    place = folder / request.param
    place.mkdir()
    try:
        with SHAPES[request.param](Site(place, folder / "certificates", container)) as running:
            yield running
    finally:
        # What runs in a container outlives the command that started it.
        kill = ["docker", "exec", container, "sh", "-c", "kill -9 $(pidof valkey-server valkey-sentinel)"]
        subprocess.run(kill, check=False, capture_output=True)


def test_a_code_is_exchanged_refreshed_and_revoked_over_tls(stores: Stores) -> None:
    with running_auth_server("", store=stores.settings) as server:
        client = server.register()
        first = server.tokens(client.id)
        second = server.refresh(client.id, first["refresh_token"]).json()
        assert server.is_active(second["access_token"])
        data = {"token": second["refresh_token"], "client_id": client.id}
        assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
        assert not server.is_active(second["access_token"])


async def test_a_certificate_of_an_authority_that_is_not_trusted_is_said_at_once(stores: Stores, folder: Path) -> None:
    settings = {**stores.settings, "ca_file": folder / "strangers" / "ca.crt"}
    store = connect(StoreSettings.model_validate(settings), create_metrics().store, NoOpTracer())
    started = time.monotonic()
    with pytest.raises(StoreUnsuitableError, match=r"certificate is refused: .*; check store\.ca_file"):
        await store.wait_until_reachable(30)
    assert time.monotonic() - started < 3
    await store.close()


async def test_without_a_client_certificate_nobody_gets_in(stores: Stores) -> None:
    settings = {key: value for key, value in stores.settings.items() if key not in {"certificate_file", "key_file"}}
    store = connect(StoreSettings.model_validate(settings), create_metrics().store, NoOpTracer())
    with pytest.raises(StoreUnavailableError):
        await store.wait_until_reachable(0)
    await store.close()
