"""What a client presents at the token endpoint, and what it stands for."""

from typing import Generic, NamedTuple, TypeVar

from keystile_auth.store.held_grants import HeldGrant
from keystile_auth.tokens.opaque import Token

Kind = TypeVar("Kind", bound=Token)


class Presented(NamedTuple, Generic[Kind]):
    """A well-formed code or refresh token, and the grant it names, which may be of another client or have ended."""

    token: Kind
    held: HeldGrant

    def __repr__(self) -> str:
        return f"Presented(grant_id={self.held.grant.id!r})"
