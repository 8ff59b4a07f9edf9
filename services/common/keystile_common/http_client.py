"""What the HTTP clients of both services share: one aiohttp session each, no cookies, no redirects, no proxies."""

import asyncio
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Self

import aiohttp
from yarl import URL

from keystile_common.certificates import TrustedAuthorities


class HttpClient:
    """Sends its requests over one shared session. Used as an async context manager, inside the running event loop.

    Args:
        timeout_seconds: the most that one request may take, connecting included.
        authorities: whom to trust; the system's by default.
        headers: sent with every request.
        connector: more arguments of `aiohttp.TCPConnector`.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        authorities: TrustedAuthorities | None = None,
        headers: Mapping[str, str] | None = None,
        **connector: Any,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._authorities = authorities
        self._headers = headers
        self._connector_arguments = connector
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Open the session.

        Raises:
            CertificateError: the authorities cannot be read.
        """
        if self._authorities is not None:
            self._authorities.context()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(**self._connector_arguments),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers=self._headers,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()
            # aiohttp does not wait until its sockets are closed; that happens in the loop's next turn.
            await asyncio.sleep(0)

    def request(
        self, method: str, url: str | URL, **arguments: Any
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request; redirects are not followed.

        Args:
            method: of HTTP.
            url: absolute.
            arguments: more of `aiohttp.ClientSession.request`.
        """
        if self._session is None:
            raise RuntimeError(f"{type(self).__name__} is used as an async context manager")
        # A connection is kept for the context it was made with: once the authorities are others, none is used again.
        trust = True if self._authorities is None else self._authorities.context()
        return self._session.request(method, url, ssl=trust, allow_redirects=False, **arguments)
