"""Writes that count as done only once the store has confirmed more than that they are in its memory.

WAIT and WAITAOF speak of what their own connection wrote last, so they follow the write on the same connection, in the
same conversation. Whoever shares a turn of the event loop shares that, too: one wait for all of them. Look-ups use
other connections meanwhile, since a server answers nothing else on one that waits.

Behind each command goes a small write of its own, in the slot of the command's key: a command that finds its work done,
as a repeated one does, writes nothing, and a wait behind it would be over at once, whatever became of the first.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal

import structlog
from hiredis import pack_command
from redis import exceptions
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.commands import AsyncCoreCommands

from keystile_common.store_script import Script, key_of, slot_tag_of
from keystile_common.store_together import Command, Together, pack, read, settle

Durability = Literal["memory", "fsync", "replicated"]
"""Where a write has to be before it is answered with success."""
WAIT_SECONDS = 1.0
"""For how long the store may take to confirm a write that it has done."""
MAX_CONVERSATIONS = 16
"""Connections that wait at a time, of those of the pool; what comes meanwhile shares the next one that is free."""
_PROBE_MS = 100
_REPLICAS = 1
_MARK = "#!lua flags=allow-oom\nreturn redis.call('SET', KEYS[1], '', 'PX', 1)"
_ASKING = ("ASKING",)

_log = structlog.stdlib.get_logger(__name__)

# Their types speak of a client with connections of its own.
_Commands: Any = AsyncCoreCommands


class NotDurableError(exceptions.RedisError):
    """A command was done in the store's memory, and that is all that is known.

    Args:
        problem: what is missing.
        answer: what the command was answered.
    """

    def __init__(self, problem: str, answer: Any) -> None:
        super().__init__(problem)
        self.answer = answer


@dataclass(frozen=True, slots=True)
class Problem:
    """Why a write is not confirmed; `is_lasting` where only an operator can change that."""

    text: str
    is_lasting: bool


class Promise:
    """What the store is asked behind a write, and whether its answer will do.

    Args:
        durability: `fsync` or `replicated`.
        observe: told of each wait: its outcome, `acknowledged` or `refused`, and its seconds.
    """

    def __init__(self, durability: Durability, observe: Callable[[str, float], None]) -> None:
        self.durability = durability
        self.questions = self._questions(int(WAIT_SECONDS * 1000))
        self.probe = self._questions(_PROBE_MS)
        self._observe = observe
        self._is_kept: bool | None = None

    def _questions(self, milliseconds: int) -> tuple[tuple[Any, ...], ...]:
        if self.durability == "replicated":
            return (("WAIT", _REPLICAS, milliseconds),)
        # With any other policy than `always` some servers' WAITAOF is over before the disk has the write.
        return (("CONFIG", "GET", "appendfsync"), ("WAITAOF", 1, 0, milliseconds))

    def judge(self, answers: list[Any], seconds: float) -> Problem | None:
        """None when the answers to `questions`, which took `seconds`, confirm all that the connection wrote."""
        problem = self.problem_of(answers)
        self._observe("refused" if problem else "acknowledged", seconds)
        if (problem is None) is not self._is_kept:
            self._is_kept = problem is None
            if problem is not None:
                _log.error("the store does not confirm writes; they are answered with 503", problem=problem.text)
            else:
                _log.info("the store confirms writes", durability=self.durability)
        return problem

    def problem_of(self, answers: list[Any]) -> Problem | None:
        """What the answers to the questions lack."""
        for question, answer in zip(self.questions, answers, strict=True):
            if isinstance(answer, Exception):
                return Problem(self._sentence(question[0], answer), is_lasting=True)
        if self.durability == "replicated":
            return None if int(answers[0]) >= _REPLICAS else Problem("no replica has acknowledged it", is_lasting=False)
        policy = _policy(answers[0])
        if policy != "always":
            return Problem(f"the store's appendfsync is {policy}; set it to always", is_lasting=True)
        return None if int(answers[1][0]) >= 1 else Problem("it is not yet on the store's disk", is_lasting=False)

    def _sentence(self, command: str, problem: Exception) -> str:
        text = str(problem)
        if isinstance(problem, exceptions.NoPermissionError):
            needed = "+wait" if self.durability == "replicated" else "+waitaof and +config|get"
            return f"the store's user needs {needed} for it: {text}"
        if "appendonly is disabled" in text:
            return "the store's appendonly is no; set it to yes"
        if "unknown command" in text.lower():
            if command == "WAITAOF":
                return "the store has no WAITAOF; Redis has it from 7.2 on, and every Valkey"
            return f"the store does not take {command}, which tells whether it keeps the promise"
        return text


def _policy(answer: Any) -> str:
    # A map, or a list in the older form of the protocol; empty where the server does not know the name.
    found = answer if isinstance(answer, dict) else dict(zip(answer[::2], answer[1::2], strict=True))
    return str(found.get("appendfsync", "unknown"))


class Durable(Together):
    """As `Together`, but an answer is passed on only once the promise holds for it.

    Args:
        pool: where the connections are from.
        promise: what has to hold.
        answer_seconds: how long the commands may take, without the wait behind them.
        longest_seconds: the same with the wait, waiting for a connection, connecting, and being sent once more.
    """

    def __init__(
        self, pool: ConnectionPool, promise: Promise, answer_seconds: float | None, longest_seconds: float
    ) -> None:
        # Of a small pool some are left for look-ups.
        conversations = max(1, min(MAX_CONVERSATIONS, pool.max_connections // 2))
        seconds = None if answer_seconds is None else answer_seconds + WAIT_SECONDS
        super().__init__(pool, seconds, longest_seconds, conversations)
        self._promise = promise

    async def _exchange(self, connection: AbstractConnection, batch: deque[Command]) -> None:
        # All of them stay in the batch until the end: where the connection breaks, the server may have lost them all.
        await connection.send_packed_command(self._packed(batch))
        answers = [(command, await _answer_of(connection, command)) for command in batch]
        started = time.perf_counter()
        heard = [await read(connection) for _ in self._promise.questions]
        problem = self._promise.judge(heard, time.perf_counter() - started)
        for command, (answer, is_marked) in answers:
            if isinstance(answer, Exception):
                settle(command.answer, answer)
            elif problem is not None or not is_marked:
                settle(command.answer, NotDurableError(problem.text if problem else "it could not be marked", answer))
            else:
                settle(command.answer, answer)
        batch.clear()

    def _packed(self, batch: deque[Command]) -> bytes:
        pieces = pack(batch, _with_mark)
        return b"".join([*pieces, *map(pack_command, self._promise.questions)])


def _with_mark(command: Command) -> list[tuple[Any, ...]]:
    mark = ("EVAL", _MARK, 1, mark_key(key_of(command.words)))
    # ASKING holds for one command.
    return [_ASKING, command.words, _ASKING, mark] if command.is_asking else [command.words, mark]


async def _answer_of(connection: AbstractConnection, command: Command) -> tuple[Any, bool]:
    """What a command was answered, and whether the mark behind it was written."""
    heard = [await read(connection) for _ in range(4 if command.is_asking else 2)]
    answer = heard[-3] if command.is_asking else heard[-2]
    if isinstance(answer, Exception):
        settle(command.answer, answer)  # nothing was done, so there is nothing to wait for
    return answer, not isinstance(heard[-1], Exception)


_unconfirmed: ContextVar[list[NotDurableError] | None] = ContextVar("unconfirmed", default=None)


@contextmanager
def deferred() -> Iterator[list[NotDurableError]]:
    """Let every command in the block be done, though one of them is not confirmed.

    Gives what was not, which is nothing where the block stands in another one: then it is that one's to say.
    """
    if _unconfirmed.get() is not None:
        yield []
        return
    gathered: list[NotDurableError] = []
    token = _unconfirmed.set(gathered)
    try:
        yield gathered
    finally:
        _unconfirmed.reset(token)


def mark_key(key: str) -> str:
    """The key of the small write behind a command on `key`; it is in the same slot."""
    return f"ks:mark:{{{slot_tag_of(key)}}}"


class DurableCommands(_Commands):  # type: ignore[misc]
    """Takes commands on one key each by redis-py's names; each is answered once the promise holds for it.

    Raises:
        NotDurableError: it was done, but that was not confirmed.
    """

    def __init__(self, redis: Any, promise: Promise) -> None:
        self._redis = redis
        self._promise = promise

    def register_script(self, script: str) -> Script:
        """A script whose writes the promise covers."""
        return Script(self.execute_command, script)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command; see `deferred` for one whose confirmation can wait."""
        unconfirmed = _unconfirmed.get()
        if unconfirmed:
            # It will be said that all of it may be lost; waiting for the rest would only make that later.
            return await self._redis.execute_command(*args, **options)
        try:
            return await self._redis.execute_durably(self._promise, *args, **options)
        except NotDurableError as problem:
            if unconfirmed is None:
                raise
            unconfirmed.append(problem)
            return problem.answer

    async def confirm(self, key: str) -> None:
        """Return once the promise holds for all that was written where `key` is."""
        await self.execute_command("EVAL", _MARK, 1, mark_key(key))
