"""Load on any HTTP server: requests made by a function, on kept connections, one after another on each."""

import asyncio
import gc
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import chain
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
    """One connection, which waits to be told to begin."""

    def __init__(self) -> None:
        self._buffer = b""
        self._done: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def begin(self, make: Next, left: list[int], answers: Answers) -> "asyncio.Future[None]":
        """Send one request after another, and count down what all connections have left to do together.

        Returns:
            What is done when nothing is left and the last answer is here, or the server has closed the connection.
        """
        self._make = make
        self._left = left
        self._answers = answers
        self._done = done = asyncio.get_running_loop().create_future()
        self._send(None)
        return done

    def close(self) -> None:
        self._transport.close()

    def _send(self, body: bytes | None) -> None:
        if self._left[0] <= 0 or self._transport.is_closing():
            self._end()
            return
        self._left[0] -= 1
        self._began = time.perf_counter()
        self._transport.write(self._make(body))

    def _end(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._received(self._buffer + data)
        except Exception as problem:  # noqa: BLE001 (uvloop would only log it, and the caller wait for ever)
            if self._done is not None and not self._done.done():
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
        self._end()


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


@dataclass(frozen=True)
class Load:
    """So many requests to one server, on a connection for each of `makers`."""

    url: str
    requests: int
    makers: list[Next]


def run(url: str, requests: int, makers: list[Next]) -> Answers:
    """Send so many requests, on a connection for each of `makers`."""
    return run_together([Load(url, requests, makers)])


def bodies_of(url: str, messages: list[bytes], connections: int) -> list[bytes]:
    """Send these, and see that none is refused; the bodies of all answers but the last on each connection."""
    bodies: list[bytes] = []
    waiting = iter(messages)

    def make(body: bytes | None) -> bytes:
        if body is not None:
            bodies.append(body)
        return next(waiting)

    answers = run(url, len(messages), [make] * connections)
    assert not answers.refused, answers.refused[0]
    return bodies


def run_together(loads: list[Load], *, used_before: bool = False) -> Answers:
    """Load several servers at the same time.

    Args:
        loads: what each is sent. Every connection is open before the first request.
        used_before: whether a request that does not count is sent and answered on each connection at first, so that
            the servers have accepted all of them.

    Returns:
        The answers of all of them.
    """
    answers = Answers()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_together(loads, answers, used_before=used_before))
    assert len(answers.taken) == sum(load.requests for load in loads), "a server closed a connection"
    return answers


async def _together(loads: list[Load], answers: Answers, *, used_before: bool) -> None:
    opened = [await _open(load) for load in loads]
    if used_before:
        await _send([len(each) for each in opened], loads, opened, Answers())
    gc.disable()  # it would keep all callers from reading their answers for a tenth of a second
    try:
        began = time.perf_counter()
        await _send([load.requests for load in loads], loads, opened, answers)
        answers.seconds = time.perf_counter() - began
    finally:
        gc.enable()
    for connection in chain.from_iterable(opened):
        connection.close()


async def _open(load: Load) -> list[_Connection]:
    loop, to = asyncio.get_running_loop(), urlsplit(load.url)
    host, port = str(to.hostname), to.port or 80
    return [(await loop.create_connection(_Connection, host, port))[1] for _ in load.makers]


async def _send(counts: list[int], loads: list[Load], opened: list[list[_Connection]], answers: Answers) -> None:
    ends = []
    for count, load, connections in zip(counts, loads, opened, strict=True):
        left = [count]
        pairs = zip(connections, load.makers, strict=True)
        ends += [connection.begin(make, left, answers) for connection, make in pairs]
    await asyncio.gather(*ends)
