"""What every grant answers with, and how its access token is made ready for introspection."""

import json
from dataclasses import dataclass

from keystile_auth.store.grants import NewAccessToken
from keystile_auth.tokens.opaque import Token


@dataclass(frozen=True, slots=True)
class TokenResponse:
    """A successful answer of the token endpoint (RFC 6749 section 5.1), and what the audit says of it.

    `expires_in` is in seconds. `event` is `issued` or `refreshed`.
    """

    access_token: str
    expires_in: int
    scope: str
    refresh_token: str | None
    sub: str
    resource: str
    grant_id: str
    event: str = "issued"

    def __repr__(self) -> str:
        return f"TokenResponse(sub={self.sub!r}, resource={self.resource!r}, grant_id={self.grant_id!r})"


@dataclass(frozen=True, slots=True)
class Subject:
    """For whom an access token speaks: a user through a client, or the client itself (`username` None)."""

    sub: str
    username: str | None
    client_id: str


def new_access_token(
    token: Token, subject: Subject, *, issuer: str, resource: str, scope: str, seconds: int
) -> NewAccessToken:
    """What the store keeps of an access token: its introspection answer (RFC 7662 section 2.2), nearly done.

    Args:
        token: the token.
        subject: for whom it speaks.
        issuer: this server.
        resource: its audience.
        scope: space-delimited.
        seconds: its lifetime.
    """
    answer = {
        "active": True,
        "scope": scope,
        "client_id": subject.client_id,
        **({"username": subject.username} if subject.username else {}),
        "token_type": "Bearer",
        "sub": subject.sub,
        "aud": resource,
        "iss": issuer,
        # The hash names the token without being it; revocation events will use the same name.
        "jti": token.hash,
    }
    return NewAccessToken(token.hash, seconds, resource, json.dumps(answer, separators=(",", ":"))[:-1])
