"""Access tokens as resources see them: opaque, or a JWT (RFC 9068), whichever the resource asks for.

Either way the store knows a token by the grant it belongs to and by a hash; a JWT names both in its `jti`. So both
are introspected and revoked alike, and a refresh that is repeated answers the same token, newly signed.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from keystile_auth.store.grant import NewAccessToken, Outcome
from keystile_auth.tokens import opaque
from keystile_auth.tokens.resources import Resource
from keystile_auth.tokens.signing_keys import SigningKey, SigningKeys
from keystile_common.compact_json import to_json
from keystile_common.jws import JwsError, parse, verify
from keystile_common.opaque import PREFIX

TYPE = "at+jwt"
_ALGORITHMS = ("ES256",)
_REMEMBERED = 1024
_JTI = re.compile(r"([A-Za-z0-9_-]{16})\.([A-Za-z0-9_-]{43})")


class Subject(NamedTuple):
    """For whom an access token speaks: a user through a client, or the client itself (`username` None).

    `grantable` is the most that it could be granted at the token's resource, where that is less than all: scopes,
    space-delimited. A resource need not show what is beyond it.
    """

    sub: str
    username: str | None
    client_id: str
    grantable: str | None = None

    @property
    def limits(self) -> dict[str, str]:
        """What introspection and JWTs say of it; no registered name has that meaning."""
        return {} if self.grantable is None else {"grantable_scope": self.grantable}


@dataclass(frozen=True, slots=True)
class AccessTokenName:
    """What the store finds an access token by; it tells nothing of its text."""

    grant_id: str
    hash: str


class PreparedAccessToken(NamedTuple):
    """An access token that can be issued: what the store is to keep of it, and what its text is made from.

    `key` signs it; None for an opaque one.
    """

    stored: NewAccessToken
    token: opaque.Token
    subject: Subject
    issuer: str
    key: SigningKey | None

    def __repr__(self) -> str:
        return "PreparedAccessToken(…)"

    def text(self, outcome: Outcome) -> str:
        """The text that the client gets. Nothing is signed before the store has agreed.

        Args:
            outcome: what the store said; when it expires is decided by its clock.
        """
        if self.key is None:
            return self.token.text
        claims = {
            "iss": self.issuer,
            "aud": self.stored.audience,
            "exp": outcome.expires,
            # No nbf: it would say the same, and have tokens refused where a clock is slow.
            "iat": outcome.expires - self.stored.seconds,
            "jti": jti(self.token),
            "sub": self.subject.sub,
            "client_id": self.subject.client_id,
            "scope": outcome.scope,
            **self.subject.limits,
        }
        return self.key.sign(TYPE, claims)


def jti(token: opaque.Token) -> str:
    """The `jti` of the JWT that stands for `token`."""
    return f"{token.grant_id}.{token.hash}"


@lru_cache(_REMEMBERED)
def _about(subject: Subject, scope: str, audience: str, issuer: str) -> str:
    """What all access tokens of a subject at a resource have in common, as JSON without the brace at its end."""
    answer = {
        "active": True,
        "scope": scope,
        "client_id": subject.client_id,
        **({"username": subject.username} if subject.username else {}),
        "token_type": "Bearer",
        **subject.limits,
        "sub": subject.sub,
        "aud": audience,
        "iss": issuer,
    }
    return to_json(answer)[:-1]


class AccessTokens:
    """Makes access tokens, and finds out which one a text is.

    Args:
        issuer: this server.
        seconds: the lifetime of an access token.
        keys: what JWTs are signed with.
    """

    def __init__(self, issuer: str, seconds: int, keys: SigningKeys) -> None:
        self._issuer = issuer
        self._seconds = seconds
        self._keys = keys

    async def prepare(
        self, token: opaque.Token, subject: Subject, resource: Resource, scope: str
    ) -> PreparedAccessToken:
        """Make an access token ready to be stored, with its introspection answer (RFC 7662 section 2.2) nearly done.

        Args:
            token: its name, and its text where the resource takes opaque ones.
            subject: for whom it speaks.
            resource: its audience.
            scope: space-delimited.

        Raises:
            StoreUnavailableError: it is to be signed, and the store cannot say with which key.
        """
        key = await self._keys.current() if resource.access_token == "jwt" else None
        # The hash names the token without being it; revocation events use the same name. Nothing in it needs escapes.
        token_hash = token.hash
        name = jti(token) if key else token_hash
        opening = f'{_about(subject, scope, resource.uri, self._issuer)},"jti":"{name}"'
        stored = NewAccessToken(token_hash, self._seconds, resource.uri, opening)
        return PreparedAccessToken(stored, token, subject, self._issuer, key)

    async def find_name(self, text: str) -> AccessTokenName | None:
        """The name of the access token that `text` is, or None when it cannot be one of ours.

        Raises:
            StoreUnavailableError: it is signed with a key that has to be looked up, and cannot be now.
        """
        if text.startswith(PREFIX):
            token = opaque.parse_access_token(text)
            return AccessTokenName(token.grant_id, token.hash) if token else None
        try:
            signed = parse(text, _ALGORITHMS)
            if signed.type != TYPE or signed.claims.get("iss") != self._issuer:
                return None
            claims = verify(signed, [each.key for each in await self._keys.known_by(signed.kid)])
        except JwsError:
            return None
        match = _JTI.fullmatch(str(claims.get("jti")))
        return AccessTokenName(match[1], match[2]) if match else None
