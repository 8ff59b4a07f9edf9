"""HTTP/1.1 for uvicorn, with bounds that it does not set: how long a request may take to come, and how large its head.

Beside that, the application is told what certificate the client showed, where clients are asked for one.

A request that is complete may be answered as late as the application likes; a stream may stay open for hours.

The head of an answer and its body are sent together, where uvicorn has a system call and a packet for each.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from keystile_common.client_certificate import EXTENSION, ClientCertificate, shown_on

REQUEST_SECONDS = 30.0
"""From the connection, or the answer before, to the last byte of the request."""
MAX_HEAD_BYTES = 64 * 1024
"""What a request line and headers may take before they are whole; how long they may be is the application's matter."""
_MAX_JOINED_BYTES = 64 * 1024
"""Longer bodies are sent after the head: to copy them would cost more than it saves."""


class _JoinedAnswers:
    """A transport that keeps the head of an answer whose length it tells until there is some of the body.

    Nobody is kept waiting who may not be: an application begins to answer with the body (ASGI: `http.response.start`
    is not to be sent before there is one). A stream has no length; its head goes at once, as uvicorn has it.
    """

    __slots__ = ("_close", "_head", "_transport", "_write", "is_closing")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._write = transport.write
        self._close = transport.close
        self._head = b""
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Send this, and what was kept before it."""
        if self._head:
            if len(data) <= _MAX_JOINED_BYTES:
                data = self._head + data
            else:
                self._write(self._head)
            self._head = b""
        elif _is_head_with_length(data):
            self._head = data
            return
        self._write(data)

    def write_whole(self, data: bytes) -> None:
        """Send an answer that is head and body already."""
        self.flush()
        self._write(data)

    def flush(self) -> None:
        """Send what is kept: no body follows."""
        if self._head:
            self._write(self._head)
            self._head = b""

    def close(self) -> None:
        """Close when all is sent."""
        self.flush()
        self._close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _is_head_with_length(data: bytes) -> bool:
    # Of a body that looks like one, a part may wait for the next part, or for the end of the answer.
    return data.startswith(b"HTTP/1.1 ") and data.endswith(b"\r\n\r\n") and b"\r\ncontent-length: " in data


class BoundedHttpProtocol(HttpToolsProtocol):
    """Closes connections whose request does not come to an end."""

    request_seconds = REQUEST_SECONDS

    client_certificate: ClientCertificate | None = None
    """What the client of this connection showed."""

    _expected_since = 0.0
    _due: float | None = None
    _timer: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _in_head = True

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._joined = _JoinedAnswers(transport)
        self.transport = self._joined  # type: ignore[assignment] # it has what is used of one
        self.client_certificate = shown_on(transport)
        self._expected_since = self.loop.time()
        self._wait_until(self._expected_since + self.request_seconds)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and let go of what is kept for requests to come."""
        self._stop_waiting()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        super().connection_lost(exc)
        # All of these lead back here. Left as they are, they would wait for the garbage collector, which then keeps
        # everybody waiting: for 170 ms after some thousand connections.
        self.pipeline.clear()
        self.cycle = self.scope = None  # type: ignore[assignment] # as they are before the first request

    def data_received(self, data: bytes) -> None:
        """Read on, unless the head has no end."""
        if self._in_head:
            if self._head_bytes == 0 and self._due is not None:
                self._wait_until(self._expected_since + self.request_seconds)
            self._head_bytes += len(data)
        super().data_received(data)
        if self._in_head and self._head_bytes > MAX_HEAD_BYTES:
            self._close_with(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if self.client_certificate is not None:
            self.scope["extensions"] = {EXTENSION: {"certificate": self.client_certificate}}

    def on_headers_complete(self) -> None:
        """The head is whole."""
        self._in_head = False
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The request is whole; another may follow."""
        super().on_message_complete()
        self._in_head, self._head_bytes = True, 0
        if self.cycle.response_complete:
            # It was refused before its end.
            self._expect_request()
        else:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Answer the next request if it is there, or wait for it. uvicorn would have a timer of its own for that."""
        self._joined.flush()  # an answer to HEAD has no body
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
        self._expect_request()

    def _expect_request(self) -> None:
        """Wait for a request: not for long until it begins, and for longer until it is whole."""
        self._expected_since = self.loop.time()
        has_begun = self._head_bytes or not self._in_head
        self._wait_until(self._expected_since + (self.request_seconds if has_begun else self.timeout_keep_alive))

    def _wait_until(self, due: float) -> None:
        # One timer goes on from request to request: to make and cancel one for each would cost more than it guards.
        self._due = due
        if self._timer is None or self._timer.when() > due:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self.loop.call_at(due, self._look_at_clock)

    def _stop_waiting(self) -> None:
        self._due = None

    def _look_at_clock(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self.loop.time():
            self._wait_until(self._due)
        else:
            self._too_late()

    def _current(self) -> RequestResponseCycle | None:
        """The request that is read or answered now."""
        cycle: RequestResponseCycle | None = self.cycle  # none before the first
        return None if cycle is None or cycle.response_complete else cycle

    def _too_late(self) -> None:
        cycle = self._current()
        # A whole request may have come behind the one before (pipelining): it is being answered.
        if cycle is None or cycle.more_body:
            self._close_with(HTTPStatus.REQUEST_TIMEOUT)

    def _close_with(self, status: HTTPStatus) -> None:
        if self.transport.is_closing():
            return
        cycle = self._current()
        has_answer = cycle is not None and cycle.response_started
        if not has_answer and (self._head_bytes or not self._in_head):
            line = f"HTTP/1.1 {status.value} {status.phrase}\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            self.transport.write(line.encode())
        self.transport.close()
