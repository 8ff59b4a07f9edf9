"""A grant as the store holds it, and what a script on it is given and answers."""

from typing import NamedTuple

from keystile_common.compact_json import from_json


class Code(NamedTuple):
    """What an authorization code is bound to (RFC 7636 section 4.4, RFC 6749 section 4.1.3)."""

    hash: str
    challenge: str
    redirect_uri: str
    redeemed: bool


class Grant(NamedTuple):
    """A user's grant to a client for one resource, as the store holds it. Times in Unix milliseconds."""

    id: str
    state: str
    sub: str
    client_id: str
    resource: str
    scopes: tuple[str, ...]
    created: int
    used: int | None
    code: Code
    has_refresh_token: bool

    @property
    def is_live(self) -> bool:
        """Whether its code was redeemed and nothing has ended it."""
        return self.state == "live"

    @property
    def is_ended(self) -> bool:
        """Whether something has ended it; what is left is its tombstone."""
        return self.state == "ended"


class NewAccessToken(NamedTuple):
    """An access token about to be stored: hash, lifetime in seconds, audience, introspection answer.

    The answer is JSON without the closing brace; the script adds `iat`, `nbf` and `exp` by the store's clock.
    """

    hash: str
    seconds: int
    audience: str
    opening: str


class Outcome(NamedTuple):
    """What an issue, redemption or rotation came to: the script's word, and what holds for the access token.

    That is the seconds it has left, when it expires (Unix seconds by the store's clock), and its scope. `is_durable` is
    False where the grant was ended for reuse and the store has not confirmed that.
    """

    word: str
    seconds: int = 0
    expires: int = 0
    scope: str = ""
    is_durable: bool = True


def read_grant(grant_id: str, text: str) -> Grant:
    """The grant that a stored document is."""
    document = from_json(text)
    code = document["code"]
    return Grant(
        id=grant_id,
        state=document["state"],
        sub=document["sub"],
        client_id=document["client_id"],
        resource=document["resource"],
        scopes=tuple(document["scopes"].split()),
        created=int(document["created"]),
        used=int(document["used"]) if "used" in document else None,
        code=Code(code["hash"], code["challenge"], code["redirect_uri"], "attempt" in code),
        has_refresh_token="refresh" in document,
    )
