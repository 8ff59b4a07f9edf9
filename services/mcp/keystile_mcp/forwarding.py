"""Handing an MCP request on to another server, and its answer back, as it comes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from http import HTTPStatus
from typing import Final

import aiohttp
from starlette.types import Message, Receive, Scope, Send

from keystile_common import traces
from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.http_client import HttpClient

_REQUEST_HEADERS: Final = frozenset({b"accept", b"content-type", b"last-event-id", b"user-agent"})
_RESPONSE_HEADERS: Final = frozenset({"content-type", "cache-control", "allow", "retry-after"})
_MCP: Final = "mcp-"

Check = Callable[[int], None]
"""Is given the status of the answer; raises `ForwardingError` where the answer is not for the client."""


class ForwardingError(Exception):
    """No answer can be had.

    Args:
        kind: as a metric may name it.
        sentence: for the log and for the client.
        status: what the client is answered with.
    """

    def __init__(self, kind: str, sentence: str, status: HTTPStatus) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.status = status


class Forwarder(HttpClient):
    """Hands requests on. Of a request goes on what MCP needs and nothing else, of an answer likewise.

    Args:
        name: how sentences call the other server.
        **client: arguments of `HttpClient`; its timeout is that for connecting. An answer may take as long as it takes.
    """

    def __init__(self, name: str, *, connect_seconds: float, **client: object) -> None:
        super().__init__(timeout_seconds=connect_seconds, **client)  # type: ignore[arg-type]
        self._name = name
        self._patience = aiohttp.ClientTimeout(total=None, connect=connect_seconds)

    async def forward(
        self,
        url: str,
        headers: Mapping[str, str],
        check: Check,
        scope: Scope,
        body: bytes,
        receive: Receive,
        send: Send,
    ) -> None:
        """Hand one request on, until it is answered or the client goes away.

        Args:
            url: where to.
            headers: besides those that MCP needs.
            check: may refuse the answer.
            scope: the request.
            body: its body, which was read.
            receive: tells that the client has gone.
            send: takes the answer.

        Raises:
            ForwardingError: there is no answer; when one had begun, it stays incomplete.
        """
        answering = asyncio.create_task(self._answer(url, headers, check, scope, body, send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            # When the client goes away so does our request, which tells the other server to stop.
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _answer(
        self, url: str, headers: Mapping[str, str], check: Check, scope: Scope, body: bytes, send: Send
    ) -> None:
        async with self._open(url, headers, scope, body) as response:
            check(response.status)
            await send(_start(response))
            async for chunk in self._chunks(response):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    @contextlib.asynccontextmanager
    async def _open(
        self, url: str, headers: Mapping[str, str], scope: Scope, body: bytes
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.request(
                scope["method"],
                url,
                data=body or None,
                headers=traces.inject({**_headers(scope), **headers}),
                auto_decompress=False,
                timeout=self._patience,
            ) as response:
                yield response
        except TimeoutError:
            raise self._unreachable("timeout") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise self._unreachable("connection") from None
        except aiohttp.ClientError:
            raise ForwardingError(
                "protocol", f"{self._name} answers what is not HTTP", HTTPStatus.BAD_GATEWAY
            ) from None

    async def _chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        # As they come; the next is read when the client has taken this one.
        try:
            async for chunk in response.content.iter_any():
                yield chunk
        except (aiohttp.ClientError, OSError):
            raise ForwardingError("broken_off", f"{self._name} broke off its answer", HTTPStatus.BAD_GATEWAY) from None

    def _unreachable(self, kind: str) -> ForwardingError:
        sentence = f"{self._name} cannot be reached; try again in {RETRY_AFTER_SECONDS} seconds"
        return ForwardingError(kind, sentence, HTTPStatus.SERVICE_UNAVAILABLE)


class Started:
    """A `send` that knows whether the answer has begun."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.is_started = False

    async def __call__(self, message: Message) -> None:
        """Pass `message` on."""
        self.is_started = True
        await self._send(message)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(scope: Scope) -> dict[str, str]:
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in scope["headers"]
        if name in _REQUEST_HEADERS or name.startswith(_MCP.encode())
    }
    # Answers are read on their way.
    return {**headers, "accept-encoding": "identity"}


def _start(response: aiohttp.ClientResponse) -> Message:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name.lower() in _RESPONSE_HEADERS or name.lower().startswith(_MCP)
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}
