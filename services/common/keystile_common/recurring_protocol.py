"""HTTP/1.1 for uvicorn that answers requests which recur on a connection without parsing them.

They have no scope, no cycle of messages and, where their answer is at hand, no task. A head that differs in one byte, a
request that comes in two pieces, and whatever the application does not want to answer in this way, are served as ever,
and end the offer.
"""

import asyncio
from collections.abc import Coroutine
from functools import partial
from typing import Any

import structlog

from keystile_common.http_protocol import BoundedHttpProtocol
from keystile_common.recurring_requests import EXTENSION, Answer, AnswerAgain

_END_OF_HEAD = b"\r\n\r\n"
_MAX_BYTES = 8 * 1024
"""Of a request with its head: what is larger is rare, and not worth a look."""


class HttpProtocol(BoundedHttpProtocol):
    """HTTP/1.1 as Keystile's servers speak it."""

    _answer_again: AnswerAgain | None = None
    _head = b""
    _length = 0
    _pieces = 0
    """Of what came, how many the parser has seen: none of them may come between a request and its offer."""
    _requests_in_piece = 0
    """How many requests have a part in what the parser is reading."""
    _is_one_whole = False
    _answering: "asyncio.Task[None] | None" = None
    _kept = b""
    """What came while an answer was under way."""
    _is_closing = False
    _rendered: tuple[list[tuple[bytes, bytes]], bytes] | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of what was offered."""
        super().connection_lost(exc)
        self._answer_again = None

    def data_received(self, data: bytes) -> None:
        """Answer a request that is like the one before, or read on."""
        if self._answering is not None:
            self.flow.pause_reading()
            self._kept += data
            return
        again = self._answer_again
        if again is not None:
            # It was offered for a request that came in one piece, and all that came since were its likes: what comes
            # now is the beginning of a request.
            is_alike = len(data) == self._length and data.startswith(self._head)
            if is_alike and self.cycle.response_complete and not self.flow.write_paused:
                answer = again(data[len(self._head) :])
                if answer is not None:
                    self._answer(answer)
                    return
            self._answer_again = None
        self._pieces += 1
        self._requests_in_piece, self._is_one_whole = 0, False
        super().data_received(data)
        if self._is_one_whole and self._requests_in_piece == 1 and len(data) <= _MAX_BYTES:
            self._let_offer(data)

    def _let_offer(self, data: bytes) -> None:
        cycle, end = self.cycle, data.find(_END_OF_HEAD) + len(_END_OF_HEAD)
        # The parser's body is the rest of what came: neither has it another end of the head in mind, nor is the body
        # in chunks.
        if cycle.body and cycle.body == data[end:] and cycle.keep_alive:
            scope: Any = cycle.scope  # uvicorn's type has other extensions only
            offer = partial(self._accept, self._pieces, data[:end], len(data))
            scope.setdefault("extensions", {})[EXTENSION] = offer

    def _accept(self, pieces: int, head: bytes, length: int, again: AnswerAgain) -> None:
        if self._pieces == pieces:
            self._head, self._length, self._answer_again = head, length, again

    def on_message_begin(self) -> None:
        """A request begins."""
        self._requests_in_piece += 1
        super().on_message_begin()

    def on_message_complete(self) -> None:
        """The request is whole; another may follow."""
        if self._requests_in_piece:
            self._is_one_whole = True
        else:
            self._requests_in_piece = 1  # it began in another piece
        super().on_message_complete()

    def shutdown(self) -> None:
        """Close the connection once its answer is sent, at once if there is none under way."""
        if self._answering is not None:
            self._is_closing = True
        else:
            super().shutdown()

    def _answer(self, answer: Answer | Coroutine[Any, Any, Answer]) -> None:
        if isinstance(answer, Answer):
            self._send(answer)
            self._expect_request()
            return
        self._stop_waiting()
        self._answering = self.loop.create_task(self._answer_later(answer))
        self.tasks.add(self._answering)
        self._answering.add_done_callback(self.tasks.discard)

    async def _answer_later(self, coming: Coroutine[Any, Any, Answer]) -> None:
        try:
            answer = await coming
        except Exception as problem:  # noqa: BLE001 (whatever it is, nobody would see it)
            structlog.get_logger("keystile_common").error("unexpected error", kind=type(problem).__name__)
            self.transport.close()
            return
        finally:
            self._answering = None
        if self.transport.is_closing():
            return
        self._send(answer)
        if self._is_closing:
            self.transport.close()
            return
        self._expect_request()
        self.flow.resume_reading()
        if self._kept:
            data, self._kept = self._kept, b""
            self.data_received(data)

    def _send(self, answer: Answer) -> None:
        self.server_state.total_requests += 1
        connection = b"connection: close\r\n" if self._is_closing else b""
        length = b"content-length: %d\r\n\r\n" % len(answer.body)
        self._joined.write_whole(b"".join((answer.head, self._default_lines(), connection, length, answer.body)))

    def _default_lines(self) -> bytes:
        """What uvicorn adds to every answer: a list of its own each second, for the date in it."""
        headers = self.server_state.default_headers
        if self._rendered is None or self._rendered[0] is not headers:
            self._rendered = headers, b"".join(b"%s: %s\r\n" % header for header in headers)
        return self._rendered[1]
