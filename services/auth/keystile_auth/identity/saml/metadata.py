"""Metadata of SAML: what an identity provider publishes, and what we publish (SAML metadata, section 2)."""

import base64
import binascii
from dataclasses import dataclass
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from saml2 import BINDING_HTTP_POST, BINDING_HTTP_REDIRECT, md, xmldsig

from keystile_auth.identity.saml.document import DSIG, METADATA, PROTOCOL, DocumentError, Element, read
from keystile_auth.identity.saml.signatures import WANTED_ENCRYPTIONS, SignatureError, Signatures
from keystile_auth.identity.saml.times import duration_of, seconds_of
from keystile_common.settings import is_loopback_host

_MAX_CERTIFICATES = 10
_MIN_RSA_BITS = 2048


class MetadataError(Exception):
    """Metadata that cannot be used; `str()` goes on with a sentence that begins with `its metadata`."""


class ExpiredMetadataError(MetadataError):
    """Metadata whose `validUntil` is over."""


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """What we need of an identity provider's metadata.

    Args:
        entity_id: what it calls itself.
        sign_in_url: where requests are sent by redirect.
        certificates: of the keys that it signs with, X.509, base64 of DER; several while it changes them.
        valid_until: Unix seconds from which on none of it holds, or None.
        keep_seconds: how long it may be kept until it is asked for again, or None.
    """

    entity_id: str
    sign_in_url: str
    certificates: tuple[str, ...]
    valid_until: float | None
    keep_seconds: int | None


def read_identity_provider(
    data: bytes, signatures: Signatures, *, entity_id: str | None, certificate: str | None, now: float
) -> IdentityProvider:
    """Read the metadata of one entity, or of a federation.

    Args:
        data: the document.
        signatures: checks its signature.
        entity_id: which entity of several; None where there is one.
        certificate: whose signature it must have, PEM, or None for metadata that is trusted as it comes.
        now: Unix seconds.

    Raises:
        ExpiredMetadataError: it held once.
        MetadataError: it cannot be used.
    """
    try:
        document = read(data, with_comments=True)
        if certificate is not None:
            signatures.verify_metadata(document, certificate)
        path = _entity(document.root, entity_id)
        entity = path[-1]
        (role,) = entity.having(METADATA, "IDPSSODescriptor")
        path.append(role)
        ends = [seconds_of(each.attributes["validUntil"]) for each in path if "validUntil" in each.attributes]
        keeps = [duration_of(each.attributes["cacheDuration"]) for each in path if "cacheDuration" in each.attributes]
    except DocumentError as problem:
        raise MetadataError(f"is not taken: {problem}") from None
    except SignatureError as problem:
        raise MetadataError(f"is not signed as it must be: {problem}") from None
    except (ValueError, OverflowError):
        raise MetadataError("has not one identity provider, or a time in it that is none") from None
    valid_until = min(ends, default=None)
    if valid_until is not None and valid_until <= now:
        raise ExpiredMetadataError("has expired")
    return IdentityProvider(
        entity.attributes["entityID"], _sign_in_url(role), _certificates(role), valid_until, min(keeps, default=None)
    )


def service_provider(entity_id: str, recipient: str, name_id_format: str | None, certificate: str | None) -> str:
    """Our own metadata, an XML document.

    Args:
        entity_id: what we call ourselves.
        recipient: where answers are posted to.
        name_id_format: the NameID that we ask for, a URI.
        certificate: X.509, base64 of DER: of the key that requests are signed with and assertions encrypted for.
    """
    role = md.SPSSODescriptor(
        protocol_support_enumeration=PROTOCOL,
        authn_requests_signed="true" if certificate else "false",
        want_assertions_signed="true",
        name_id_format=[md.NameIDFormat(text=name_id_format)] if name_id_format else [],
        assertion_consumer_service=[
            md.AssertionConsumerService(binding=BINDING_HTTP_POST, location=recipient, index="0", is_default="true")
        ],
        key_descriptor=[_key_descriptor(use, certificate) for use in ("signing", "encryption") if certificate],
    )
    return str(md.EntityDescriptor(entity_id=entity_id, spsso_descriptor=role))


def _key_descriptor(use: str, certificate: str) -> md.KeyDescriptor:
    data = xmldsig.X509Data(x509_certificate=xmldsig.X509Certificate(text=certificate))
    wanted = WANTED_ENCRYPTIONS if use == "encryption" else ()
    return md.KeyDescriptor(
        use=use,
        key_info=xmldsig.KeyInfo(x509_data=data),
        encryption_method=[md.EncryptionMethod(algorithm=each) for each in wanted],
    )


def _entity(root: Element, entity_id: str | None) -> list[Element]:
    """The one entity that is meant, and the groups around it from the root on."""
    found = [
        path
        for path in _entities([root])
        if path[-1].having(METADATA, "IDPSSODescriptor") and entity_id in {None, path[-1].attributes.get("entityID")}
    ]
    if len(found) != 1 or not found[0][-1].attributes.get("entityID"):
        raise ValueError
    return found[0]


def _entities(path: list[Element]) -> list[list[Element]]:
    if path[-1].name == f"{METADATA} EntityDescriptor":
        return [path]
    if path[-1].name != f"{METADATA} EntitiesDescriptor":
        return []
    return [found for child in path[-1].children for found in _entities([*path, child])]


def _sign_in_url(role: Element) -> str:
    for service in role.having(METADATA, "SingleSignOnService"):
        url = service.attributes.get("Location", "")
        if service.attributes.get("Binding") == BINDING_HTTP_REDIRECT and _is_trusted(url):
            return url
    raise MetadataError("has no SingleSignOnService with HTTP-Redirect at an https URL")


def _is_trusted(url: str) -> bool:
    if not url.isascii() or not url.isprintable() or " " in url:
        return False
    parts = urlsplit(url)
    if parts.username or parts.password or parts.fragment or not parts.hostname:
        return False
    # Plain http is for one on this machine.
    return parts.scheme == "https" or (parts.scheme == "http" and is_loopback_host(parts.hostname))


def _certificates(role: Element) -> tuple[str, ...]:
    found = [
        "".join(certificate.text.split())
        for key in role.having(METADATA, "KeyDescriptor")
        if key.attributes.get("use", "signing") == "signing"
        for info in key.having(DSIG, "KeyInfo")
        for data in info.having(DSIG, "X509Data")
        for certificate in data.having(DSIG, "X509Certificate")
    ]
    usable = tuple(dict.fromkeys(filter(_is_strong, found)))
    if not 0 < len(usable) <= _MAX_CERTIFICATES:
        raise MetadataError("has no certificate of a strong key to check signatures with, or too many of them")
    return usable


def _is_strong(certificate: str) -> bool:
    """Whether a certificate has a key that is taken. Its own dates do not count: metadata says what holds."""
    try:
        key = x509.load_der_x509_certificate(base64.b64decode(certificate, validate=True)).public_key()
    except (binascii.Error, ValueError):
        return False
    return isinstance(key, EllipticCurvePublicKey) or (isinstance(key, RSAPublicKey) and key.key_size >= _MIN_RSA_BITS)
