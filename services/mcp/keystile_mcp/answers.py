"""The messages of an MCP server's answer, read on their way to the client.

Whatever the server is, it answers with JSON or with server-sent events (Streamable HTTP), so this is where the
outcome of a call can be seen and a list be changed for all of them alike.
"""

import re
from collections.abc import Callable
from typing import Any

import pydantic_core
from starlette.types import Message, Send

MAX_READ_BYTES = 16 * 1024 * 1024
"""An answer, or an event of one, that is larger goes on unread."""

_END_OF_EVENT = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_LINE_END = re.compile(rb"\r\n|\n|\r")

Look = Callable[[dict[str, Any]], dict[str, Any] | None]
"""Is shown a JSON-RPC message; answers another to send in its place, or None to let it go on as it is."""


class Answer:
    """One HTTP response on its way; pass `send` to the server instead of `target`.

    Nothing is held back that a client could use: JSON is of use when it is whole, an event likewise.

    Args:
        target: where the response goes.
        look: is shown every message in it.
    """

    __slots__ = ("_buffer", "_look", "_mode", "_start", "_target", "status")

    def __init__(self, target: Send, look: Look) -> None:
        self._target = target
        self._look = look
        self._mode = "other"
        self._buffer = b""
        self._start: Message | None = None
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        """Take one ASGI message of the response."""
        if message["type"] == "http.response.start":
            await self._begin(message)
        elif message["type"] == "http.response.body" and self._mode == "json":
            await self._json(message)
        elif message["type"] == "http.response.body" and self._mode == "events":
            await self._events(message)
        else:
            await self._target(message)

    async def _begin(self, message: Message) -> None:
        self.status = message["status"]
        headers = dict(message.get("headers", ()))
        kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
        if b"content-encoding" not in headers:
            self._mode = {b"application/json": "json", b"text/event-stream": "events"}.get(kind, "other")
        if self._mode == "json":
            # Its length may change.
            self._start = message
            return
        await self._target(message)

    async def _json(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        self._buffer = self._buffer + body if self._buffer else body
        more = message.get("more_body", False)
        if more and len(self._buffer) <= MAX_READ_BYTES:
            return
        body, self._buffer = self._buffer, b""
        start, self._start = self._start, None
        assert start is not None  # noqa: S101 (set when the mode was)
        if more:
            self._mode = "other"
        else:
            replaced = self._replacement(body)
            if replaced is not None:
                body = replaced
                headers = [header for header in start["headers"] if header[0] != b"content-length"]
                start = {**start, "headers": [*headers, (b"content-length", str(len(body)).encode())]}
        await self._target(start)
        await self._target({"type": "http.response.body", "body": body, "more_body": more})

    async def _events(self, message: Message) -> None:
        self._buffer += message.get("body", b"")
        more = message.get("more_body", False)
        done = []
        begin = 0
        for end in _END_OF_EVENT.finditer(self._buffer):
            done.append(self._event(self._buffer[begin : end.start()], end.group()))
            begin = end.end()
        self._buffer = self._buffer[begin:]
        if not more or len(self._buffer) > MAX_READ_BYTES:
            done.append(self._buffer)
            self._buffer = b""
            if more:
                self._mode = "other"
        if done or not more:
            await self._target({"type": "http.response.body", "body": b"".join(done), "more_body": more})

    def _event(self, event: bytes, end: bytes) -> bytes:
        if b"data:" not in event:
            return event + end
        lines = _LINE_END.split(event)
        data = [line[5:].removeprefix(b" ") for line in lines if line.startswith(b"data:")]
        replaced = self._replacement(b"\n".join(data))
        if replaced is None:
            return event + end
        line_end = end[: len(end) // 2]
        others = [line for line in lines if not line.startswith(b"data:")]
        return line_end.join([*others, b"data: " + replaced]) + end

    def _replacement(self, body: bytes) -> bytes | None:
        try:
            message = pydantic_core.from_json(body)
        except ValueError:
            return None
        replaced = self._look(message) if isinstance(message, dict) else None
        return None if replaced is None else pydantic_core.to_json(replaced)
