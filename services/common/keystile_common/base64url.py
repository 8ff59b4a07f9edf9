"""Base64url without padding (RFC 7515 section 2): how tokens, hashes and the parts of a JWT are written."""

from binascii import a2b_base64, b2a_base64

_TO_URL = bytes.maketrans(b"+/", b"-_")
_FROM_URL = bytes.maketrans(b"-_", b"+/")


def encode(data: bytes) -> str:
    """The text of `data`. By hand, since the standard library's comes with padding, and each token has several."""
    return b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode()


def decode(text: str) -> bytes:
    """The bytes of `text`; what is no base64url in it is passed over, and there are other texts of the same bytes.

    Raises:
        ValueError: not ASCII, or of a length that no bytes have.
    """
    return a2b_base64(text.encode("ascii").translate(_FROM_URL) + b"==")
