"""The form of Keystile's own tokens: what can be told from a token's text alone.

A token is a prefix that says its kind, 43 base64url characters of randomness, and six characters of
checksum over all that stands before them. The checksum is no secret and proves nothing about where a token
comes from; it only lets a resource server refuse a mistyped, truncated or invented one without asking.
"""

import re
import string
import zlib

PREFIX = "kst_"
"""How every token of Keystile begins."""

ACCESS_TOKEN_PREFIX = "kst_at_"
CHECKSUM_LENGTH = 6
_GRANT = slice(len(ACCESS_TOKEN_PREFIX), len(ACCESS_TOKEN_PREFIX) + 16)

_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_ACCESS_TOKEN = re.compile(rf"{ACCESS_TOKEN_PREFIX}[A-Za-z0-9_-]{{43}}[0-9A-Za-z]{{{CHECKSUM_LENGTH}}}")


def checksum(text: str) -> str:
    """The checksum that follows `text` in a token.

    Args:
        text: the prefix and the random part, ASCII.

    Returns:
        CRC-32 of `text` in base 62 (digits, capitals, small letters), most significant first, padded to six.
    """
    value, last = divmod(zlib.crc32(text.encode("ascii")), len(_PAIRS))
    first, middle = divmod(value, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]


def is_well_formed(token: str) -> bool:
    """Whether `token` has the form of a Keystile access token and its checksum is right."""
    if _ACCESS_TOKEN.fullmatch(token) is None:
        return False
    return checksum(token[:-CHECKSUM_LENGTH]) == token[-CHECKSUM_LENGTH:]


def grant_of(token: str) -> str | None:
    """The id of the grant that an access token of Keystile names; None for any other text."""
    return token[_GRANT] if _ACCESS_TOKEN.fullmatch(token) else None


def grant_of_jti(jti: str) -> str | None:
    """The id of the grant that the `jti` of a JWT of Keystile names; None for the `jti` of an opaque token."""
    grant, dot, _ = jti.partition(".")
    return grant if dot else None
