"""A connection without a network, and applications to put behind it."""

import asyncio
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.server import ServerState

from keystile_common.recurring_protocol import HttpProtocol

POST = b"POST /%s HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\n"


class Wire(asyncio.Transport):
    """What a protocol writes to."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[bytes] = []
        self.is_closed = False

    def write(self, data: Any) -> None:
        assert not self.is_closed
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return self.is_closed

    def close(self) -> None:
        self.is_closed = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass

    @property
    def written(self) -> bytes:
        """All of it."""
        return b"".join(self.writes)

    @property
    def bodies(self) -> list[bytes]:
        """The bodies of the answers so far."""
        return [answer.partition(b"\r\n\r\n")[2] for answer in self.written.split(b"HTTP/1.1 200 OK")[1:]]


def connected(app: ASGIApp) -> tuple[HttpProtocol, Wire]:
    """A protocol with a connection, in front of `app`."""
    config = uvicorn.Config(app, lifespan="off", ws="none", log_config=None)
    config.load()
    wire = Wire()
    protocol = HttpProtocol(config, ServerState(), {})
    protocol.connection_made(wire)
    return protocol, wire


async def answer(send: Send, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = b""
    while True:
        message = await receive()
        body += message["body"]
        if not message["more_body"]:
            break
    await answer(send, scope["path"].encode() + b" " + body)


async def turns(are_over: Callable[[], bool]) -> None:
    """Let the loop turn until something is so."""
    for _ in range(50):
        if are_over():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come to that")
