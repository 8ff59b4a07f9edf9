"""Where an identity provider's metadata comes from, how long it is kept, and what happens when it cannot be had."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from keystile_auth.identity.answer import IdentityUnavailableError
from keystile_auth.identity.saml.metadata import ExpiredMetadataError, IdentityProvider, MetadataError

_MIN_KEEP_SECONDS = 60
_RETRY_SECONDS = 10

_log = structlog.stdlib.get_logger(__name__)


class MetadataSource:
    """Asks for metadata when it is due, once for all that wait for it.

    Args:
        title: of the identity, as people read it.
        load: fetches and reads it; raises `MetadataError` or `IdentityUnavailableError`.
        keep_seconds: the most that it is kept.
        clock: Unix seconds.
    """

    def __init__(
        self, title: str, load: Callable[[], Awaitable[IdentityProvider]], keep_seconds: int, clock: Callable[[], float]
    ) -> None:
        self._title = title
        self._load = load
        self._keep = keep_seconds
        self._clock = clock
        self._lock = asyncio.Lock()
        self._tries = 0
        self._tried = float("-inf")
        self._due = float("-inf")
        self.known: IdentityProvider | None = None

    async def get(self) -> IdentityProvider:
        """The metadata, which holds now.

        Raises:
            IdentityUnavailableError: there is none, none that holds, or none that can be used.
        """
        if self.known is None or self._clock() >= self._due or not self._holds(self.known):
            return await self._renew()
        return self.known

    async def renewed(self) -> IdentityProvider:
        """The same, asked for anew: keys may have changed. Not for every forgery that comes, though."""
        if self._clock() - self._tried <= _RETRY_SECONDS:
            return await self.get()
        return await self._renew()

    async def _renew(self) -> IdentityProvider:
        tries = self._tries
        async with self._lock:
            if self._tries == tries:  # nobody else has asked meanwhile
                self._tried = self._clock()
                try:
                    await self._read()
                finally:
                    self._tries += 1
            if self.known is None or not self._holds(self.known):
                raise IdentityUnavailableError(self._title, "its metadata has expired")
            return self.known

    async def _read(self) -> None:
        try:
            self.known = await self._load()
        except MetadataError as problem:
            _log.error("an identity cannot be used", identity=self._title, problem=f"its metadata {problem}")
            self._bear(self._unusable(problem))
        except IdentityUnavailableError as away:
            _log.warning("the metadata of an identity could not be had", identity=self._title)
            self._bear(away)
        else:
            asked = self._keep if self.known.keep_seconds is None else self.known.keep_seconds
            self._due = self._clock() + max(min(asked, self._keep), _MIN_KEEP_SECONDS)

    def _bear(self, problem: IdentityUnavailableError) -> None:
        # What it said last serves for as long as it said.
        self._due = self._clock() + _RETRY_SECONDS
        if self.known is None or not self._holds(self.known):
            raise problem

    def _holds(self, known: IdentityProvider) -> bool:
        return known.valid_until is None or self._clock() < known.valid_until

    def _unusable(self, problem: MetadataError) -> IdentityUnavailableError:
        why = "has expired" if isinstance(problem, ExpiredMetadataError) else "cannot be used"
        sentence = f"{self._title} cannot be used at the moment: its metadata {why}. Tell whoever runs this server."
        return IdentityUnavailableError(self._title, f"its metadata {problem}", sentence)
