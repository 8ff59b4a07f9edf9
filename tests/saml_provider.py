"""A SAML identity provider on a loopback port whose every answer a test may change; xmlsec1 signs for it."""

import base64
import subprocess
import threading
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from secrets import token_hex
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.openid_provider import to_provider
from tests.person import Person

ASSERTION = "urn:oasis:names:tc:SAML:2.0:assertion"
PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
PERSISTENT = "urn:oasis:names:tc:SAML:2.0:nameid-format:persistent"
SUCCESS = "urn:oasis:names:tc:SAML:2.0:status:Success"
RSA_SHA256 = "http://www.w3.org/2001/04/xmldsig-more#rsa-sha256"
SHA256 = "http://www.w3.org/2001/04/xmlenc#sha256"
EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"


@dataclass
class SigningKey:
    """A key and its certificate."""

    private: Any = field(default_factory=lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048))

    def __post_init__(self) -> None:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test")])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(self.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=2))
            .not_valid_after(now + timedelta(days=2))
            .sign(self.private, hashes.SHA256())
        )

    @property
    def pem(self) -> str:
        return str(self.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), "ascii")

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(Encoding.PEM).decode()

    @property
    def certificate_text(self) -> str:
        return base64.b64encode(self.certificate.public_bytes(Encoding.DER)).decode()


def elliptic_key() -> SigningKey:
    """A key on the curve P-256."""
    return SigningKey(ec.generate_private_key(ec.SECP256R1()))


def instant(seconds: float = 0) -> str:
    """The time, so many seconds from now."""
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")


def signature_template(
    reference: str,
    *,
    signature: str = RSA_SHA256,
    digest: str = SHA256,
    canonicalization: str = EXCLUSIVE,
    transforms: tuple[str, ...] = ("http://www.w3.org/2000/09/xmldsig#enveloped-signature", EXCLUSIVE),
    key_info: str = "",
) -> str:
    """A signature that xmlsec1 has to fill in."""
    chain = "".join(f'<ds:Transform Algorithm="{each}"/>' for each in transforms)
    return (
        '<ds:Signature xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:SignedInfo>'
        f'<ds:CanonicalizationMethod Algorithm="{canonicalization}"/>'
        f'<ds:SignatureMethod Algorithm="{signature}"/>'
        f'<ds:Reference URI="#{reference}"><ds:Transforms>{chain}</ds:Transforms>'
        f'<ds:DigestMethod Algorithm="{digest}"/><ds:DigestValue></ds:DigestValue></ds:Reference>'
        f"</ds:SignedInfo><ds:SignatureValue></ds:SignatureValue>{key_info}</ds:Signature>"
    )


def sign(document: str, identifier: str, key: SigningKey, *more: str, hmac: bytes | None = None) -> str:
    """Fill in the signature in the element of this ID."""
    with TemporaryDirectory() as folder:
        source, keyfile, target = (Path(folder) / name for name in ("in.xml", "key", "out.xml"))
        source.write_text(document)
        keyfile.write_bytes(hmac or key.pem.encode())
        kinds = [f"--id-attr:ID {ASSERTION}:Assertion", f"--id-attr:ID {PROTOCOL}:Response"]
        kinds += [f"--id-attr:ID urn:oasis:names:tc:SAML:2.0:metadata:{each}" for each in ("EntityDescriptor",)]
        command = ["xmlsec1", "--sign", "--hmackey" if hmac else "--privkey-pem", str(keyfile)]
        command += [*" ".join(kinds).split(), "--node-id", identifier, "--output", str(target), *more, str(source)]
        ended = subprocess.run(command, capture_output=True, check=False)
        assert ended.returncode == 0, ended.stderr.decode()
        return target.read_text().partition("?>\n")[2]


@dataclass
class Request:
    """An AuthnRequest that a browser brought."""

    id: str
    recipient: str
    issuer: str
    relay_state: str
    xml: str
    query: dict[str, str]


@dataclass
class Answer:
    """What an answer says, each part for a test to change."""

    request: Request
    issuer: str
    key: SigningKey
    subject: str = "ada-7"
    name_format: str = PERSISTENT
    attributes: dict[str, list[str]] = field(default_factory=dict)
    assertion_id: str = field(default_factory=lambda: f"_{token_hex(16)}")
    response_id: str = field(default_factory=lambda: f"_{token_hex(16)}")
    begins: float = -5
    ends: float = 300
    session_ends: float | None = None
    status: str = f'<samlp:StatusCode Value="{SUCCESS}"/>'
    changes: dict[str, str] = field(default_factory=dict)
    algorithms: dict[str, Any] = field(default_factory=dict)
    sign_assertion: bool = True
    sign_response: bool = False

    def assertion(self, *, subject: str | None = None, identifier: str | None = None, signature: str = "") -> str:
        """An assertion without a signature, or with one that is to be filled in."""
        said = {
            "audience": self.request.issuer,
            "recipient": self.request.recipient,
            "in_response_to": self.request.id,
            "assertion_issuer": self.issuer,
            **self.changes,
        }
        attributes = "".join(
            f'<saml:Attribute Name="{name}">'
            + "".join(f"<saml:AttributeValue>{value}</saml:AttributeValue>" for value in values)
            + "</saml:Attribute>"
            for name, values in self.attributes.items()
        )
        statement = f"<saml:AttributeStatement>{attributes}</saml:AttributeStatement>" if attributes else ""
        session = f' SessionNotOnOrAfter="{instant(self.session_ends)}"' if self.session_ends is not None else ""
        begins, ends = instant(self.begins), instant(self.ends)
        return (
            f'<saml:Assertion xmlns:saml="{ASSERTION}" ID="{identifier or self.assertion_id}" Version="2.0"'
            f' IssueInstant="{instant()}"><saml:Issuer>{said["assertion_issuer"]}</saml:Issuer>{signature}'
            f'<saml:Subject><saml:NameID Format="{self.name_format}">{subject or self.subject}</saml:NameID>'
            '<saml:SubjectConfirmation Method="urn:oasis:names:tc:SAML:2.0:cm:bearer"><saml:SubjectConfirmationData'
            f' InResponseTo="{said["in_response_to"]}" Recipient="{said["recipient"]}" NotOnOrAfter="{ends}"/>'
            f'</saml:SubjectConfirmation></saml:Subject><saml:Conditions NotBefore="{begins}" NotOnOrAfter="{ends}">'
            f"<saml:AudienceRestriction><saml:Audience>{said['audience']}</saml:Audience></saml:AudienceRestriction>"
            f'</saml:Conditions><saml:AuthnStatement AuthnInstant="{begins}"{session}><saml:AuthnContext>'
            "<saml:AuthnContextClassRef>urn:oasis:names:tc:SAML:2.0:ac:classes:Password</saml:AuthnContextClassRef>"
            f"</saml:AuthnContext></saml:AuthnStatement>{statement}</saml:Assertion>"
        )

    def signed_assertion(self) -> str:
        """The assertion, signed."""
        template = signature_template(self.assertion_id, **self.algorithms)
        return sign(self.assertion(signature=template), self.assertion_id, self.key)

    def response(self, inside: str, *, signature: str = "", identifier: str | None = None, before: str = "") -> str:
        """A response around `inside`."""
        said = {
            "destination": self.request.recipient,
            "response_in_response_to": self.request.id,
            "response_issuer": self.issuer,
            **self.changes,
        }
        return (
            f'<samlp:Response xmlns:samlp="{PROTOCOL}" ID="{identifier or self.response_id}" Version="2.0"'
            f' IssueInstant="{instant()}" Destination="{said["destination"]}"'
            f' InResponseTo="{said["response_in_response_to"]}">'
            f'<saml:Issuer xmlns:saml="{ASSERTION}">{said["response_issuer"]}</saml:Issuer>{signature}{before}'
            f"<samlp:Status>{self.status}</samlp:Status>{inside}</samlp:Response>"
        )

    def document(self) -> str:
        """The whole of it, as it should be."""
        inside = self.signed_assertion() if self.sign_assertion else self.assertion()
        if not self.sign_response:
            return self.response(inside)
        template = signature_template(self.response_id)
        return sign(self.response(inside, signature=template), self.response_id, self.key)


@dataclass
class SamlProvider:
    """The provider: its entity id, its key, what its metadata says more, and what it was asked."""

    origin: str
    key: SigningKey = field(default_factory=SigningKey)
    published: list[SigningKey] | None = None
    attributes: dict[str, list[str]] = field(default_factory=lambda: {"username": ["ada"]})
    metadata_attributes: str = ""
    metadata_change: Callable[[str], str] | None = None
    metadata_status: int = 200
    fetches: Counter[str] = field(default_factory=Counter)

    @property
    def entity_id(self) -> str:
        return f"{self.origin}/entity"

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What Keystile is told of it."""
        return {"kind": "saml", "metadata_url": f"{self.origin}/metadata?for=keystile", **changes}

    def metadata(self) -> str:
        """Its metadata."""
        keys = "".join(
            '<md:KeyDescriptor use="signing"><ds:KeyInfo xmlns:ds="http://www.w3.org/2000/09/xmldsig#"><ds:X509Data>'
            f"<ds:X509Certificate>{each.certificate_text}</ds:X509Certificate></ds:X509Data></ds:KeyInfo>"
            "</md:KeyDescriptor>"
            for each in ([self.key] if self.published is None else self.published)
        )
        text = (
            f'<md:EntityDescriptor xmlns:md="urn:oasis:names:tc:SAML:2.0:metadata" ID="_m"'
            f' entityID="{self.entity_id}"{self.metadata_attributes}><!-- a comment -->'
            f'<md:IDPSSODescriptor protocolSupportEnumeration="{PROTOCOL}">{keys}'
            '<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-POST"'
            f' Location="{self.origin}/post"/>'
            '<md:SingleSignOnService Binding="urn:oasis:names:tc:SAML:2.0:bindings:HTTP-Redirect"'
            f' Location="{self.origin}/sso"/></md:IDPSSODescriptor></md:EntityDescriptor>'
        )
        return self.metadata_change(text) if self.metadata_change else text

    def page(self, location: str) -> str:
        """What a browser is answered that brings a request: a page that posts the answer by itself."""
        request = read_request(location)
        text = base64.b64encode(self.answer(request).document().encode()).decode()
        return (
            f'<!doctype html><title>posting</title><form method="post" action="{request.recipient}">'
            f'<input type="hidden" name="SAMLResponse" value="{text}">'
            f'<input type="hidden" name="RelayState" value="{request.relay_state}"></form>'
            "<script>document.forms[0].submit()</script>"
        )

    def answer(self, request: Request, **changes: Any) -> Answer:
        """An answer as it should be, but for `changes`."""
        values: dict[str, Any] = {"attributes": dict(self.attributes), **changes}
        return Answer(request, values.pop("issuer", self.entity_id), values.pop("key", self.key), **values)


def read_request(location: str) -> Request:
    """The request of a redirect to the provider."""
    query = dict(parse_qsl(urlsplit(location).query))
    xml = zlib.decompress(base64.b64decode(query["SAMLRequest"]), -15).decode()
    root = ElementTree.fromstring(xml)
    issuer = root.find(f"{{{ASSERTION}}}Issuer")
    assert issuer is not None
    recipient = root.attrib["AssertionConsumerServiceURL"]
    return Request(root.attrib["ID"], recipient, issuer.text or "", query.get("RelayState", ""), xml, query)


def ask(person: Person, authorization_url: str, identity: str = "corp") -> Request:
    """Open a client's authorization URL, choose the identity and consent; answers what arrives at the provider."""
    return read_request(to_provider(person, authorization_url, identity).headers["location"])


def post(person: Person, request: Request, document: str | bytes, **fields: str) -> httpx2.Response:
    """Post an answer as the provider's page has a browser do: without the cookies of the site that it is posted to."""
    data = document.encode() if isinstance(document, str) else document
    return post_text(person, request, base64.b64encode(data).decode(), **fields)


def post_text(person: Person, request: Request, text: str, **fields: str) -> httpx2.Response:
    """The same with a text that may be no base64."""
    body = {"SAMLResponse": text, "RelayState": request.relay_state, **fields}
    with httpx2.Client(timeout=20, headers={"Accept": "text/html", "Origin": "https://idp.example"}) as elsewhere:
        answer = elsewhere.post(request.recipient, data=body)
    if answer.status_code != 303:
        return answer
    origin = "/".join(request.recipient.split("/")[:3])
    return person.get(origin + answer.headers["location"])


class _Handler(BaseHTTPRequestHandler):
    provider: SamlProvider

    def do_GET(self) -> None:
        if self.path.startswith("/sso"):
            self._send(200, "text/html", self.provider.page(self.path))
            return
        self.provider.fetches[self.path] += 1
        self._send(self.provider.metadata_status, "application/samlmetadata+xml", self.provider.metadata())

    def _send(self, status: int, kind: str, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up on a body too long is no error of a test."""


@contextmanager
def running_saml_provider() -> Iterator[SamlProvider]:
    """Run a provider while the block runs."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        provider = SamlProvider(f"http://127.0.0.1:{server.server_address[1]}")
        handler.provider = provider  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join(timeout=5)
