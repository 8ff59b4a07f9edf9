"""Commands of one turn of the event loop, sent together on one connection.

A command by itself takes a connection from the pool, a timer or two and a write of its own, which costs several times
what the command does. Together they share all of it: a GET among others costs a tenth of one alone. Nobody waits for
company, since what is sent is what was asked for in the same turn, or while every connection had its hands full.

Each answer belongs to the command in its place, on a connection that nobody else uses meanwhile. A connection whose
conversation did not come to its end is closed, so that no answer is left over for whoever has it next.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from hiredis import pack_command
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection

from keystile_common import tasks

MAX_CONVERSATIONS = 2
"""Connections used at a time; more of them make smaller batches, fewer let one slow answer hold up everybody."""
MAX_TOGETHER = 256
_REST_SECONDS = 0.05
"""For how long a connection is kept for what may come: to get one from a pool and give it back takes a third of what a
command by itself costs."""
_HELD_SECONDS = 0.5
"""For how long at most, before the pool may see to it; that of a master asks who it is."""
MAX_WAITING = 8192
"""Commands that wait to be sent; beyond it the store is behind for good, and more would not be answered in time."""


@dataclass(slots=True, eq=False)
class Command:
    """A command that waits for its answer until `deadline`, by the loop's clock.

    `is_asking` when it goes to a node of a cluster that is taking over its slot.
    """

    words: tuple[Any, ...]
    answer: "asyncio.Future[Any]"
    deadline: float
    is_asking: bool = False


class Together:
    """Sends commands through a pool's connections, those of one turn of the event loop together.

    Args:
        pool: where the connections are from.
        answer_seconds: how long a batch may take to be answered; then it has failed, and is not sent again.
        longest_seconds: the same with waiting for a connection, connecting, and being sent once more.
        conversations: how many of the connections it uses at a time.
    """

    def __init__(
        self,
        pool: ConnectionPool,
        answer_seconds: float | None,
        longest_seconds: float,
        conversations: int = MAX_CONVERSATIONS,
    ) -> None:
        self._pool = pool
        self._most = conversations
        self._answer_seconds = answer_seconds
        self._longest_seconds = longest_seconds
        self._waiting: deque[Command] = deque()
        self._conversations: set[asyncio.Task[None]] = set()
        self._resting: list[asyncio.Future[bool]] = []
        # Of a few connections none is kept from others.
        self._may_rest = pool.max_connections > 2 * conversations
        self._is_starting = False
        self._talking = 0

    def send(self, *words: Any, is_asking: bool = False) -> "asyncio.Future[Any]":
        """Send a command with those of the same turn; the future has its answer, as the server wrote it.

        Whoever gives up waiting takes nothing from the others.

        Raises:
            redis.exceptions.RedisError, OSError, TimeoutError: through the future.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        if len(self._waiting) >= MAX_WAITING:
            answer.set_exception(exceptions.ConnectionError("too many commands wait for the store"))
            return answer
        self._waiting.append(Command(words, answer, loop.time() + self._longest_seconds, is_asking))
        if not self._is_starting:
            self._start(loop)
        return answer

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Let a conversation begin or go on in the next turn, when all of this one's commands have come."""
        while self._resting:
            resting = self._resting.pop()
            if not resting.done():
                self._is_starting = True
                resting.set_result(True)
                return
        if self._talking < self._most:
            self._is_starting = True
            self._talking += 1
            task = loop.create_task(self._converse())
            self._conversations.add(task)
            task.add_done_callback(self._conversations.discard)

    async def close(self) -> None:
        """End what is under way; whoever waits gets a `ConnectionError`."""
        await tasks.end(*self._conversations)
        _fail(self._waiting, exceptions.ConnectionError("the store's client was closed"))

    async def _converse(self) -> None:
        loop = asyncio.get_running_loop()
        self._is_starting = False
        held: list[AbstractConnection] = []  # one, from the first batch on, for as long as there is something to send
        until = 0.0
        try:
            while True:
                while self._waiting:
                    # The pool marks those that lead to a master of the past.
                    if held and (loop.time() >= until or held[0].should_reconnect()):  # type: ignore[no-untyped-call]
                        await self._pool.release(held.pop())
                        continue  # somebody else may have sent it meanwhile
                    if not held:
                        until = loop.time() + _HELD_SECONDS
                    together = min(len(self._waiting), MAX_TOGETHER)
                    await self._send_batch(deque(self._waiting.popleft() for _ in range(together)), held)
                if not held or not self._may_rest:
                    break
                was_woken = await self._rest(loop)
                self._is_starting = False
                if not was_woken and not self._waiting:
                    break
        finally:
            # At once, not when the task's callbacks run: a command that comes in between would wait for nobody.
            self._talking -= 1
            for connection in held:
                await self._pool.release(connection)

    async def _rest(self, loop: asyncio.AbstractEventLoop) -> bool:
        """Wait until there is something to send; False where there was not for a while."""
        woken: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(_REST_SECONDS, settle, woken, False)
        self._resting.append(woken)
        try:
            return await woken
        finally:
            timer.cancel()
            if woken in self._resting:
                self._resting.remove(woken)

    async def _send_batch(self, batch: deque[Command], held: list[AbstractConnection]) -> None:
        try:
            async with asyncio.timeout_at(batch[0].deadline):
                if not held:
                    held.append(await self._pool.get_connection())  # type: ignore[no-untyped-call]
                await self._answer(batch, held[0])
        except (exceptions.RedisError, OSError, TimeoutError) as problem:
            await self._let_go(held)
            _fail(batch, problem)
        except BaseException:  # closed, or a mistake of ours: nobody may wait for ever
            _fail(batch, exceptions.ConnectionError("the store's client was closed"))
            await self._let_go(held)
            raise

    async def _let_go(self, held: list[AbstractConnection]) -> None:
        """Close a connection whose conversation has not come to its end."""
        while held:
            connection = held.pop()
            try:
                await connection.disconnect(nowait=True)
            finally:
                await self._pool.release(connection)

    async def _answer(self, batch: deque[Command], connection: AbstractConnection) -> None:
        # What was answered before the connection broke is not sent again.
        await connection.retry.call_with_retry(
            partial(self._send, connection, batch), lambda _: connection.disconnect(nowait=True)
        )

    async def _send(self, connection: AbstractConnection, batch: deque[Command]) -> None:
        try:
            # One timer for all of them in place of one for each.
            async with asyncio.timeout(self._answer_seconds):
                await self._exchange(connection, batch)
        except TimeoutError:
            raise exceptions.TimeoutError("the store did not answer in time") from None

    async def _exchange(self, connection: AbstractConnection, batch: deque[Command]) -> None:
        await connection.send_packed_command(b"".join(pack(batch)))
        while batch:
            outcome = await read(connection)
            settle(batch.popleft().answer, outcome)


def pack(batch: deque[Command], phrase: Callable[[Command], list[tuple[Any, ...]]] | None = None) -> list[bytes]:
    """The batch as it is sent; a command that cannot be written leaves it, and harms no other.

    Args:
        batch: the commands.
        phrase: answers what is sent for a command; by default nothing but the command.
    """
    pieces: list[bytes] = []
    for _ in range(len(batch)):
        command = batch.popleft()
        try:
            if phrase is None:
                pieces.append(pack_command(command.words))
            else:
                pieces += [pack_command(words) for words in phrase(command)]
        except (TypeError, ValueError) as problem:
            settle(command.answer, problem)
        else:
            batch.append(command)
    return pieces


async def read(connection: AbstractConnection) -> Any:
    """The next answer, an error among them; without a timer of its own."""
    try:
        return await connection.read_response(timeout=math.inf)
    except exceptions.ResponseError as problem:
        return problem  # of this command alone; the next answer follows


def settle(answer: "asyncio.Future[Any]", outcome: Any) -> None:
    """Pass an outcome on, an exception as one, unless whoever asked has given up."""
    if answer.done():
        return  # given up
    if isinstance(outcome, Exception):
        answer.set_exception(outcome)
    else:
        answer.set_result(outcome)


def _fail(batch: deque[Command], problem: Exception) -> None:
    while batch:
        settle(batch.popleft().answer, problem)
