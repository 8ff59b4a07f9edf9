"""Asks servers, each within its time, and reads no more of an answer than is needed."""

import asyncio
import ipaddress
import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import aiohttp

from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient

MAX_ANSWER_BYTES = 256 * 1024


class NoAnswerError(Exception):
    """No answer came; `str()` is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        url: that was asked.
        status: of HTTP.
        headers: by name in lower case; one that came several times is one list (RFC 9110 section 5.2).
        body: its beginning, `MAX_ANSWER_BYTES` at most.
        is_whole: whether that is all of it.
    """

    url: str
    status: int
    headers: Mapping[str, str]
    body: bytes
    is_whole: bool

    @property
    def media_type(self) -> str:
        """The type of the body, without parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def location(self) -> str | None:
        """Where a redirect leads, as it was written."""
        return self.headers.get("location") if 300 <= self.status < 400 else None  # noqa: PLR2004 (RFC 9110 15.4)

    def document(self) -> dict[str, Any] | None:
        """The body as a JSON object, if it is one."""
        try:
            value = json.loads(self.body)
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None


def is_loopback(host: str | None) -> bool:
    """Whether `host` names this machine and nothing else."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_safe(url: str) -> bool:
    """Whether what is sent to `url` can be read by nobody on the way: https, or on this machine."""
    try:
        parts = urlsplit(url)
        return bool(parts.hostname) and (
            parts.scheme == "https" or (parts.scheme == "http" and is_loopback(parts.hostname))
        )
    except ValueError:
        return False


class Probe:
    """Asks; used as an async context manager.

    Args:
        timeout_seconds: for one answer, its body included.
        total_seconds: for everything that is asked.
        authorities: whom to trust; the system's by default.
    """

    def __init__(self, timeout_seconds: float, total_seconds: float, authorities: TrustedAuthorities | None) -> None:
        self.authorities = authorities
        self.secrets: list[str] = []
        self._timeout = timeout_seconds
        self._end = time.monotonic() + total_seconds
        # A connection each: an answer that is not read to its end leaves nothing behind for the next one.
        self._http = HttpClient(timeout_seconds=timeout_seconds, authorities=authorities, force_close=True, limit=16)

    async def __aenter__(self) -> Self:
        await self._http.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._http.__aexit__(kind, error, traceback)

    def seconds_left(self) -> float:
        """How long the next question may take."""
        return max(min(self._timeout, self._end - time.monotonic()), 0.0)

    def extend(self, seconds: float) -> None:
        """Give what is asked from now on `seconds` in all, whatever was left."""
        self._end = time.monotonic() + seconds

    def hide(self, secret: str) -> None:
        """Keep `secret` out of everything that is shown."""
        self.secrets.append(secret)

    async def ask(self, method: str, url: str, *, secret: bool = False, **arguments: Any) -> Answer:
        """Ask once; redirects are not followed.

        Args:
            method: of HTTP.
            url: absolute, http or https.
            secret: whether the request carries one, and so must not travel in plain text.
            arguments: more of `aiohttp.ClientSession.request`.

        Raises:
            NoAnswerError: there is none in time, or none that can be read.
        """
        async with self.stream(method, url, secret=secret, **arguments) as response:
            body = b""
            while len(body) <= MAX_ANSWER_BYTES and not response.content.at_eof():
                body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
            headers = {name.lower(): ", ".join(response.headers.getall(name)) for name in response.headers}
            return Answer(url, response.status, headers, body[:MAX_ANSWER_BYTES], len(body) <= MAX_ANSWER_BYTES)

    @asynccontextmanager
    async def stream(
        self, method: str, url: str, *, secret: bool = False, **arguments: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Ask, and leave the body to the block, which shares the time; arguments and errors as `ask`."""
        host = _host(url)
        if secret and not is_safe(url):
            raise NoAnswerError(f"{host} was not asked, since a secret would have travelled over plain http")
        left = self.seconds_left()
        if left <= 0:
            raise NoAnswerError("no time was left to ask")
        headers = {"Accept-Encoding": "identity", "User-Agent": "keystile-doctor", **arguments.pop("headers", {})}
        timeout = aiohttp.ClientTimeout(total=left)
        try:
            async with self._http.request(method, url, headers=headers, timeout=timeout, **arguments) as response:
                yield response
        except TimeoutError:
            raise NoAnswerError(f"{host} did not answer within {left:.0f} s") from None
        except aiohttp.ClientConnectorCertificateError:
            raise NoAnswerError(f"the certificate of {host} is not trusted") from None
        except (aiohttp.ClientError, OSError, ValueError, ssl.SSLError, asyncio.IncompleteReadError) as error:
            raise NoAnswerError(f"{host} could not be asked ({_reason(error)})") from None


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise NoAnswerError("that is no URL") from None
    if not host or parts.scheme not in {"http", "https"} or parts.username or parts.password:
        raise NoAnswerError("only an http or https URL with a host and without a user can be asked")
    return f"{host}:{port}" if port else host


def _reason(error: BaseException) -> str:
    cause = getattr(error, "os_error", None) or error
    # "Connect call failed ('127.0.0.1', 80)" says less than "Connection refused".
    return getattr(cause, "strerror", None) or {
        "ServerDisconnectedError": "it closed the connection without an answer",
        "ClientPayloadError": "its answer broke off",
    }.get(type(error).__name__, type(error).__name__)
