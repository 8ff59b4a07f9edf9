"""Access tokens that are JWTs (RFC 9068), checked here with the issuer's public keys.

A signature is checked once for each token; after that its claims are found by a MAC of the token, as introspection's
answers are, and compared on every use. A revoked token is good until it expires: nobody is asked.
"""

import secrets
from collections import OrderedDict
from hashlib import blake2b
from typing import Any

from keystile_common.jws import JwsError, UnverifiedJwt, audiences_of, numeric_date, parse, verify
from keystile_mcp.challenge import invalid_token
from keystile_mcp.introspection_answer import LATEST_TIME, ActiveToken, canonical
from keystile_mcp.introspection_cache import Answer, Clock
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.settings import McpSettings

TYPE = "at+jwt"
ENTRIES = 10_000
"""Tokens whose signature is remembered at most; the least recently used goes first."""
_REQUIRED = ("iss", "aud", "exp", "iat", "sub", "client_id", "jti")


class SignedTokens:
    """Answers what a JWT says of itself, once its signature holds.

    Args:
        keys: the issuer's.
        settings: the issuer and the resource that tokens must be of.
        clock: Unix time in seconds.
    """

    method = "jwks"

    def __init__(self, keys: IssuerKeys, settings: McpSettings, clock: Clock) -> None:
        self._keys = keys
        self._issuer = settings.authorization_server
        self._resource = settings.resource
        self._algorithms = tuple(settings.jwks.algorithms)
        self._clock = clock
        self._secret = secrets.token_bytes(32)
        self._answers: OrderedDict[bytes, Answer] = OrderedDict()
        # A key that was withdrawn vouches for nothing any more.
        keys.on_change = self._answers.clear

    def find(self, token: str) -> Answer | None:
        """What is known of `token`, if its signature was checked before."""
        key = self._key_of(token)
        answer = self._answers.get(key)
        if answer is None:
            return None
        if answer.until <= self._clock():
            del self._answers[key]
            return None
        self._answers.move_to_end(key)
        return answer

    async def fetch(self, token: str) -> Answer | None:
        """Check `token`'s form and signature.

        Raises:
            BearerError: it is not an access token of the issuer.
            KeysUnavailableError: the key it names cannot be had.
        """
        try:
            unverified = parse(token, self._algorithms)
            self._check_kind(unverified)
            claims = verify(unverified, await self._keys.find(unverified.kid))
        except JwsError as problem:
            raise invalid_token(problem.kind, f"The access token {problem}") from None
        active = self._read(claims)
        answer = Answer(active, self._clock(), active.expires_at)
        if answer.until > self._clock():
            self._answers[self._key_of(token)] = answer
            if len(self._answers) > ENTRIES:
                self._answers.popitem(last=False)
        return answer

    async def close(self) -> None:
        """Forget everything."""
        self._answers.clear()

    def _check_kind(self, token: UnverifiedJwt) -> None:
        # Before any key is asked for: what is not meant for us must not make us ask.
        if token.type != TYPE:
            raise invalid_token("wrong_type", f"The access token must have the typ {TYPE}; an ID token is none")
        if token.claims.get("iss") != self._issuer:
            raise invalid_token("wrong_issuer", "The access token is of another issuer")
        expires = numeric_date(token.claims.get("exp"))
        if expires is not None and expires <= self._clock():
            raise invalid_token("expired", "The access token has expired")

    def _read(self, claims: dict[str, Any]) -> ActiveToken:
        missing = [name for name in _REQUIRED if name not in claims]
        if missing:
            raise invalid_token("malformed", f"The access token has no {', '.join(missing)}")
        texts = [claims["sub"], claims["client_id"], claims["jti"], claims.get("scope", "")]
        texts.append(claims.get("grantable_scope", ""))
        expires, not_before = numeric_date(claims["exp"]), numeric_date(claims.get("nbf", 0))
        times = [expires, not_before, numeric_date(claims["iat"])]
        if not all(map(_is_text, texts)) or expires is None or None in times or expires > LATEST_TIME:
            raise invalid_token("malformed", "The access token has a claim of the wrong type")
        audiences = {canonical(audience) for audience in audiences_of(claims)}
        return ActiveToken(
            issuer=self._issuer,
            resource=self._resource if canonical(self._resource) in audiences else None,
            client_id=claims["client_id"],
            subject=claims["sub"],
            scopes=tuple(claims.get("scope", "").split()),
            not_before=not_before or None,
            expires_at=expires,
            grantable_scopes=tuple(claims["grantable_scope"].split()) if "grantable_scope" in claims else None,
        )

    def _key_of(self, token: str) -> bytes:
        return blake2b(token.encode(), key=self._secret, digest_size=32).digest()


def _is_text(value: object) -> bool:
    # A lone surrogate can be written nowhere, the audit log included.
    return isinstance(value, str) and value.isprintable()
