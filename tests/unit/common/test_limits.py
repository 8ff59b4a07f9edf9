"""Caps on requests, at the ASGI interface."""

import json
from typing import Any

import pytest
from starlette.types import Message, Receive, Scope, Send

from keystile_common.limits import LimitsMiddleware, RequestTooLargeError


class Reading:
    """An application that reads the whole body; `catching` answers an error of its own while it does."""

    def __init__(self, *, catching: bool = False, answering_first: bool = False) -> None:
        self.catching = catching
        self.answering_first = answering_first
        self.read = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002 (ASGI)
        if self.answering_first:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        status = 200
        try:
            more = True
            while more:
                message = await receive()
                self.read += message.get("body", b"")
                more = message.get("more_body", False)
        except RequestTooLargeError:
            if not self.catching:
                raise
            status = 500
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b"app"})


async def ask(
    app: Any,
    *,
    headers: list[tuple[bytes, bytes]] | None = None,
    query: bytes = b"",
    chunks: tuple[bytes, ...] = (b"",),
) -> tuple[int, bytes]:
    sent: list[Message] = []
    waiting = list(chunks)

    async def receive() -> Message:
        if not waiting:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {"type": "http", "headers": headers or [], "query_string": query, "path": "/", "method": "POST"}
    await LimitsMiddleware(app, 100)(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


@pytest.mark.parametrize("length", [b"101", b"9" * 5000, b"1e3", b"-1", b"", b"0x10", "²".encode("latin-1")])
async def test_a_length_that_is_too_large_or_none_is_refused_unread(length: bytes) -> None:
    app = Reading()
    status, body = await ask(app, headers=[(b"content-length", length)], chunks=(b"x",))
    assert status in {400, 413}
    assert json.loads(body)["error"] == "invalid_request"
    assert app.read == b""


@pytest.mark.parametrize("catching", [False, True])
async def test_a_body_that_goes_on_too_long_is_413_whatever_the_application_makes_of_it(catching: bool) -> None:
    status, body = await ask(Reading(catching=catching), chunks=(b"x" * 60, b"x" * 60, b"x" * 60))
    assert status == 413
    assert b"app" not in body


async def test_a_body_of_exactly_the_cap_is_read() -> None:
    assert await ask(Reading(), chunks=(b"x" * 50, b"x" * 50)) == (200, b"app")


async def test_an_answer_that_has_begun_is_not_begun_again() -> None:
    with pytest.raises(RequestTooLargeError):
        await ask(Reading(answering_first=True), chunks=(b"x" * 101,))


async def test_headers_and_query_are_capped() -> None:
    assert (await ask(Reading(), headers=[(b"x", b"y" * 17_000)]))[0] == 431
    assert (await ask(Reading(), headers=[(b"x", b"y" * 100)] * 200))[0] == 431
    assert (await ask(Reading(), query=b"x" * 8193))[0] == 414
    assert (await ask(Reading(), query=b"x" * 8192))[0] == 200
