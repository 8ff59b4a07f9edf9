"""A request with the head of the one before is answered by its body alone, where nobody could tell the difference."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from keystile_common.recurring_protocol import HttpProtocol
from keystile_common.recurring_requests import EXTENSION, Answer
from tests.wire import POST, Wire, answer, connected, echo, turns

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\n"
A, B = POST % b"a", POST % b"b"


@dataclass
class Offering:
    """An echo that offers to answer the likes of each request, and says which it answered in which way."""

    again: Callable[[bytes], Answer | Coroutine[Any, Any, Answer] | None] | None = None
    heads: list[bytes] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    may_offer: list[bool] = field(default_factory=list)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.heads.append(scope["path"].encode())
        offer = scope.get("extensions", {}).get(EXTENSION)
        self.may_offer.append(offer is not None)
        await echo(scope, receive, send)
        if offer is not None:
            offer(lambda body: self._again(scope["path"].encode(), body))

    def _again(self, path: bytes, body: bytes) -> Answer | Coroutine[Any, Any, Answer] | None:
        self.bodies.append(body)
        return self.again(body) if self.again else Answer(HEAD, path + b" " + body)


async def said(protocol: HttpProtocol, wire: Wire, *pieces: bytes) -> list[bytes]:
    """The bodies of all answers, after these pieces have come, each when the one before was dealt with."""
    for piece in pieces:
        protocol.data_received(piece)
        await idle()
    return wire.bodies


async def idle() -> None:
    """Let the loop turn until all is done that can be."""
    for _ in range(20):
        await asyncio.sleep(0)


async def test_a_request_like_the_one_before_is_answered_by_its_body() -> None:
    app = Offering()
    protocol, wire = connected(app)
    assert await said(protocol, wire, A + b"1111", A + b"2222", A + b"3333") == [b"/a 1111", b"/a 2222", b"/a 3333"]
    assert app.heads == [b"/a"]
    assert app.bodies == [b"2222", b"3333"]


async def test_it_is_answered_with_a_length_and_what_the_server_adds_to_every_answer() -> None:
    protocol, wire = connected(Offering())
    protocol.server_state.default_headers = [(b"date", b"today")]
    await said(protocol, wire, A + b"1111")
    protocol.data_received(A + b"2222")
    assert wire.writes[-1] == HEAD + b"date: today\r\ncontent-length: 7\r\n\r\n/a 2222"
    protocol.server_state.default_headers = [(b"date", b"tomorrow")]
    protocol.data_received(A + b"3333")
    assert wire.writes[-1] == HEAD + b"date: tomorrow\r\ncontent-length: 7\r\n\r\n/a 3333"
    assert protocol.server_state.total_requests == 3


@pytest.mark.parametrize(
    "other",
    [
        B, A.replace(b"Host: x", b"Host: X"), A.replace(b"HTTP/1.1\r\n", b"HTTP/1.1\r\nA: b\r\n"),
        A.replace(b"Host: x", b"Host:x "),
    ],
)  # fmt: skip
async def test_a_head_that_differs_in_one_byte_is_read(other: bytes) -> None:
    app = Offering()
    protocol, wire = connected(app)
    await said(protocol, wire, A + b"1111", other + b"2222", A + b"3333")
    assert len(app.heads) == 3
    assert app.bodies == []
    assert len(wire.bodies) == 3


async def test_a_body_of_another_length_is_not_taken_for_a_request_of_the_one_before() -> None:
    protocol, wire = connected(Offering())
    assert await said(protocol, wire, A + b"1111", A + b"22", b"22" + A + b"3333") == [
        b"/a 1111",
        b"/a 2222",
        b"/a 3333",
    ]


async def test_what_looks_like_a_request_but_is_the_body_of_one_is_its_body() -> None:
    app = Offering()
    protocol, wire = connected(app)
    inner = A + b"6666"
    outer = b"POST /b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(inner)
    assert await said(protocol, wire, A + b"1111", outer, inner) == [b"/a 1111", b"/b " + inner]
    assert app.heads == [b"/a", b"/b"]
    assert app.bodies == []


async def test_what_the_application_does_not_want_to_answer_again_is_served_as_ever() -> None:
    app = Offering(again=lambda _: None)
    protocol, wire = connected(app)
    assert await said(protocol, wire, A + b"1111", A + b"2222") == [b"/a 1111", b"/a 2222"]
    assert app.heads == [b"/a", b"/a"]


CHUNKED = b"POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n1111\r\n0\r\n\r\n"


@pytest.mark.parametrize(
    "pieces",
    [
        [A, b"1111"],
        [A + b"11", b"11"],
        [A[:9], A[9:] + b"1111"],
        [A + b"1111" + A + b"2222"],
        [B + b"11", b"11" + A + b"2222"],
        [B + b"1111" + A[:9], A[9:] + b"2222"],
        [CHUNKED],
        [b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"],
        [b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"],
        [A.replace(b"Host: x", b"Host: x\r\nConnection: close") + b"1111"],
        [A.replace(b"1.1", b"1.0") + b"1111"],
        [A.replace(b"Host: x", b"Host: x\r\nA: " + b"b" * 8192) + b"1111"],
    ],
)
async def test_nothing_can_be_offered_but_for_a_request_that_came_alone_in_one_piece(pieces: list[bytes]) -> None:
    app = Offering()
    protocol, wire = connected(app)
    await said(protocol, wire, *pieces)
    assert app.may_offer
    assert not any(app.may_offer)
    assert wire.bodies


BEGUN = b"POST /b HTTP/1.1\r\nHost: x\r\nA: "
"""What makes a like of A the rest of a request for something else."""


async def test_what_looks_like_a_request_but_is_the_rest_of_a_head_is_that() -> None:
    app = Offering()
    protocol, wire = connected(app)
    assert await said(protocol, wire, A + b"1111", BEGUN, A + b"6666") == [b"/a 1111", b"/b 6666"]
    assert app.bodies == []


async def test_an_offer_is_void_once_something_else_has_come() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await echo(scope, receive, send)
        offer = scope.get("extensions", {}).get(EXTENSION)
        if offer is not None:
            await go_on.wait()
            offer(lambda _: Answer(HEAD, b"stale"))

    protocol, wire = connected(app)
    await said(protocol, wire, A + b"1111", BEGUN)
    go_on.set()
    await idle()
    assert await said(protocol, wire, A + b"6666") == [b"/a 1111", b"/b 6666"]


async def test_a_like_that_comes_before_the_answer_waits_for_its_turn() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        offer = scope.get("extensions", {}).get(EXTENSION)
        if offer is not None:
            offer(lambda body: Answer(HEAD, b"again " + body))
        await go_on.wait()
        await echo(scope, receive, send)

    protocol, wire = connected(app)
    protocol.data_received(A + b"1111")
    await asyncio.sleep(0)
    protocol.data_received(A + b"2222")
    assert wire.writes == []
    go_on.set()
    await idle()
    assert wire.bodies == [b"/a 1111", b"/a 2222"]


def later(go_on: asyncio.Event) -> Callable[[bytes], Coroutine[Any, Any, Answer]]:
    async def answered(body: bytes) -> Answer:
        await go_on.wait()
        return Answer(HEAD, b"/a " + body)

    return answered


async def test_what_comes_while_an_answer_is_under_way_is_answered_after_it() -> None:
    go_on = asyncio.Event()
    protocol, wire = connected(Offering(again=later(go_on)))
    await said(protocol, wire, A + b"1111")
    for piece in (A + b"2222", A + b"33", b"33" + B + b"4444"):
        protocol.data_received(piece)
    await asyncio.sleep(0)
    assert wire.bodies == [b"/a 1111"]
    assert len(protocol.tasks) == 1
    go_on.set()
    await turns(lambda: len(wire.bodies) == 4)
    assert wire.bodies == [b"/a 1111", b"/a 2222", b"/a 3333", b"/b 4444"]
    await idle()


async def test_nothing_is_written_to_a_client_that_has_gone() -> None:
    go_on = asyncio.Event()
    protocol, wire = connected(Offering(again=later(go_on)))
    await said(protocol, wire, A + b"1111")
    protocol.data_received(A + b"2222")
    await asyncio.sleep(0)
    wire.close()
    protocol.connection_lost(None)
    go_on.set()
    await idle()
    assert wire.bodies == [b"/a 1111"]


async def test_a_server_that_stops_waits_for_the_answer_and_then_closes() -> None:
    go_on = asyncio.Event()
    protocol, wire = connected(Offering(again=later(go_on)))
    await said(protocol, wire, A + b"1111")
    protocol.data_received(A + b"2222")
    await asyncio.sleep(0)
    protocol.shutdown()
    assert not wire.is_closed
    go_on.set()
    await idle()
    assert wire.bodies == [b"/a 1111", b"/a 2222"]
    assert b"connection: close\r\n" in wire.writes[-1]
    assert wire.is_closed


async def test_a_server_that_stops_closes_a_connection_without_a_request() -> None:
    protocol, wire = connected(Offering())
    await said(protocol, wire, A + b"1111", A + b"2222")
    protocol.shutdown()
    assert wire.is_closed


async def test_a_mistake_closes_the_connection_and_is_logged_without_its_text() -> None:
    async def mistaken(_: bytes) -> Answer:
        raise RuntimeError("a secret")

    protocol, wire = connected(Offering(again=mistaken))
    await said(protocol, wire, A + b"1111")
    with capture_logs() as logs:
        await said(protocol, wire, A + b"2222")
    assert wire.is_closed
    assert [each["kind"] for each in logs] == ["RuntimeError"]
    assert "a secret" not in str(logs)


async def test_a_client_that_does_not_read_its_answers_gets_no_more_of_them() -> None:
    app = Offering()
    protocol, wire = connected(app)
    await said(protocol, wire, A + b"1111")
    protocol.pause_writing()
    protocol.data_received(A + b"2222")
    for _ in range(5):
        await asyncio.sleep(0)
    assert wire.bodies == [b"/a 1111"]
    protocol.resume_writing()
    await idle()
    assert wire.bodies == [b"/a 1111", b"/a 2222"]
    assert app.bodies == []


async def test_a_connection_is_closed_when_nothing_comes_after_an_answer() -> None:
    protocol, wire = connected(Offering())
    protocol.timeout_keep_alive = 0.2  # type: ignore[assignment] # uvicorn has whole seconds
    for number in range(4):
        await said(protocol, wire, A + b"%04d" % number)
        await asyncio.sleep(0.1)
        assert not wire.is_closed
    for _ in range(500):
        if wire.is_closed:
            break
        await asyncio.sleep(0.01)
    assert wire.is_closed
    assert len(wire.bodies) == 4


async def test_an_answer_that_takes_longer_than_a_connection_is_kept_is_waited_for() -> None:
    go_on = asyncio.Event()
    protocol, wire = connected(Offering(again=later(go_on)))
    protocol.timeout_keep_alive = 0.05  # type: ignore[assignment]
    await said(protocol, wire, A + b"1111")
    protocol.data_received(A + b"2222")
    await asyncio.sleep(0.2)
    assert not wire.is_closed
    go_on.set()
    await turns(lambda: len(wire.bodies) == 2)


def test_an_answer_of_a_framework_is_what_the_framework_would_send() -> None:
    response = JSONResponse({"error": "x"}, 503, {"Retry-After": "1"})
    head = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-type: application/json\r\n"
    assert Answer.of(response) == Answer(head, b'{"error":"x"}')


bodies = st.binary(min_size=4, max_size=4)
requests = st.lists(st.tuples(st.sampled_from([A, A, B, CHUNKED, POST % b"%61"]), bodies), min_size=1, max_size=6)


@given(
    requests,
    st.lists(st.booleans(), min_size=6, max_size=6),
    st.lists(st.integers(0, 400), max_size=4),
    st.lists(st.booleans(), min_size=12, max_size=12),
)
def test_however_requests_come_their_answers_are_those_of_a_server_without_offers(
    asked: list[tuple[bytes, bytes]], apart: list[bool], cuts: list[int], pauses: list[bool]
) -> None:
    sent = [head if head is CHUNKED else head + body for head, body in asked]
    expected = [b"/a 1111" if head is CHUNKED else (b"/b " if head is B else b"/a ") + body for head, body in asked]
    ends = {end for end, is_one in zip(itertools.accumulate(map(len, sent)), apart, strict=False) if is_one}
    whole = b"".join(sent)
    places = sorted({0, len(whole), *ends, *(cut for cut in cuts if cut < len(whole))})
    pieces = [whole[begin:end] for begin, end in itertools.pairwise(places)]

    async def answered(path: bytes, body: bytes) -> Answer:
        await asyncio.sleep(0)
        return Answer(HEAD, path + b" " + body)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"].encode()
        message = await receive()
        body = message["body"]
        while message["more_body"]:
            message = await receive()
            body += message["body"]
        await answer(send, path + b" " + body)
        offer = scope.get("extensions", {}).get(EXTENSION)
        if offer is not None:
            offer(lambda body: answered(path, body) if path == b"/b" else Answer(HEAD, path + b" " + body))

    async def run() -> list[bytes]:
        protocol, wire = connected(app)
        for piece, pause in zip(pieces, pauses, strict=False):
            protocol.data_received(piece)
            if pause:
                await idle()
        await idle()
        await idle()
        return [piece.partition(b"\r\n\r\n")[2] for piece in wire.writes]

    assert asyncio.run(run()) == expected
