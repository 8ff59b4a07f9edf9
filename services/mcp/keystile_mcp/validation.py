"""Whether a bearer token is good for this resource now."""

from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from keystile_common import opaque
from keystile_common.metrics import McpMetrics
from keystile_mcp.challenge import BearerError, invalid_token, unavailable
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError
from keystile_mcp.introspection_cache import Answer, Clock
from keystile_mcp.settings import ResourceServerSettings

CLOCK_SKEW_SECONDS = 30
"""How far the authorization server's clock may be ahead of ours before `nbf` counts as the future."""


TokenClient = AbstractAsyncContextManager[Any]
"""What must be open while tokens are checked."""


class TokenSource(Protocol):
    """Whose word on a token is taken: the authorization server's, or the token's own under its signature."""

    @property
    def method(self) -> str:
        """Its name, as `keystile_token_validations_total` counts it."""
        ...

    def find(self, token: str) -> Answer | None:
        """What is known of `token` already, if that may still be used."""
        ...

    async def fetch(self, token: str) -> Answer | None:
        """Find out about `token`; None if it is not active.

        Raises:
            BearerError: it is no token of this kind.
            IntrospectionError: nothing can be found out now.
        """
        ...

    async def close(self) -> None:
        """Give up what is under way."""
        ...


class TokenValidator:
    """Checks tokens: their form, the authorization server's word on them, and this resource's demands.

    Args:
        source: answers what is to be believed of a token.
        settings: the issuers and the resource that tokens must be of.
        metrics: where validations are counted.
        clock: Unix time in seconds.
    """

    def __init__(
        self, source: TokenSource, settings: ResourceServerSettings, metrics: McpMetrics, clock: Clock
    ) -> None:
        self._source = source
        self._issuers = settings.issuer_names
        self._resource = settings.resource
        self._clock = clock
        self._validations = metrics.token_validations
        self._valid = metrics.token_validations.labels(source.method, "valid")

    async def validate(self, token: str) -> Answer:
        """Validate `token` (RFC 6750 section 2.1's b64token).

        Returns:
            What is known of it, every part of it checked.

        Raises:
            BearerError: it is not good, or that cannot be found out now.
        """
        answer = self._source.find(token)
        if answer is None:
            answer = await self._fetch(token)
        self._check(answer.token)
        self._valid.inc()
        return answer

    def count(self, error: BearerError) -> None:
        """Count a refusal."""
        self._validations.labels(self._source.method, error.result).inc()

    async def _fetch(self, token: str) -> Answer:
        if token.startswith(opaque.PREFIX) and not opaque.is_well_formed(token):
            raise invalid_token("malformed", "The access token is not complete or not an access token")
        try:
            answer = await self._source.fetch(token)
        except IntrospectionError:
            raise unavailable() from None
        if answer is None:
            raise invalid_token("inactive", "The access token is unknown, expired or revoked")
        return answer

    def _check(self, token: ActiveToken) -> None:
        # On every use, not only when the answer arrives: time goes on while it is kept.
        now = self._clock()
        if token.issuer not in self._issuers:
            raise invalid_token("wrong_issuer", "The access token is of another issuer", token.actor)
        if token.resource != self._resource:
            raise invalid_token("wrong_audience", "The access token is for another resource", token.actor)
        if token.expires_at <= now:
            raise invalid_token("expired", "The access token has expired", token.actor)
        if token.not_before is not None and token.not_before > now + CLOCK_SKEW_SECONDS:
            raise invalid_token("not_yet_valid", "The access token is not valid yet", token.actor)
