"""The issuer's public keys (RFC 7517), fetched once for all requests and kept while the issuer is away."""

import asyncio
import random
import time
from collections.abc import Callable
from types import TracebackType

import aiohttp
import structlog

from keystile_common import tasks
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_common.jws import Key, public_keys
from keystile_common.metrics import JwksMetrics
from keystile_mcp.discovery import DiscoveryError, fetch, find_address
from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.issuer_settings import JwksSettings
from keystile_mcp.issuers import Issuer

UNKNOWN_KEY_SECONDS = 10.0
"""A key that is not known makes us ask again, but only so often: anyone can invent key ids."""
RETRY_SECONDS = 5.0
"""How long nobody asks again after it failed."""
_SPREAD = 0.2

_log = structlog.stdlib.get_logger(__name__)


class KeysUnavailableError(IntrospectionError):
    """The issuer's keys cannot be had, so nothing can be said about the token."""


class IssuerKeys(HttpClient):
    """The key set of one issuer. Used as an async context manager, inside the running event loop.

    Many requests that need it at one time fetch it once. It is fetched anew when it is older than `refresh_seconds`,
    beside the requests, which go on with the keys there are; and for a key id that is not among them, at most every
    `UNKNOWN_KEY_SECONDS`.

    Args:
        issuer: whose keys, and how they are had.
        metrics: where fetches are counted.
        clock: seconds that only go forward.
        settings: in place of the issuer's.
    """

    def __init__(
        self,
        issuer: Issuer,
        metrics: JwksMetrics,
        clock: Callable[[], float] = time.monotonic,
        settings: JwksSettings | None = None,
    ) -> None:
        settings = settings or issuer.jwks
        ca_file = settings.ca_file
        super().__init__(
            timeout_seconds=settings.timeout_seconds,
            authorities=TrustedAuthorities(ca_file, "jwks.ca_file") if ca_file else None,
            headers={"Accept": "application/json"},
            limit=2,
        )
        self._issuer = issuer.identifier
        self._settings = settings
        self._refreshes = metrics.refreshes
        self._clock = clock
        self._keys: tuple[Key, ...] | None = None
        self._fetched_at = self._asked_at = float("-inf")
        self._refresh_after = settings.refresh_seconds
        self._trouble: str | None = None
        self._asking: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._asking is not None:
            await tasks.end(self._asking)
        await super().__aexit__(kind, problem, traceback)

    @property
    def fetched_at(self) -> float:
        """When the keys there are were fetched, by `clock`."""
        return self._fetched_at

    async def find(self, kid: str | None) -> tuple[Key, ...]:
        """The keys that a token with this key id may be signed with; none if the issuer has no such key.

        Args:
            kid: as the token names it; None where it names none.

        Raises:
            KeysUnavailableError: no keys could be had yet, or the issuer cannot be asked about this one.
        """
        if self._keys is None:
            await self._ask(RETRY_SECONDS)
        elif self._clock() - self._fetched_at >= self._refresh_after:
            self._ask_beside()
        found = self._with(kid)
        if not found:
            await self._ask(UNKNOWN_KEY_SECONDS)
            found = self._with(kid)
        if not found and self._trouble is not None:
            raise KeysUnavailableError(self._trouble)
        return found

    async def check(self) -> str | None:
        """A sentence about why no keys could be had yet, or None."""
        if self._keys is None:
            await self._ask(RETRY_SECONDS)
        return f"the issuer's keys were not had yet: {self._trouble}" if self._keys is None else None

    def _with(self, kid: str | None) -> tuple[Key, ...]:
        if self._keys is None:
            raise KeysUnavailableError(self._trouble or "the issuer's keys were not had yet")
        return tuple(key for key in self._keys if kid is None or key.kid == kid)

    async def _ask(self, interval: float) -> None:
        """Fetch them, unless that was done within `interval` seconds; whoever comes meanwhile waits for the same."""
        if self._asking is None and self._clock() - self._asked_at < interval:
            return
        await asyncio.shield(self._begin())

    def _ask_beside(self) -> None:
        if self._asking is None and self._clock() - self._asked_at >= RETRY_SECONDS:
            self._begin()

    def _begin(self) -> asyncio.Task[None]:
        if self._asking is None:
            self._asked_at = self._clock()
            self._asking = asyncio.create_task(self._refresh())
        return self._asking

    async def _refresh(self) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_seconds):
                keys = await self._fetch()
        except DiscoveryError as problem:
            self._note(str(problem))
        except TimeoutError:
            self._note(f"no answer within {self._settings.timeout_seconds:g} s")
        except (aiohttp.ClientError, OSError) as problem:
            self._note(f"it cannot be reached ({type(problem).__name__})")
        else:
            self._note(None)
            self._keep(keys)
        finally:
            self._asking = None

    def _keep(self, keys: tuple[Key, ...]) -> None:
        gone = {key.thumbprint() for key in self._keys or ()} - {key.thumbprint() for key in keys}
        self._keys, self._fetched_at = keys, self._clock()
        # Not all pods of a release at the same second.
        self._refresh_after = self._settings.refresh_seconds * (1 - random.random() * _SPREAD)  # noqa: S311
        if gone:
            self.on_change()

    def _note(self, trouble: str | None) -> None:
        self._refreshes.labels("success" if trouble is None else "error").inc()
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("the issuer's keys can be had again", issuer=self._issuer)
        else:
            _log.error("the issuer's keys cannot be had", issuer=self._issuer, problem=trouble)

    async def _fetch(self) -> tuple[Key, ...]:
        url = self._settings.url or await find_address(self, self._issuer, "jwks_uri")
        document = await fetch(self, url)
        try:
            keys = public_keys(document)
        except ValueError:
            keys = ()
        if not keys:
            raise DiscoveryError("the key set has no key that can check a signature")
        return keys
