"""Signatures of SAML documents, and what is encrypted for us: pysaml2, which runs the program xmlsec1.

pysaml2's own defaults take unsigned responses, every algorithm of xmlsec1, and several assertions. Its parts are used
here one by one: its check of a signature's form (schema, one reference, to the element itself) runs after our own, and
xmlsec1 is told to take the given certificates alone, whatever `KeyInfo` says.
"""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from typing import IO, Any

from saml2 import md, saml, samlp
from saml2.sigver import SecurityContext, XmlsecError, pem_format

from keystile_auth.identity.saml.document import DSIG, PROTOCOL, SAML, XENC, Document, Element
from keystile_auth.identity.saml.xmlsec1 import XmlSec, file_of

# It writes documents and names of people into its log.
logging.getLogger("saml2").setLevel(logging.CRITICAL + 1)

_MORE = "http://www.w3.org/2001/04/xmldsig-more#"
_XENC11 = "http://www.w3.org/2009/xmlenc11#"
_EXCLUSIVE = "http://www.w3.org/2001/10/xml-exc-c14n#"
_SIGNATURES = {
    *(f"{_MORE}rsa-sha{bits}" for bits in (256, 384, 512)),
    *(f"{_MORE}ecdsa-sha{bits}" for bits in (256, 384, 512)),
}
_DIGESTS = {f"{XENC}sha256", f"{_MORE}sha384", f"{XENC}sha512"}
_TRANSFORMS = [f"{DSIG}enveloped-signature", _EXCLUSIVE]
_ENCRYPTIONS = {
    *(f"{_XENC11}aes{bits}-gcm" for bits in (128, 192, 256)),
    *(f"{XENC}aes{bits}-cbc" for bits in (128, 192, 256)),
}
# xmlsec1 opens the newer `xmlenc11#rsa-oaep` from version 1.3 on, which Debian does not have; `rsa-1_5` is unsafe.
_KEY_ENCRYPTIONS = {f"{XENC}rsa-oaep-mgf1p"}
WANTED_ENCRYPTIONS = (f"{_XENC11}aes256-gcm", f"{_XENC11}aes128-gcm", f"{XENC}rsa-oaep-mgf1p")
"""What we ask for in our metadata."""
_PARSERS: dict[str, Any] = {
    f"{SAML} Assertion": (saml.assertion_from_string, saml.Assertion),
    f"{PROTOCOL} Response": (samlp.response_from_string, samlp.Response),
}


class SignatureError(Exception):
    """A signature that does not hold, or a cipher that cannot be opened; `str()` is a few words for the audit log."""


def require_signed_by_itself(element: Element) -> None:
    """Refuse an element whose own signature is not of the one form that is taken.

    One enveloped signature of the element itself, exclusive canonicalization without comments, SHA-2, RSA or ECDSA
    (SAML core, section 5.4; less than it allows).

    Raises:
        SignatureError: it has none, or it is of another form.
    """
    signatures = element.having(DSIG, "Signature")
    if len(signatures) != 1:
        raise SignatureError("not signed" if not signatures else "two signatures")
    (signature,) = signatures
    info = _one(signature, "SignedInfo")
    reference = _one(info, "Reference")
    transforms = [_algorithm(each) for each in _one(reference, "Transforms").having(DSIG, "Transform")]
    if "ID" not in element.attributes or reference.attributes.get("URI") != f"#{element.attributes['ID']}":
        raise SignatureError("the signature is of another element")
    if transforms != _TRANSFORMS or _algorithm(_one(info, "CanonicalizationMethod")) != _EXCLUSIVE:
        raise SignatureError("a transform that is not allowed")
    if _algorithm(_one(info, "SignatureMethod")) not in _SIGNATURES:
        raise SignatureError("a signature algorithm that is not allowed")
    if _algorithm(_one(reference, "DigestMethod")) not in _DIGESTS:
        raise SignatureError("a digest algorithm that is not allowed")
    if signature.having(DSIG, "Object"):
        raise SignatureError("an object in the signature")


class Signatures:
    """Checks signatures and opens ciphers. Its methods run a program: they block for some hundredths of a second.

    Raises:
        MissingProgramError: there is no xmlsec1, or it does not run.
    """

    def __init__(self) -> None:
        self._backend = XmlSec()

    def verify(self, document: Document, certificates: Sequence[str]) -> None:
        """Check that the root of `document`, an assertion or a response, is signed by one of `certificates`.

        Args:
            document: its root.
            certificates: X.509, base64 of DER.

        Raises:
            SignatureError: it is not, or its form is another than the one that is taken.
        """
        root = document.root
        require_signed_by_itself(root)
        if root.name == f"{SAML} Assertion" and len(document.all(DSIG, "Signature")) != 1:
            raise SignatureError("two signatures")
        parse, kind = _PARSERS[root.name]
        text = document.data.decode()
        with ExitStack() as files:
            trusted = _Certificates([files.enter_context(file_of(pem_format(each).decode())) for each in certificates])
            context = SecurityContext(self._backend, "", metadata=trusted, only_use_keys_in_metadata=True)
            try:
                context.check_signature(parse(text), f"{kind.c_namespace}:{kind.c_tag}", text)
            except Exception:  # noqa: BLE001 (pysaml2 raises whatever its parsers do; each means: nothing is proved)
                raise SignatureError("the signature does not hold") from None

    def verify_metadata(self, document: Document, certificate: str) -> None:
        """The same for a document of metadata; `certificate` is whom the operator trusts, PEM."""
        root = document.root
        require_signed_by_itself(root)
        with file_of(certificate) as file:
            node = f"{md.NAMESPACE}:{root.name.partition(' ')[2]}"
            try:
                self._backend.validate_signature(document.data, file.name, "pem", node, root.attributes["ID"])
            except XmlsecError:
                raise SignatureError("the signature does not hold") from None

    def decrypt(self, document: Document, key: str) -> bytes:
        """Open an `EncryptedAssertion`, the root of `document`; answers the document with the assertion in it.

        Args:
            document: its root.
            key: our private key, PEM.

        Raises:
            SignatureError: it is not for us, or encrypted in a way that is not taken.
        """
        _require_plain_cipher(document)
        # On disk for as long as the program runs, for this user alone: it takes keys from files only.
        with file_of(key) as file:
            try:
                return self._backend.decrypt(document.data, file.name)
            except XmlsecError:
                raise SignatureError("cannot be decrypted") from None


class _Certificates:
    """What pysaml2 takes for its store of metadata: the certificates in these files, for whoever is asked about."""

    def __init__(self, files: Sequence[IO[str]]) -> None:
        self._files = files

    def certs(self, *_: object) -> list[tuple[None, IO[str]]]:
        return [(None, each) for each in self._files]


def _require_plain_cipher(document: Document) -> None:
    ciphers, keys = document.all(XENC, "EncryptedData"), document.all(XENC, "EncryptedKey")
    if len(ciphers) != 1 or len(keys) != 1:
        raise SignatureError("not one cipher and one key")
    # These make the program read what lies elsewhere.
    if document.all(XENC, "CipherReference") or document.all(DSIG, "RetrievalMethod"):
        raise SignatureError("a cipher that lies elsewhere")
    for cipher, allowed in ((ciphers[0], _ENCRYPTIONS), (keys[0], _KEY_ENCRYPTIONS)):
        methods = cipher.having(XENC, "EncryptionMethod")
        if len(methods) != 1 or _algorithm(methods[0]) not in allowed:
            raise SignatureError("an encryption algorithm that is not allowed")


def _one(parent: Element, name: str) -> Element:
    found = parent.having(DSIG, name)
    if len(found) != 1:
        raise SignatureError(f"not one {name} in the signature")
    return found[0]


def _algorithm(element: Element) -> str:
    return element.attributes.get("Algorithm", "")
