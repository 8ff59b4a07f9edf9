"""Security event tokens (RFC 8417) that tell a resource server what was revoked.

| what died | event | subject (RFC 9493, and `jwt_id` of OpenID's Shared Signals) |
|---|---|---|
| one access token | token-revoked of the OAuth event types | `jwt_id`: the `jti` that introspection and JWTs have |
| a grant with all its tokens | session-revoked of CAEP | `complex`, whose session is the grant's id |

A grant's id is in each of its tokens: characters 8 to 23 of an opaque one, what stands before the dot in the `jti` of a
JWT. So a resource server can tell which of those it has seen have died, and learns of nobody whom it has not seen.
"""

from collections.abc import Callable
from typing import Any

from keystile_auth.store.revocations import Revocation
from keystile_auth.tokens.signing_keys import SigningKeys
from keystile_common.security_events import SESSION_REVOKED, TOKEN_REVOKED, TYPE, VERIFICATION


class SecurityEvents:
    """Makes them.

    Args:
        issuer: this server.
        keys: sign them.
        clock: Unix seconds.
    """

    def __init__(self, issuer: str, keys: SigningKeys, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._keys = keys
        self._clock = clock

    async def revoked(self, revocation: Revocation) -> str:
        """The event of one revocation; its `jti` is the entry's id in the stream.

        Raises:
            StoreUnavailableError: the key to sign with cannot be looked up.
        """
        subject: dict[str, Any]
        if revocation.kind == "token":
            event, subject = TOKEN_REVOKED, {"format": "jwt_id", "iss": self._issuer, "jti": revocation.name}
        else:
            session = {"format": "opaque", "id": revocation.name}
            event, subject = SESSION_REVOKED, {"format": "complex", "session": session}
        happened = {"toe": revocation.id.milliseconds / 1000}
        return await self._sign(str(revocation.id), revocation.audience, event, subject, happened)

    async def verification(self, jti: str, audience: str, stream: str) -> str:
        """The event that begins a stream: whatever was received before it may have missed something.

        Raises:
            StoreUnavailableError: the key to sign with cannot be looked up.
        """
        return await self._sign(jti, audience, VERIFICATION, {"format": "opaque", "id": stream}, {})

    async def _sign(
        self, jti: str, audience: str, event: str, subject: dict[str, Any], happened: dict[str, float]
    ) -> str:
        key = await self._keys.current()
        claims = {
            "iss": self._issuer,
            "aud": audience,
            "iat": int(self._clock()),
            "jti": jti,
            **happened,
            "sub_id": subject,
            "events": {event: {}},
        }
        return key.sign(TYPE, claims)
