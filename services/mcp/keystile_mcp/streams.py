"""Streams that end with the token they were opened with.

A stream (server-sent events) may stay open for hours, and its token is checked when it opens. So the token
is checked again whenever what is known of it runs out, and the stream is closed when it is no longer good.
"""

import asyncio
import contextlib
from collections.abc import Collection
from dataclasses import replace

from starlette.types import Message, Scope, Send

from keystile_mcp.challenge import BearerError
from keystile_mcp.introspection_answer import ActiveToken
from keystile_mcp.introspection_cache import Answer, Clock
from keystile_mcp.revoked import Revoked, names_of
from keystile_mcp.validation import TokenValidator

SHORTEST_INTERVAL_SECONDS = 1.0
"""Where answers are not kept at all, a stream's token is checked this often."""


class OpenStreams:
    """The streams that are open now."""

    def __init__(self) -> None:
        self._open: set[BoundedStream] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self.changes = 0

    def revoke(self, revoked: Collection[Revoked]) -> None:
        """End every stream whose token has been revoked."""
        self.changes += 1
        names = {each.name for each in revoked}
        for stream in list(self._open):
            if any(name in names for name in names_of(stream.token)):
                # Not waited for: a client that reads nothing must not hold up the others.
                ending = asyncio.create_task(stream.end())
                self._ending.add(ending)
                ending.add_done_callback(self._ending.discard)

    def doubt(self, seconds: float) -> None:
        """Check the tokens of all streams again within `seconds`."""
        self.changes += 1
        for stream in self._open:
            stream.check_within(seconds)

    def trust(self) -> None:
        """Nothing: each stream's token is checked when what is known of it runs out."""

    def add(self, stream: "BoundedStream") -> None:
        """Note that `stream` has begun."""
        self._open.add(stream)

    def discard(self, stream: "BoundedStream") -> None:
        """Note that `stream` has ended."""
        self._open.discard(stream)

    async def end_listening(self) -> None:
        """End every stream that waits for news, since it has no end of its own; answers are let finish."""
        await asyncio.gather(*(stream.end() for stream in list(self._open) if stream.listens))


class BoundedStream:
    """The response to one request; if that becomes a stream, it ends with the token.

    A stream that must end is completed towards the client. ASGI servers then tell the application that the
    client has gone, which is what it knows how to handle; what it still sends is dropped.

    Args:
        scope: the request.
        send: where the response goes.
        token: what the request was let through with.
        answer: what is known of that.
        validator: finds out more.
        streams: where it is noted while it is open.
        changes: of `streams`, from before `answer` was had.
        clock: Unix time in seconds.
    """

    __slots__ = (
        "_answer",
        "_changed",
        "_changes",
        "_clock",
        "_ended",
        "_scope",
        "_send",
        "_streams",
        "_token",
        "_validator",
        "_watch",
    )

    def __init__(
        self,
        scope: Scope,
        send: Send,
        token: str,
        answer: Answer,
        *,
        validator: TokenValidator,
        streams: OpenStreams,
        changes: int,
        clock: Clock,
    ) -> None:
        self._scope = scope
        self._send = send
        self._token = token
        self._answer = answer
        self._validator = validator
        self._streams = streams
        self._clock = clock
        self._ended = False
        self._changed: asyncio.Event | None = None
        self._changes = changes
        self._watch: asyncio.Task[None] | None = None

    @property
    def token(self) -> ActiveToken:
        """What is known of the token that it was opened with."""
        return self._answer.token

    def check_within(self, seconds: float) -> None:
        """Check its token again within `seconds`."""
        self._answer = replace(self._answer, until=min(self._answer.until, self._clock() + seconds))
        if self._changed is not None:
            self._changed.set()

    @property
    def listens(self) -> bool:
        """Whether it waits for news of the server, rather than for an answer."""
        return self._scope["method"] == "GET" or (b"mcp-method", b"subscriptions/listen") in self._scope["headers"]

    async def send(self, message: Message) -> None:
        """Pass `message` on, unless the stream was ended."""
        if self._ended:
            return
        await self._send(message)
        if message["type"] == "http.response.start" and _is_stream(message):
            self._streams.add(self)
            if self._changes != self._streams.changes:  # its token may be one of those that have been revoked since
                self.check_within(0)
            self._changed = asyncio.Event()
            self._watch = asyncio.create_task(self._end_with_the_token(self._changed))

    async def end(self) -> None:
        """Complete the stream towards the client."""
        if not self._ended:
            self._ended = True
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def close(self) -> None:
        """Stop watching; the application is done."""
        if self._watch is not None:
            self._streams.discard(self)
            self._watch.cancel()

    async def _end_with_the_token(self, changed: asyncio.Event) -> None:
        while await self._is_still_good(changed):
            pass
        await self.end()

    async def _is_still_good(self, changed: asyncio.Event) -> bool:
        now = self._clock()
        kept = max(self._answer.until - now, SHORTEST_INTERVAL_SECONDS)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(kept, self._answer.token.expires_at - now)):
                await changed.wait()
                changed.clear()
                return True
        if self._clock() >= self._answer.token.expires_at:
            return False
        try:
            self._answer = await self._validator.validate(self._token)
        except BearerError as error:
            self._validator.count(error)
            return False
        return True


def _is_stream(message: Message) -> bool:
    types = [value for name, value in message["headers"] if name == b"content-type"]
    return any(value.startswith(b"text/event-stream") for value in types)
