"""Tokens looked up where they are stored, by the process that issued them."""

from keystile_auth.store.grants import GrantStore
from keystile_auth.tokens import opaque
from keystile_common.store import StoreUnavailableError
from keystile_mcp.introspection_answer import IntrospectionError, read_answer
from keystile_mcp.introspection_cache import Answer, Clock


class StoredTokens:
    """The authorization server's word on tokens, read from the store each time: a revocation holds at once.

    It answers for every resource; that a token is for this one is checked where all answers are.

    Args:
        grants: where tokens are.
        issuer: who issued them.
        resource: the resource that asks.
        clock: Unix time in seconds.
    """

    method = "in_process"

    def __init__(self, grants: GrantStore, issuer: str, resource: str, clock: Clock) -> None:
        self._grants = grants
        self._issuer = issuer
        self._resource = resource
        self._clock = clock

    def find(self, token: str) -> Answer | None:  # noqa: ARG002 (nothing is held)
        """None: nothing is held."""
        return None

    async def fetch(self, token: str) -> Answer | None:
        """What is stored of `token`, or None if it is not active.

        Raises:
            IntrospectionError: the store is away.
        """
        parsed = opaque.parse_access_token(token)
        if parsed is None:
            return None
        try:
            stored = await self._grants.find_access_token(parsed.grant_id, parsed.hash)
        except StoreUnavailableError as problem:
            raise IntrospectionError(str(problem)) from problem
        active = read_answer(stored.answer.encode(), self._issuer, self._resource) if stored else None
        if active is None:
            return None
        now = self._clock()
        return Answer(active, now, now)

    async def check(self) -> str | None:
        """None: whether the store answers is the authorization server's to say."""
        return None

    async def close(self) -> None:
        """Nothing: the store is the authorization server's, which closes it."""
