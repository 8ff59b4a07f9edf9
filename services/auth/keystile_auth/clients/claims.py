"""Reading what a signed JWT claims (RFC 7519 section 4.1), whoever signed it."""

from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from keystile_auth.errors import OAuthError

LEEWAY_SECONDS = 30
"""How far clocks may be apart."""
MAX_CHARACTERS = 8 * 1024
_FAR_FUTURE = 1e12
_SEGMENTS = 3


def is_compact(token: str) -> bool:
    """Whether `token` may be a signed JWT of a size that is worth reading."""
    return len(token) <= MAX_CHARACTERS and len(token.split(".")) == _SEGMENTS


def key_set(document: Any) -> KeySet:
    """The public keys of a JSON Web Key Set.

    Raises:
        OAuthError: `invalid_client`: it is none.
    """
    try:
        # Symmetric keys have no place here: with one, a public key could serve as an HMAC secret.
        keys = [key for key in document["keys"] if key.get("kty") in {"EC", "RSA", "OKP"}]
        return KeySet.import_key_set({"keys": keys})
    except (JoseError, KeyError, TypeError, ValueError, AttributeError):
        raise refused("cannot be checked: the key set cannot be read") from None


def numeric_date(value: Any) -> float | None:
    """A NumericDate (RFC 7519 section 2) that can be one, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _FAR_FUTURE else None


def audiences_of(claims: dict[str, Any]) -> list[str]:
    """The audiences, whether `aud` is one or a list of them."""
    audience = claims.get("aud")
    values = audience if isinstance(audience, list) else [audience]
    return [each for each in values if isinstance(each, str)]


def refused(what: str) -> OAuthError:
    """The error for a client assertion that does not prove its client."""
    return OAuthError("invalid_client", f"the client assertion {what}")
