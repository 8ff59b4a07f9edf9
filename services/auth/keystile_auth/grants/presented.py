"""What a client presents at the token endpoint, and what it stands for."""

from typing import Generic, NamedTuple, TypeVar

from keystile_auth.store.held_grants import HeldGrant, HeldGrants
from keystile_auth.tokens.opaque import Token

Kind = TypeVar("Kind", bound=Token)


class Presented(NamedTuple, Generic[Kind]):
    """A well-formed code or refresh token, and the grant it names, which may be of another client or have ended."""

    token: Kind
    held: HeldGrant

    def __repr__(self) -> str:
        return f"Presented(grant_id={self.held.grant.id!r})"


async def look_up(token: Kind | None, grants: HeldGrants) -> Presented[Kind] | None:
    """What a token stands for, whether or not it is still good; None where it stands for nothing.

    Args:
        token: as it was parsed; None where what came is none of ours.
        grants: where to look.

    Raises:
        StoreUnavailableError: the store is away.
    """
    held = await grants.find(token.grant_id) if token else None
    return Presented(token, held) if token and held else None
