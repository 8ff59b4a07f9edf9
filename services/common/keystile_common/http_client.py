"""The HTTP clients of both services: one aiohttp session each, no cookies, no proxy of the environment."""

import ssl
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp


class HttpClient:
    """Sends its requests over one shared session. Used as an async context manager, inside the running event loop.

    Args:
        timeout_seconds: the most that one request may take, connecting included.
        ca_file: certificate authorities to trust, PEM; the system's by default.
        headers: sent with every request.
        connector: more arguments of `aiohttp.TCPConnector`.
    """

    def __init__(
        self,
        *,
        timeout_seconds: float,
        ca_file: Path | None = None,
        headers: Mapping[str, str] | None = None,
        **connector: Any,
    ) -> None:
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._ca_file = ca_file
        self._headers = headers
        self._connector_arguments = connector
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._tls(self._ca_file), **self._connector_arguments),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            headers=self._headers,
            trust_env=False,
        )
        return self

    def _tls(self, ca_file: Path | None) -> ssl.SSLContext | bool:
        """Whom to trust; True stands for the system's authorities."""
        return ssl.create_default_context(cafile=str(ca_file)) if ca_file else True

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @property
    def session(self) -> aiohttp.ClientSession:
        """The session, while the client is open.

        Raises:
            RuntimeError: it is not.
        """
        if self._session is None:
            raise RuntimeError(f"{type(self).__name__} is used as an async context manager")
        return self._session
