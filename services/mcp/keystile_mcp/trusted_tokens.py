"""Tokens of several issuers: each is checked as one of them has it, and as no other.

What a token says of its issuer is not true before it is checked, and decides nothing but whose keys, whose cache and
whose endpoint it is checked with. A token of one issuer is never shown to another.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import NamedTuple, Self

from keystile_common import opaque
from keystile_common.jws import JwsError, looks_like_jwt, parse
from keystile_mcp.challenge import invalid_token
from keystile_mcp.introspection_cache import Answer
from keystile_mcp.issuers import Issuer
from keystile_mcp.validation import TokenClient, TokenSource


class IssuerTokens(NamedTuple):
    """One issuer's tokens: how they are checked, and what must be open meanwhile."""

    issuer: Issuer
    client: TokenClient
    source: TokenSource


class TrustedTokens:
    """Sends each token to its issuer. The first of them is the main one; also its clients' context manager.

    Args:
        issuers: at most one of Keystile's and one of the others' has opaque tokens.
    """

    def __init__(self, issuers: Sequence[IssuerTokens]) -> None:
        self._issuers = issuers
        self._clients = AsyncExitStack()
        asked = [each for each in issuers if each.issuer.method == "introspection"]
        self._by_form = {each.issuer.is_keystile: each.source for each in asked}
        self._by_name = {name: each.source for each in issuers for name in each.issuer.names}
        self.method = issuers[0].source.method

    async def __aenter__(self) -> Self:
        for each in self._issuers:
            await self._clients.enter_async_context(each.client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._clients.aclose()

    def find(self, token: str) -> Answer | None:
        """What is known of `token` already, if that may still be used."""
        for each in self._issuers:
            answer = each.source.find(token)
            if answer is not None:
                return answer
        return None

    async def fetch(self, token: str) -> Answer | None:
        """Find out about `token` from the issuer that it names, or whose opaque tokens have its form.

        Raises:
            BearerError: it names an issuer that is not trusted, or is no token of that issuer.
            IntrospectionError: nothing can be found out now.
        """
        return await self._source_of(token).fetch(token)

    async def close(self) -> None:
        """Give up what is under way."""
        for each in self._issuers:
            await each.source.close()

    def _source_of(self, token: str) -> TokenSource:
        try:
            name = parse(token).claims.get("iss")
        except JwsError as problem:
            # One that cannot be read is not shown to whoever has opaque tokens.
            if looks_like_jwt(token):
                raise invalid_token(problem.kind, f"The access token {problem}") from None
            return self._opaque(token)
        source = self._by_name.get(name) if isinstance(name, str) else None
        if source is None:
            raise invalid_token("wrong_issuer", "The access token is of an issuer that is not trusted")
        return source

    def _opaque(self, token: str) -> TokenSource:
        source = self._by_form.get(token.startswith(opaque.PREFIX))
        if source is None:
            raise invalid_token("malformed", "The access token is not a signed JWT of at most 8 KiB")
        return source
