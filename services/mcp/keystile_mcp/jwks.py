"""The issuer's public keys (RFC 7517), fetched once for all requests and kept while the issuer is away."""

import asyncio
import contextlib
import json
import random
import time
from collections.abc import Callable
from http import HTTPStatus
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import structlog

from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_common.jws import Key, public_keys
from keystile_common.metrics import JwksMetrics
from keystile_common.settings import is_loopback_host
from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.settings import McpSettings

MAX_DOCUMENT_BYTES = 256 * 1024
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
        settings: the issuer, and how its keys are had.
        metrics: where fetches are counted.
        clock: seconds that only go forward.
    """

    def __init__(
        self, settings: McpSettings, metrics: JwksMetrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        ca_file = settings.jwks.ca_file
        super().__init__(
            timeout_seconds=settings.jwks.timeout_seconds,
            authorities=TrustedAuthorities(ca_file, "jwks.ca_file") if ca_file else None,
            headers={"Accept": "application/json"},
            limit=2,
        )
        self._issuer = settings.authorization_server
        self._settings = settings.jwks
        self._refreshes = metrics.refreshes
        self._clock = clock
        self._keys: tuple[Key, ...] | None = None
        self._fetched_at = self._asked_at = float("-inf")
        self._refresh_after = settings.jwks.refresh_seconds
        self._trouble: str | None = None
        self._asking: asyncio.Task[None] | None = None
        self.on_change: Callable[[], None] = lambda: None

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._asking is not None:
            self._asking.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._asking
        await super().__aexit__(kind, problem, traceback)

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
        except KeysUnavailableError as problem:
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
        url = self._settings.url or await self._jwks_uri()
        document = await self._get(url)
        try:
            keys = public_keys(document)
        except ValueError:
            keys = ()
        if not keys:
            raise KeysUnavailableError("the key set has no key that can check a signature")
        return keys

    async def _jwks_uri(self) -> str:
        problem = "it has no metadata"
        for place in metadata_places(self._issuer):
            document = await self._get(place, missing_ok=True)
            if not isinstance(document, dict):
                continue
            # RFC 8414 section 3.3: whoever says another name may be anybody.
            if document.get("issuer") != self._issuer:
                problem = "its metadata name another issuer"
                continue
            uri = document.get("jwks_uri")
            if isinstance(uri, str) and _is_safe(uri):
                return uri
            problem = "its metadata have no https jwks_uri"
        raise KeysUnavailableError(problem)

    async def _get(self, url: str, *, missing_ok: bool = False) -> Any:
        async with self.request("GET", url) as response:
            if missing_ok and response.status == HTTPStatus.NOT_FOUND:
                return None
            if response.status != HTTPStatus.OK:
                raise KeysUnavailableError(f"it answered with status {response.status}")
            body = b""
            while not response.content.at_eof():
                body += await response.content.read(MAX_DOCUMENT_BYTES + 1 - len(body))
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise KeysUnavailableError(f"a document is larger than {MAX_DOCUMENT_BYTES} bytes")
        try:
            return json.loads(body)
        except (ValueError, RecursionError):
            raise KeysUnavailableError("a document is not JSON") from None


def metadata_places(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be: RFC 8414 section 3.1, OpenID Connect Discovery section 4, and both mixed."""
    url = urlsplit(issuer)
    origin, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    return tuple(
        dict.fromkeys(
            (
                f"{origin}/.well-known/oauth-authorization-server{path}",
                f"{origin}{path}/.well-known/openid-configuration",
                f"{origin}/.well-known/openid-configuration{path}",
            )
        )
    )


def _is_safe(uri: str) -> bool:
    try:
        url = urlsplit(uri)
        return url.scheme == "https" or (url.scheme == "http" and is_loopback_host(url.hostname))
    except ValueError:
        return False
