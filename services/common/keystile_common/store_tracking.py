"""Learning from the store which keys have changed, as soon as they have: CLIENT TRACKING, in RESP3.

A connection of its own, in broadcasting mode: the server names every key with a prefix that is written, deleted or
expires, whoever did it and whoever read it before. So the values themselves may be read on any connection, and the
server remembers nothing for it.

What was read is only as good as this connection. Twice a second it asks the time: the answer comes behind everything
that was to be told until then. Without one, what is remembered counts for nothing within `LEASE_SECONDS`, though the
connection may look alive for minutes; once it is broken, at once.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from typing import Any, Self

import structlog
from redis import exceptions
from redis.asyncio.connection import AbstractConnection
from redis.maint_notifications import MaintNotificationsConfig

from keystile_common import tasks
from keystile_common.store_client import Client

LEASE_SECONDS = 1.5
"""For how long an answer vouches that every change was told; counted from its question."""
_ASK_SECONDS = 0.5
_ANSWER_SECONDS = 1.0
_RETRY_SECONDS = 0.5
_PUSHED = object()

_log = structlog.stdlib.get_logger(__name__)


class ChangedKeys:
    """Tells of changed keys. Used as an async context manager, in which it connects, again whenever that fails.

    Args:
        client: of the one server that has the keys.
        prefix: of the keys that matter.
        on_change: called with changed keys, or with None when any may have changed without a word.
    """

    def __init__(self, client: Client, prefix: str, on_change: Callable[[Sequence[bytes] | None], None]) -> None:
        self._client = client
        self._prefix = prefix
        self._on_change = on_change
        self._good_until = 0.0
        self._store_ahead = 0.0
        self._works: bool | None = None

    @property
    def store_time(self) -> float | None:
        """Unix seconds by the store's clock, a moment more at most; None where changes may not have been told."""
        now = time.monotonic()
        return now + self._store_ahead if now < self._good_until else None

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._follow_always())
        return self

    async def __aexit__(self, *_: object) -> None:
        await tasks.end(self._task)

    async def _follow_always(self) -> None:
        while True:
            try:
                await self._follow()
            except (exceptions.RedisError, OSError, TimeoutError) as problem:
                self._say(works=False, problem=f"{type(problem).__name__}: {problem}")
            finally:
                self._good_until = 0.0
                self._on_change(None)
            await asyncio.sleep(_RETRY_SECONDS)

    async def _follow(self) -> None:
        connection = _connection_like(self._client)
        try:
            async with asyncio.timeout(_ANSWER_SECONDS * 2):
                await connection.connect()  # type: ignore[no-untyped-call]
                parser: Any = connection._parser  # redis-py's own cache sets it there too
                parser.set_invalidation_push_handler(self._changed)
                await connection.send_command("CLIENT", "TRACKING", "ON", "BCAST", "PREFIX", self._prefix)
                await connection.read_response()
            while True:
                asked = time.monotonic()
                await connection.send_command("TIME")
                self._note_time(asked, await _answer(connection, asked + _ANSWER_SECONDS))
                self._say(works=True)
                await _listen(connection, asked + _ASK_SECONDS)
        finally:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await connection.disconnect(nowait=True)

    def _note_time(self, asked: float, answer: Any) -> None:
        # It was that time there when it was asked here, or later; so a token may end too early, but never too late.
        self._store_ahead = int(answer[0]) + int(answer[1]) / 1_000_000 - asked
        self._good_until = asked + LEASE_SECONDS

    async def _changed(self, push: list[Any]) -> object:
        self._on_change(push[1])
        return _PUSHED

    def _say(self, *, works: bool, problem: str = "") -> None:
        if works is self._works:
            return
        self._works = works
        if works:
            _log.info("the store tells of changed keys; answers about tokens are kept in memory")
        else:
            _log.warning("the store does not tell of changed keys; nothing is kept in memory", problem=problem)


def _connection_like(client: Client) -> AbstractConnection:
    """A connection to where the client's go, which speaks RESP3 and belongs to no pool."""
    pool = client.connection_pool
    options = {name: value for name, value in pool.connection_kwargs.items() if not name.startswith("maint_")}
    off = MaintNotificationsConfig(enabled=False)
    connection: AbstractConnection = pool.connection_class(
        **{**options, "protocol": 3, "decode_responses": False, "maint_notifications_config": off}
    )
    return connection


async def _answer(connection: AbstractConnection, deadline: float) -> Any:
    """The next answer that is no push."""
    while True:
        read = await _read(connection, deadline)
        if read is None:
            raise exceptions.TimeoutError("no answer on the connection that tells of changed keys")
        if read is not _PUSHED:
            return read


async def _listen(connection: AbstractConnection, until: float) -> None:
    """Let changes come in for a while."""
    while await _read(connection, until) is not None:
        pass


async def _read(connection: AbstractConnection, deadline: float) -> Any:
    """What comes next, `_PUSHED` for a push that was passed on; None when the time is over."""
    left = deadline - time.monotonic()
    return None if left <= 0 else await connection.read_response(timeout=left, push_request=True)
