"""When the resource server may be sent requests."""

import asyncio

from keystile_common import opaque
from keystile_mcp.introspection import AnyIntrospection
from keystile_mcp.introspection_answer import IntrospectionError

# Of the right form and nobody's: its random part is 32 zero bytes.
_NOBODYS = opaque.ACCESS_TOKEN_PREFIX + "A" * 43
NOBODYS_TOKEN = _NOBODYS + opaque.checksum(_NOBODYS)


class AuthorizationServerCheck:
    """Passes once the authorization server has answered one introspection, and from then on.

    Until then a wrong address or secret in the settings holds a rollout back. Afterwards an authorization
    server that is away must not take every resource server out of service with it: tokens whose answers are
    still held are served, the others get 503 and a time to come back.
    """

    def __init__(self, client: AnyIntrospection) -> None:
        self._client = client
        self._asking: asyncio.Task[str | None] | None = None

    async def __call__(self) -> str | None:
        """A sentence about what is wrong, or None."""
        if self._client.has_answered:
            return None
        # Whoever comes while the question is under way waits for its answer, so a flood of probes asks once.
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask())
        return await asyncio.shield(self._asking)

    async def _ask(self) -> str | None:
        try:
            await self._client.introspect(NOBODYS_TOKEN)
        except IntrospectionError as problem:
            return f"introspection has not worked yet: {problem}"
        return None
