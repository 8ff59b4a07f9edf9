"""Load on any HTTP server: requests made by a function, on kept connections, one after another on each."""

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from urllib.parse import urlencode, urlsplit

import uvloop

Next = Callable[[bytes | None], bytes]
"""Makes a connection's next request; its argument is the body of the answer before, None at first."""

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n", re.IGNORECASE)


@dataclass
class Answers:
    """What came back: how long each answer took and the whole of them, in seconds, and those that were not 200."""

    seconds: float = 0.0
    taken: list[float] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)

    def percentile_ms(self, share: float) -> float:
        """The duration that this share of the answers did not exceed, in milliseconds."""
        return sorted(self.taken)[min(int(len(self.taken) * share), len(self.taken) - 1)] * 1000


class _Connection(asyncio.Protocol):
    """One connection; counts down what all of them have left to do together."""

    def __init__(self, make: Next, left: list[int], answers: Answers, done: "asyncio.Future[None]") -> None:
        self._make = make
        self._left = left
        self._answers = answers
        self._done = done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport
        self._send(None)

    def _send(self, body: bytes | None) -> None:
        if self._left[0] <= 0:
            self._transport.close()
            return
        self._left[0] -= 1
        self._began = time.perf_counter()
        self._transport.write(self._make(body))

    def data_received(self, data: bytes) -> None:
        try:
            self._received(self._buffer + data)
        except Exception as problem:  # noqa: BLE001 (uvloop would only log it, and the caller wait for ever)
            self._done.set_exception(problem)

    def _received(self, data: bytes) -> None:
        self._buffer = data
        head = data.find(b"\r\n\r\n")
        if head < 0:
            return
        length = _LENGTH.search(data, 0, head + 2)
        assert length is not None, data
        if len(data) < head + 4 + int(length[1]):
            return
        self._buffer = b""
        self._answers.taken.append(time.perf_counter() - self._began)
        if not data.startswith(b"HTTP/1.1 200"):
            self._answers.refused.append(data)
        self._send(data[head + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's)
        if not self._done.done():
            self._done.set_result(None)


def form_request(url: str, parameters: dict[str, str], authorization: str = "") -> bytes:
    """A POST of a form."""
    to, body = urlsplit(url), urlencode(parameters)
    lines = [
        f"POST {to.path} HTTP/1.1",
        f"Host: {to.netloc}",
        *([f"Authorization: {authorization}"] if authorization else []),
        "Content-Type: application/x-www-form-urlencoded",
        f"Content-Length: {len(body)}",
    ]
    return ("\r\n".join(lines) + f"\r\n\r\n{body}").encode()


def run(url: str, requests: int, makers: list[Next]) -> Answers:
    """Send so many requests, on a connection for each of `makers`."""
    answers = Answers()
    to = urlsplit(url)
    host, port = str(to.hostname), to.port or 80

    async def together() -> None:
        loop = asyncio.get_running_loop()
        left = [requests]
        ends: list[asyncio.Future[None]] = [loop.create_future() for _ in makers]
        began = time.perf_counter()
        for make, end in zip(makers, ends, strict=True):
            await loop.create_connection(partial(_Connection, make, left, answers, end), host, port)
        await asyncio.gather(*ends)
        answers.seconds = time.perf_counter() - began

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(together())
    assert len(answers.taken) == requests, "the server closed a connection"
    return answers
