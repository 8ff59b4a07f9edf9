"""From what a browser posts to the one assertion in it that is signed, for us and now."""

import base64
import binascii
from collections.abc import Sequence

from keystile_auth.identity.answer import SignInRefusedError
from keystile_auth.identity.saml.assertion import Expected, Subject, check_response, read_assertion
from keystile_auth.identity.saml.document import DSIG, SAML, Document, DocumentError, Element, read
from keystile_auth.identity.saml.signatures import Signatures

MAX_POSTED_CHARACTERS = 256 * 1024


def subject_of(
    posted: str, expected: Expected, certificates: Sequence[str], signatures: Signatures, key: str | None
) -> Subject:
    """Whom a response vouches for.

    Args:
        posted: the parameter `SAMLResponse`.
        expected: what binds it to our request.
        certificates: whose signatures count, X.509, base64 of DER.
        signatures: checks them.
        key: opens assertions that are encrypted for us, PEM; None where none may be.

    Raises:
        DocumentError: it is no document that is taken, or has not exactly one assertion where it belongs.
        SignatureError: a signature is missing, or does not hold.
        SignInRefusedError: it is not for us, not now, or not an answer to our request.
    """
    document = read(_decoded(posted))
    check_response(document.root, expected)
    found = _one_assertion(document)
    if document.root.having(DSIG, "Signature"):
        # It need not be signed; where it is, it must hold.
        signatures.verify(document, certificates)
    if found.name == f"{SAML} EncryptedAssertion":
        assertion = _decrypted(document, found, signatures, key)
    else:
        assertion = read(document.alone([document.root, found]))
    signatures.verify(assertion, certificates)
    return read_assertion(assertion, expected)


def _decoded(posted: str) -> bytes:
    if len(posted) > MAX_POSTED_CHARACTERS:
        raise DocumentError("too large")
    try:
        return base64.b64decode(posted, validate=True)
    except (binascii.Error, ValueError):
        raise DocumentError("not base64") from None


def _one_assertion(document: Document) -> Element:
    found = [*document.all(SAML, "Assertion"), *document.all(SAML, "EncryptedAssertion")]
    if len(found) != 1:
        raise DocumentError("not one assertion")
    if not any(child is found[0] for child in document.root.children):
        raise DocumentError("an assertion where none belongs")
    own = len(document.root.having(DSIG, "Signature")) + len(found[0].having(DSIG, "Signature"))
    if len(document.all(DSIG, "Signature")) != own:
        raise DocumentError("a signature where none belongs")
    return found[0]


def _decrypted(document: Document, found: Element, signatures: Signatures, key: str | None) -> Document:
    if key is None:
        raise SignInRefusedError("saml encrypted", "it encrypted its answer, which is not set up here")
    opened = read(signatures.decrypt(read(document.alone([document.root, found])), key))
    root = opened.root
    if root.name != f"{SAML} EncryptedAssertion" or len(root.children) != 1:
        raise DocumentError("not one assertion")
    (assertion,) = root.children
    if assertion.name != f"{SAML} Assertion" or len(opened.all(SAML, "Assertion")) != 1:
        raise DocumentError("not one assertion")
    return read(opened.alone([root, assertion]))
