"""Access tokens that are JWTs (RFC 9068, or as their provider makes them), checked here with the issuer's public keys.

A signature is checked once for each token; after that its claims are found by a MAC of the token, as introspection's
answers are, and compared on every use. A revoked token is good until it expires, unless its issuer says so: nobody is
asked.
"""

import secrets
from collections import OrderedDict
from collections.abc import Collection
from hashlib import blake2b

from keystile_common.jws import JwsError, UnverifiedJwt, numeric_date, parse, verify
from keystile_mcp.access_token_claims import ClaimsError, check_kind, read_jwt
from keystile_mcp.challenge import invalid_token
from keystile_mcp.introspection_cache import Answer, Clock
from keystile_mcp.issuers import Issuer
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.revoked import Denylist, Revoked

ENTRIES = 10_000
"""Tokens whose signature is remembered at most; the least recently used goes first."""


class SignedTokens:
    """Answers what a JWT says of itself, once its signature holds.

    Args:
        keys: the issuer's.
        issuer: whose tokens they must be, and for whom.
        clock: Unix time in seconds.
    """

    method = "jwks"

    def __init__(self, keys: IssuerKeys, issuer: Issuer, clock: Clock) -> None:
        self._keys = keys
        self._issuer = issuer
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        self._denied = Denylist()
        # A key that was withdrawn vouches for nothing any more.
        keys.on_change = self._answers.clear

    def find(self, token: str) -> Answer | None:
        """What is known of `token`, if its signature was checked before."""
        key = self._key_of(token)
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.until <= self._clock() or self._denied.has(answer.token):
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return answer

    async def fetch(self, token: str) -> Answer | None:
        """Check `token`'s form and signature; None where it is known to be revoked.

        Raises:
            BearerError: it is not an access token of the issuer.
            KeysUnavailableError: the key it names cannot be had.
        """
        try:
            unverified = parse(token, self._issuer.algorithms)
            self._check(unverified)
            active = read_jwt(verify(unverified, await self._keys.find(unverified.kid)), self._issuer)
        except (JwsError, ClaimsError) as problem:
            raise invalid_token(problem.kind, f"The access token {problem}") from None
        if self._denied.has(active):
            return None
        answer = Answer(active, self._clock(), active.expires_at)
        if answer.until > self._clock():
            self._answers[self._key_of(token)] = answer
            if len(self._answers) > ENTRIES:
                self._answers.popitem(last=False)
        return answer

    def revoke(self, revoked: Collection[Revoked]) -> None:
        """Accept the tokens that have been revoked no more."""
        self._denied.add(revoked, self._clock())

    def doubt(self, seconds: float) -> None:
        """Nothing: a token's word on itself does not change."""

    def trust(self) -> None:
        """Nothing, likewise."""

    async def close(self) -> None:
        """Forget everything."""
        self._answers.clear()

    def _check(self, token: UnverifiedJwt) -> None:
        # Before any key is asked for: what is not meant for us must not make us ask.
        check_kind(token.claims, token.type, self._issuer)
        expires = numeric_date(token.claims.get("exp"))
        if expires is not None and expires <= self._clock():
            raise ClaimsError("expired", "has expired")

    def _key_of(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._secret, digest_size=32).digest()
