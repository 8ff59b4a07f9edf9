"""An authority, and certificates of it in a folder that is renewed as Kubernetes renews a mounted Secret."""

import shutil
import socket
import ssl
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID


@dataclass
class MountedSecret:
    """A folder whose files are links into one hidden folder, which is swapped as a whole."""

    folder: Path

    @property
    def certificate_file(self) -> Path:
        return self.folder / "tls.crt"

    @property
    def key_file(self) -> Path:
        return self.folder / "tls.key"

    def write(self, **files: bytes) -> None:
        """Put `files` (dots written as underscores) in the place of what is there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix="..", dir=self.folder))
        fresh.chmod(0o755)
        for name, content in files.items():
            (fresh / name.replace("_", ".")).write_bytes(content)
        data = self.folder / "..data"
        old = data.resolve() if data.is_symlink() else None
        swapped = self.folder / "..data_tmp"
        swapped.symlink_to(fresh.name)
        swapped.rename(data)
        for name in files:
            link = self.folder / name.replace("_", ".")
            if not link.is_symlink():
                link.symlink_to(f"..data/{link.name}")
        if old is not None:
            shutil.rmtree(old)


@dataclass
class Authority:
    """A certificate authority of a test's own."""

    ca: trustme.CA = field(default_factory=trustme.CA)

    @property
    def pem(self) -> bytes:
        return self.ca.cert_pem.bytes()

    def pair(self, *names: str, ends_in: timedelta = timedelta(days=1)) -> tuple[bytes, bytes]:
        """A certificate for `names` and its key, PEM."""
        end = datetime.now(UTC) + ends_in
        leaf = self.ca.issue_cert(
            *(names or ("localhost", "127.0.0.1")), not_before=end - timedelta(days=30), not_after=end
        )
        return b"".join(blob.bytes() for blob in leaf.cert_chain_pems), leaf.private_key_pem.bytes()

    def client_pair(self, *names: str, ends_in: timedelta = timedelta(days=1)) -> tuple[bytes, bytes]:
        """A certificate for a client and its key, PEM; names with `://` are URIs, the others DNS names."""
        issuer = x509.load_pem_x509_certificate(self.pem)
        signer = load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        key = ec.generate_private_key(ec.SECP256R1())
        end = datetime.now(UTC) + ends_in
        kinds = [x509.UniformResourceIdentifier if "://" in name else x509.DNSName for name in names]
        alternatives = [kind(name) for kind, name in zip(kinds, names, strict=True)]
        certificate = (
            x509.CertificateBuilder(
                issuer.subject,
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "proxy.example.com")]),
                key.public_key(),
                x509.random_serial_number(),
                end - timedelta(days=30),
                end,
            )
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer.public_key()),  # type: ignore[arg-type]
                critical=False,
            )
            .sign(signer, SHA256())  # type: ignore[arg-type]
        )
        spelled = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return certificate.public_bytes(Encoding.PEM), spelled

    def showing(self, pair: tuple[bytes, bytes], folder: Path) -> ssl.SSLContext:
        """A client's context that trusts this authority alone, and shows a certificate; `folder` is for its files."""
        context = self.trusting
        path = folder / f"client-{x509.load_pem_x509_certificate(pair[0]).serial_number}.pem"
        path.write_bytes(pair[0] + pair[1])
        context.load_cert_chain(path)
        return context

    def renew(self, secret: MountedSecret, *names: str, ends_in: timedelta = timedelta(days=1)) -> int:
        """Put a new pair into `secret`; the certificate's serial number."""
        certificate, key = self.pair(*names, ends_in=ends_in)
        secret.write(tls_crt=certificate, tls_key=key, ca_crt=self.pem)
        return x509.load_pem_x509_certificate(certificate).serial_number

    @property
    def trusting(self) -> ssl.SSLContext:
        """A client's context that trusts this authority alone."""
        return ssl.create_default_context(cadata=self.pem.decode())


def shown_serial(port: int, authority: Authority) -> int:
    """The serial number of the certificate that a new handshake on loopback sees."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        authority.trusting.wrap_socket(plain, server_hostname="localhost") as secure,
    ):
        return x509.load_der_x509_certificate(secure.getpeercert(binary_form=True) or b"").serial_number
