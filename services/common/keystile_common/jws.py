"""Signed JWTs that others present: read strictly, believed only once a known key's signature holds.

The one place where a JWS is taken apart (RFC 7515, RFC 7519, and the advice of RFC 8725). What a token's header may
decide is which of the known keys to try; it never brings a key, and never changes the rules.
"""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any, Literal

from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key

from keystile_common import base64url

MAX_CHARACTERS = 8 * 1024
LEEWAY_SECONDS = 30
"""How far clocks may be apart."""
ALGORITHMS = ("ES256", "ES384", "PS256", "RS256", "Ed25519")
"""What may sign: no `none`, and nothing symmetric, for which a public key would do as the secret."""

Key = ECKey | RSAKey | OKPKey
Kind = Literal["malformed", "unsupported", "unknown_key", "bad_signature"]

_MAX_KEYS = 100
_MIN_RSA_BITS = 2048
_MAX_RSA_BITS = 8192
_MAX_KID_CHARACTERS = 256
_FAR_FUTURE = 1e12
_SEGMENTS = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
# They bring a key, change how the rest is read, or belong to encryption (RFC 7515 section 4.1, RFC 7797, RFC 7516).
_REFUSED_HEADERS = frozenset({"crit", "jwk", "jku", "x5u", "x5c", "b64", "zip", "enc", "epk", "p2c", "p2s"})
_CURVES = {"ES256": "P-256", "ES384": "P-384", "Ed25519": "Ed25519"}
_REGISTRY = jws.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)


class JwsError(Exception):
    """A token that proves nothing. `kind` says why from a closed set; `str()` ends a sentence that begins with it."""

    def __init__(self, kind: Kind, what: str) -> None:
        super().__init__(what)
        self.kind = kind


@dataclass(frozen=True, slots=True, repr=False)
class UnverifiedJwt:
    """A well-formed signed JWT that nobody vouches for yet."""

    text: str
    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def algorithm(self) -> str:
        """What it says it is signed with, one of those that were allowed."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        """The id of the key that it says it is signed with."""
        return self.header.get("kid")

    @property
    def type(self) -> str:
        """Its media type in lower case without `application/` (RFC 7515 section 4.1.9); empty when it names none."""
        return str(self.header.get("typ", "")).lower().removeprefix("application/")


def looks_like_jwt(token: str) -> bool:
    """Whether `token` begins as a JSON object in base64url does; opaque tokens of those who make any do not."""
    return token.startswith(("ey", "ew"))


def parse(
    token: str, algorithms: Collection[str] = ALGORITHMS, *, max_characters: int = MAX_CHARACTERS
) -> UnverifiedJwt:
    """Take a compact JWS with claims apart; nothing in it is true yet.

    Args:
        token: as it was presented.
        algorithms: what it may be signed with, of `ALGORITHMS`.
        max_characters: how long it may be.

    Raises:
        JwsError: `malformed`, or `unsupported` for an algorithm or header parameter that is not accepted.
    """
    # Its length before anything else: what is not decoded costs nothing.
    match = _SEGMENTS.fullmatch(token) if len(token) <= max_characters else None
    if match is None:
        raise JwsError("malformed", f"is not a signed JWT of at most {max_characters // 1024} KiB")
    header, claims = _object(match[1]), _object(match[2])
    algorithm = header.get("alg")
    if not isinstance(algorithm, str) or algorithm not in algorithms:
        raise JwsError("unsupported", f"must be signed with one of {', '.join(algorithms)}")
    refused = sorted(_REFUSED_HEADERS.intersection(header))
    if refused:
        raise JwsError("unsupported", f"must not have the header parameter {refused[0]}")
    kid = header.get("kid", "")
    if not isinstance(kid, str) or len(kid) > _MAX_KID_CHARACTERS or not isinstance(header.get("typ", ""), str):
        raise JwsError("malformed", "has a kid or typ that is not a short string")
    return UnverifiedJwt(token, header, claims)


def verify(token: UnverifiedJwt, keys: Iterable[Key]) -> dict[str, Any]:
    """The claims of a token, once the signature holds.

    Args:
        token: parsed.
        keys: those of whoever is to have signed it.

    Raises:
        JwsError: `unknown_key` when none of the keys can be meant, `bad_signature` when none of those fits.
    """
    candidates = [key for key in keys if _may_have_signed(key, token)]
    if not candidates:
        raise JwsError("unknown_key", "is not signed with a known key")
    for key in candidates:
        try:
            jws.deserialize_compact(token.text, key, registry=_REGISTRY)
        except (JoseError, ValueError, TypeError):
            continue
        return token.claims
    raise JwsError("bad_signature", "has a signature that does not hold")


def public_keys(document: Any) -> tuple[Key, ...]:
    """The keys of a JSON Web Key Set that can check signatures (RFC 7517 section 5: the others are ignored).

    Raises:
        ValueError: it is no key set.
    """
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list) or len(listed) > _MAX_KEYS:
        raise ValueError(f"a key set has a list of at most {_MAX_KEYS} keys")
    return tuple(key for each in listed if (key := _public_key(each)) is not None)


def numeric_date(value: Any) -> float | None:
    """A NumericDate (RFC 7519 section 2) that can be one, else None."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < _FAR_FUTURE else None


def audiences_of(claims: dict[str, Any]) -> list[str]:
    """The audiences, whether `aud` is one or a list of them."""
    audience = claims.get("aud")
    values = audience if isinstance(audience, list) else [audience]
    return [each for each in values if isinstance(each, str)]


def _object(segment: str) -> dict[str, Any]:
    try:
        data = base64url.decode(segment)
        # The last character has spellings that decode alike; a token has one.
        if base64url.encode(data) != segment:
            raise ValueError
        value = json.loads(data.decode(), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise JwsError("malformed", "is not a signed JWT: a part of it is not JSON in base64url") from None
    if not isinstance(value, dict):
        raise JwsError("malformed", "is not a signed JWT: a part of it is not a JSON object")
    return value


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name stands twice")
    return result


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _may_have_signed(key: Key, token: UnverifiedJwt) -> bool:
    if token.kid is not None and key.kid != token.kid:
        return False
    if key.alg is not None and key.alg != token.algorithm:
        return False
    if isinstance(key, RSAKey):
        return token.algorithm in {"RS256", "PS256"}
    return _CURVES.get(token.algorithm) == key.curve_name


def _public_key(value: Any) -> Key | None:
    # Symmetric keys have no place here: with one, a public key could serve as an HMAC secret.
    if not isinstance(value, dict) or value.get("kty") not in ("EC", "RSA", "OKP") or value.get("use", "sig") != "sig":
        return None
    if value["kty"] == "RSA" and not _is_strong_modulus(value.get("n")):
        return None
    try:
        key = import_key(value)
    except (JoseError, ValueError, TypeError, KeyError, AttributeError):
        return None
    return key if isinstance(key, ECKey | RSAKey | OKPKey) else None


def _is_strong_modulus(value: Any) -> bool:
    # Too small proves nothing; too large costs whoever checks a signature with it.
    return isinstance(value, str) and _MIN_RSA_BITS <= len(value) * 6 <= _MAX_RSA_BITS + 6
