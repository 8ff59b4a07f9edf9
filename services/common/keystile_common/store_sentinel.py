"""A client of the master that sentinels name, before and after they name another."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool
from redis.asyncio.sentinel import (
    MasterNotFoundError,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from keystile_common import tasks
from keystile_common.settings import StoreSettings
from keystile_common.store_client import (
    Client,
    StoreRefusedError,
    address,
    client_of,
    client_of_pool,
    sentinel_options,
    server_options,
    tls_options,
)

Address = tuple[str, int]
# A master that was away may come back believing that it still is one; until it learns better, its answers are old.
_LOOK_AGAIN_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class _Answer:
    address: Address
    epoch: int


class Sentinels:
    """Asks all sentinels at once. What most of them say counts; without a majority, the newest answer.

    redis-py's own asks one after the other, which takes a command's whole time when the first two stand still, and
    believes the first, which may be one that missed the failover.
    """

    def __init__(self, clients: list[Client]) -> None:
        self._clients = clients
        self._asking: asyncio.Task[Address] | None = None
        self._late: set[asyncio.Task[_Answer | Exception]] = set()

    async def discover_master(self, name: str) -> Address:
        """Where the master is; asked once for all who want to know at the same time.

        Raises:
            StoreRefusedError: the sentinels refuse the login or know no such master.
            MasterNotFoundError: there is none at the moment, or no sentinel answers.
        """
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask(name))
            # Whoever asked may have been given up before the answer came.
            self._asking.add_done_callback(lambda task: task.cancelled() or task.exception())
        return await asyncio.shield(self._asking)

    async def _ask(self, name: str) -> Address:
        pending = {asyncio.create_task(_ask_one(client, name)) for client in self._clients}
        self._late |= pending
        for task in pending:
            task.add_done_callback(self._late.discard)
        answers: list[_Answer] = []
        problems: list[Exception] = []
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for result in (task.result() for task in done):
                if isinstance(result, Exception):
                    problems.append(result)
                    continue
                answers.append(result)
                agreeing = sum(answer.address == result.address for answer in answers)
                if agreeing > len(self._clients) // 2:
                    return result.address
        if answers:
            return max(answers, key=lambda answer: answer.epoch).address
        raise _no_master(name, problems)

    async def aclose(self) -> None:
        """Close every connection."""
        await tasks.end(*self._late, *([self._asking] if self._asking else []))
        for client in self._clients:
            await client.aclose()


async def _ask_one(client: Client, name: str) -> _Answer | Exception:
    try:
        state: Any = await client.sentinel_master(name)
    except (exceptions.RedisError, OSError) as problem:
        return problem
    if not state["is_master"] or state["is_sdown"] or state["is_odown"]:
        return MasterNotFoundError(f"the master {name} is down")
    return _Answer((state["ip"], int(state["port"])), int(state["config-epoch"]))


def _no_master(name: str, problems: list[Exception]) -> exceptions.ConnectionError:
    for problem in problems:
        if isinstance(problem, exceptions.AuthenticationError | exceptions.NoPermissionError):
            return StoreRefusedError(
                "the sentinels refuse the login: check store.sentinel_username and store.sentinel_password; "
                "the user needs SENTINEL MASTER"
            )
        if isinstance(problem, exceptions.ResponseError) and "No such master" in str(problem):
            return StoreRefusedError(f"the sentinels know no master named {name}: check store.sentinel_master")
    error = MasterNotFoundError(f"no sentinel names a master {name}")
    # Kept for what it says of a certificate that is not trusted.
    error.__cause__ = problems[0] if problems else None
    return error


class MasterPool(SentinelConnectionPool, BlockingConnectionPool):
    """Connections to the master of the moment; whoever finds all of them in use waits."""

    def __init__(self, name: str, sentinels: Sentinels, **options: Any) -> None:
        super().__init__(name, sentinels, **options)  # type: ignore[no-untyped-call]
        self._looked = 0.0
        self._looking: asyncio.Task[None] | None = None

    async def get_connection(self, *_: Any, **__: Any) -> Any:
        """A connection to the master; looks now and then, behind the caller's back, whether it still is that."""
        if time.monotonic() - self._looked > _LOOK_AGAIN_SECONDS and (self._looking is None or self._looking.done()):
            self._looked = time.monotonic()
            self._looking = asyncio.create_task(self._look_again())
        return await super().get_connection()  # type: ignore[no-untyped-call]

    async def _look_again(self) -> None:
        with contextlib.suppress(exceptions.RedisError, OSError):
            await self.get_master_address()

    async def get_master_address(self) -> Address:
        """Ask the sentinels; when the master is another one, every connection to the last one ends."""
        address: Address = await self.sentinel_manager.discover_master(self.service_name)
        if address != self.master_address:
            self.master_address = address
            for connection in self._in_use_connections:
                connection.mark_for_reconnect()  # type: ignore[no-untyped-call]
            await self.disconnect(inuse_connections=False)
        return address

    async def aclose(self) -> None:
        """Close every connection, those to the sentinels too."""
        if self._looking is not None:
            await tasks.end(self._looking)
        await super().aclose()
        await self.sentinel_manager.aclose()


def client_of_sentinels(settings: StoreSettings) -> Client:
    """A client of the master that `store.sentinels` lead to; nothing is sent until it is used."""
    tls = tls_options(settings)
    asking = sentinel_options(settings)
    sentinels = Sentinels([client_of(*address(node), asking, tls) for node in settings.sentinels])
    kind = SentinelManagedSSLConnection if tls else SentinelManagedConnection
    pool = MasterPool(
        settings.sentinel_master or "", sentinels, connection_class=kind, **server_options(settings), **tls
    )
    return client_of_pool(pool)
