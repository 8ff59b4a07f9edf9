"""When a request is begun with, in which order requests are answered, and what of an answer is sent together."""

import asyncio
from typing import Any

import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common.http_protocol import _MAX_JOINED_BYTES
from keystile_common.recurring_protocol import HttpProtocol
from tests.wire import POST, connected, echo, turns


async def test_a_body_that_comes_in_pieces_is_answered_when_it_is_whole() -> None:
    protocol, wire = connected(echo)
    for piece in ((POST % b"a")[:20], (POST % b"a")[20:] + b"12", b"3"):
        protocol.data_received(piece)
        for _ in range(5):
            await asyncio.sleep(0)
        assert wire.written == b""
    protocol.data_received(b"4")
    await turns(lambda: bool(wire.bodies))
    assert wire.bodies == [b"/a 1234"]
    await turns(lambda: not protocol.tasks)


async def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    protocol, wire = connected(echo)
    protocol.data_received(b"".join(POST % b"%d" % number + b"1234" for number in range(5)))
    await turns(lambda: len(wire.bodies) == 5)
    assert wire.bodies == [b"/%d 1234" % number for number in range(5)]
    await turns(lambda: not protocol.tasks)


async def test_a_request_is_begun_with_before_its_body_has_come() -> None:
    begun = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await echo(scope, receive, send)

    protocol, wire = connected(app)
    protocol.data_received(POST % b"a")
    await turns(begun.is_set)
    protocol.data_received(b"1234")
    await turns(lambda: bool(wire.bodies))


async def test_what_is_answered_later_is_known_to_be_under_way() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await go_on.wait()
        async with asyncio.timeout(5):  # which wants to know in which task it is
            await echo(scope, receive, send)

    protocol, wire = connected(app)
    protocol.data_received(POST % b"a" + b"1234")
    await asyncio.sleep(0)
    assert len(protocol.tasks) == 1
    go_on.set()
    await turns(lambda: bool(wire.bodies))
    await turns(lambda: not protocol.tasks)


async def test_an_application_may_use_a_timeout_before_it_waits_for_anything() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        async with asyncio.timeout(5):
            await echo(scope, receive, send)

    protocol, wire = connected(app)
    protocol.data_received(POST % b"a" + b"1234")
    await turns(lambda: bool(wire.bodies))
    assert wire.bodies == [b"/a 1234"]


async def test_a_mistake_of_the_application_is_500_and_harms_no_other_connection() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise RuntimeError("a mistake")

    protocol, wire = connected(app)
    protocol.data_received(POST % b"a" + b"1234")
    await turns(lambda: bool(wire.written))
    assert wire.written.startswith(b"HTTP/1.1 500 ")


async def test_junk_behind_a_request_is_refused() -> None:
    protocol, wire = connected(echo)
    protocol.data_received(POST % b"a" + b"1234" + b"junk\r\n\r\n")
    assert b"HTTP/1.1 400 " in wire.written
    assert wire.is_closed
    await turns(lambda: not protocol.tasks)


GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


def start(*headers: tuple[bytes, bytes]) -> dict[str, Any]:
    return {"type": "http.response.start", "status": 200, "headers": list(headers)}


def part(body: bytes, *, more: bool = False) -> dict[str, Any]:
    return {"type": "http.response.body", "body": body, "more_body": more}


def saying(*messages: dict[str, Any]) -> ASGIApp:
    """An application that sends these."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    return app


async def ended(protocol: HttpProtocol) -> None:
    await turns(lambda: not protocol.tasks)


async def test_the_head_of_an_answer_and_its_body_are_sent_together() -> None:
    protocol, wire = connected(saying(start((b"content-length", b"2")), part(b"ok")))
    for number in (1, 2):
        protocol.data_received(GET)
        await ended(protocol)
        assert len(wire.writes) == number
    assert wire.bodies == [b"ok"] * 2


async def test_the_head_of_a_stream_is_sent_before_there_is_anything_to_stream() -> None:
    go_on = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start((b"content-type", b"text/event-stream")))
        await go_on.wait()
        await send(part(b"data: 1", more=True))
        await send(part(b""))

    protocol, wire = connected(app)
    protocol.data_received(GET)
    await turns(lambda: bool(wire.writes))
    assert wire.written.startswith(b"HTTP/1.1 200 OK\r\n")
    assert wire.written.endswith(b"\r\n\r\n")
    go_on.set()
    await ended(protocol)
    assert wire.bodies == [b"7\r\ndata: 1\r\n0\r\n\r\n"]


@pytest.mark.parametrize("size", [0, 1, _MAX_JOINED_BYTES, _MAX_JOINED_BYTES + 1, 1_000_000])
async def test_a_body_of_any_size_comes_whole_behind_its_head(size: int) -> None:
    body = b"x" * size
    protocol, wire = connected(saying(start((b"content-length", b"%d" % size)), part(body)))
    protocol.data_received(GET)
    await ended(protocol)
    assert wire.bodies == [body]


async def test_an_answer_without_a_body_is_sent_too() -> None:
    protocol, wire = connected(saying(start((b"content-length", b"2")), part(b"")))
    protocol.data_received(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    await ended(protocol)
    assert wire.written.endswith(b"content-length: 2\r\n\r\n")
    protocol.data_received(b"HEAD / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    await ended(protocol)
    assert wire.written.count(b"content-length: 2\r\n") == 2
    assert wire.is_closed


async def test_a_body_in_parts_is_sent_part_by_part_though_a_part_looks_like_a_head() -> None:
    odd = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"
    length = (b"content-length", b"%d" % (2 + 2 * len(odd)))
    parts = [part(b"a", more=True), part(odd, more=True), part(b"b", more=True), part(odd)]
    protocol, wire = connected(saying(start(length), *parts))
    protocol.data_received(GET)
    await ended(protocol)
    assert wire.written.partition(b"\r\n\r\n")[2] == b"a" + odd + b"b" + odd
    assert wire.writes[0].endswith(b"\r\n\r\na")


async def test_an_answer_that_breaks_off_behind_its_head_is_broken_off() -> None:
    protocol, wire = connected(saying(start((b"content-length", b"2"))))
    protocol.data_received(GET)
    await ended(protocol)
    assert wire.written.endswith(b"content-length: 2\r\n\r\n")
    assert wire.is_closed


async def test_who_waits_to_be_told_to_go_on_is_told_before_the_answer() -> None:
    protocol, wire = connected(echo)
    protocol.data_received(b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n")
    await turns(lambda: bool(wire.writes))
    assert wire.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    protocol.data_received(b"1234")
    await ended(protocol)
    assert wire.bodies == [b"/a 1234"]
