"""Caps on what a request may bring, applied before anything of it is parsed."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_HEADER_BYTES = 16 * 1024
MAX_QUERY_BYTES = 8 * 1024
_MAX_DIGITS = 18
MAX_DISCARDED_BYTES = 16 * 1024 * 1024
MAX_DISCARDING_SECONDS = 1.0


class RequestTooLargeError(HTTPException):
    """The body went on past its cap while it was read."""

    def __init__(self) -> None:
        super().__init__(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)


class LimitsMiddleware:
    """Refuses oversized headers (431), query strings (414) and bodies (413) with a JSON error.

    Args:
        app: what is behind it.
        max_body_bytes: the most a body may have.
        others: paths whose bodies may have more or less, and how much.
    """

    def __init__(self, app: ASGIApp, max_body_bytes: int, others: Mapping[str, int] | None = None) -> None:
        self._app = app
        self._max_body = max_body_bytes
        self._others = others or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        most = self._others.get(scope["path"], self._max_body)
        head = _head_of(scope)
        refusal = _refusal(scope, head, most)
        if refusal is not None:
            await _discard(receive)
            await _refuse(send, *refusal)
        elif head.says_how_long:
            await self._app(scope, receive, send)
        else:
            await self._serve(scope, receive, send, most)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, most: int) -> None:
        body = _CountedBody(receive, send, most)
        try:
            await self._app(scope, body.receive, body.send)
        except RequestTooLargeError:
            if body.is_answered:
                raise
        if body.is_too_large and not body.is_answered:
            await _discard(receive)
            await _refuse(send, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _body_sentence(most))


class _Head(NamedTuple):
    """What the limits ask of a request's headers."""

    size: int
    lengths: list[bytes]
    is_chunked: bool

    @property
    def says_how_long(self) -> bool:
        """Whether the web server holds the body to the one Content-Length that was looked at."""
        return len(self.lengths) == 1 and not self.is_chunked


def _head_of(scope: Scope) -> _Head:
    size, lengths, is_chunked = 0, [], False
    for name, value in scope["headers"]:  # once for all: this runs on every request
        size += len(name) + len(value)
        if name == b"content-length":
            lengths.append(value)
        elif name == b"transfer-encoding":
            is_chunked = True
    return _Head(size, lengths, is_chunked)


def _refusal(scope: Scope, head: _Head, most: int) -> tuple[HTTPStatus, str] | None:
    if len(scope["query_string"]) > MAX_QUERY_BYTES:
        return HTTPStatus.REQUEST_URI_TOO_LONG, f"the query must be at most {MAX_QUERY_BYTES} bytes"
    if head.size > MAX_HEADER_BYTES:
        return (
            HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
            f"all headers together must be at most {MAX_HEADER_BYTES} bytes",
        )
    for value in head.lengths:
        if not value.isdigit():
            return HTTPStatus.BAD_REQUEST, "Content-Length must be a number"
    for value in head.lengths:
        if len(value) > _MAX_DIGITS or int(value) > most:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE, _body_sentence(most)
    return None


class _CountedBody:
    """Counts what is read of a body, and holds back what the application makes of the cut."""

    def __init__(self, receive: Receive, send: Send, most: int) -> None:
        self._receive = receive
        self._send = send
        self._left = most
        self.is_too_large = False
        self.is_answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._left -= len(message.get("body", b""))
            if self._left < 0:
                self.is_too_large = True
                raise RequestTooLargeError
        return message

    async def send(self, message: Message) -> None:
        if self.is_too_large and not self.is_answered:
            return  # the answer for it is given further out
        self.is_answered = True
        await self._send(message)


def _body_sentence(most: int) -> str:
    return f"the body must be at most {most} bytes"


async def _discard(receive: Receive) -> None:
    """Let a client finish writing, within bounds: one whose connection is reset while it writes sees no answer."""
    discarded = 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(MAX_DISCARDING_SECONDS):
            while discarded < MAX_DISCARDED_BYTES:
                message = await receive()
                discarded += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return


async def _refuse(send: Send, status: HTTPStatus, sentence: str) -> None:
    body = json.dumps({"error": "invalid_request", "error_description": sentence}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        # What may be left of the body is not worth reading.
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
