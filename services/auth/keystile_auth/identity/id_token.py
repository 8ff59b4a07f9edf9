"""ID tokens, checked as OpenID Connect Core section 3.1.3.7 asks, and no looser."""

import hashlib
import hmac
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from keystile_auth.identity.answer import SignInRefusedError
from keystile_common import base64url
from keystile_common.jws import LEEWAY_SECONDS, JwsError, Key, UnverifiedJwt, audiences_of, numeric_date, parse, verify

MAX_CHARACTERS = 64 * 1024
"""An ID token may list hundreds of groups."""
_HASHES = {"ES384": hashlib.sha384, "Ed25519": hashlib.sha512}
_TYPES = {"", "jwt", "id+jwt"}


@dataclass(frozen=True, slots=True)
class Expected:
    """What an ID token must say: who issued it, for which client, in answer to which request.

    `nonce` is None where the token answers a refresh (section 12.2).
    """

    issuer: str
    client_id: str
    nonce: str | None


def read(text: object) -> UnverifiedJwt:
    """Take an ID token apart; nothing in it is true yet.

    Raises:
        SignInRefusedError: it is none, or signed in a way that is not accepted.
    """
    try:
        token = parse(text if isinstance(text, str) else "", max_characters=MAX_CHARACTERS)
    except JwsError as problem:
        raise _refused(problem.kind) from None
    if token.type not in _TYPES:
        raise _refused("type")
    return token


def check(
    token: UnverifiedJwt, keys: Iterable[Key], expected: Expected, access_token: object, now: float
) -> dict[str, Any]:
    """The claims of an ID token, once all of it holds.

    Args:
        token: as `read` answers it.
        keys: the issuer's.
        expected: what it must say.
        access_token: what came with it, for `at_hash`.
        now: Unix seconds.

    Raises:
        JwsError: `unknown_key` or `bad_signature`.
        SignInRefusedError: a claim is not as it must be.
    """
    claims = verify(token, keys)
    if claims.get("iss") != expected.issuer:
        raise _refused("iss")
    _check_audience(claims, expected.client_id)
    _check_times(claims, now)
    nonce = claims.get("nonce")
    if expected.nonce is not None and (
        not isinstance(nonce, str) or not hmac.compare_digest(nonce.encode(), expected.nonce.encode())
    ):
        raise _refused("nonce")
    if "at_hash" in claims and claims["at_hash"] != _half_hash(token.algorithm, access_token):
        raise _refused("at_hash")
    if not isinstance(claims.get("sub"), str):
        raise _refused("sub")
    return claims


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    audiences = audiences_of(claims)
    if client_id not in audiences:
        raise _refused("aud")
    # With several audiences it must say that it is ours by azp; where it names one, it must be us in any case.
    if claims.get("azp", None if len(audiences) > 1 else client_id) != client_id:
        raise _refused("azp")


def _check_times(claims: dict[str, Any], now: float) -> None:
    expires, issued = numeric_date(claims.get("exp")), numeric_date(claims.get("iat"))
    not_before = numeric_date(claims.get("nbf", 0))
    if expires is None or expires + LEEWAY_SECONDS <= now:
        raise _refused("exp")
    if issued is None or issued > now + LEEWAY_SECONDS:
        raise _refused("iat")
    if not_before is None or not_before > now + LEEWAY_SECONDS:
        raise _refused("nbf")


def _half_hash(algorithm: str, access_token: object) -> str | None:
    if not isinstance(access_token, str):
        return None
    digest = _HASHES.get(algorithm, hashlib.sha256)(access_token.encode()).digest()
    return base64url.encode(digest[: len(digest) // 2])


def _refused(what: str) -> SignInRefusedError:
    return SignInRefusedError(f"id_token {what}", f"it sent a proof that is not valid ({what})")
