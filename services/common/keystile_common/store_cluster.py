"""A client of Redis Cluster for commands on one key.

redis-py's own waits for no free connection, answers one node's failure by breaking the connections to all, and sends
ASKING on another connection than the command; docs/decisions/0014 tells. Here each node has a pool that
waits, and a node that is away takes nothing with it but its own slots.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

from redis import exceptions
from redis.asyncio.client import Redis
from redis.commands import AsyncCoreCommands
from redis.crc import REDIS_CLUSTER_HASH_SLOTS, key_slot

from keystile_common import tasks
from keystile_common.settings import StoreSettings
from keystile_common.store_batch import Batch, Command
from keystile_common.store_client import LONGEST_SECONDS, Client, address, client_of, server_options, tls_options
from keystile_common.store_durability import Problem, Promise
from keystile_common.store_script import Script, key_of

Address = tuple[str, int]
_REDIRECTIONS = 5
_ASKED_AT_ONCE = 3
_MAP_INTERVAL_SECONDS = 0.2
_TRY_AGAIN_SECONDS = 0.05
_AWAY = (exceptions.ConnectionError, exceptions.TimeoutError, exceptions.ClusterDownError, TimeoutError)
_ELSEWHERE = (exceptions.AskError, exceptions.TryAgainError, exceptions.ClusterDownError)  # MovedError is an AskError


# Their types speak of clients with a connection pool of their own, which a cluster's is not.
_Commands: Any = AsyncCoreCommands


class Cluster(_Commands):  # type: ignore[misc]
    """Sends each command to the node that has its key's slot, in `LONGEST_SECONDS` at most.

    Args:
        seeds: nodes to ask first where the slots are.
        make_client: makes a client of the node at an address.
    """

    def __init__(self, seeds: list[Address], make_client: Callable[[str, int], Client]) -> None:
        self._seeds = seeds
        self._make_client = make_client
        self._clients: dict[Address, Client] = {}
        self._departed: list[Client] = []
        self._owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        self._mapping: asyncio.Task[None] | None = None
        self._mapped = 0.0
        self._tasks: set[asyncio.Task[Any]] = set()

    def register_script(self, script: str) -> Script:
        """A script that runs where its keys are."""
        return Script(self.execute_command, script)

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send a command whose key is its first argument (of a script or XREAD, its first key) to the key's node.

        Raises:
            TimeoutError, redis.exceptions.RedisError: as the node's client, after at most `LONGEST_SECONDS`.
        """
        async with asyncio.timeout(LONGEST_SECONDS):
            return await self._send(await self._owner(args), args, options)

    async def execute_durably(self, promise: Promise, *args: Any, **options: Any) -> Any:
        """As `execute_command`; what was written there is confirmed as `promise` has it.

        Raises:
            NotDurableError: it was done, but not confirmed.
        """
        async with asyncio.timeout(LONGEST_SECONDS):
            return await self._send(await self._owner(args), args, options, promise)

    def batch(self) -> Batch:
        """Commands that are sent together, to each node its own."""
        return Batch(self.execute_commands)

    async def execute_commands(self, commands: list[Command]) -> list[Any]:
        """Send several commands at once, each as `execute_command`; what each was answered, errors too."""
        async with asyncio.timeout(LONGEST_SECONDS):
            by_node: dict[Address, list[int]] = {}
            for number, (args, _) in enumerate(commands):
                by_node.setdefault(await self._owner(args), []).append(number)
            answers: list[Any] = [None] * len(commands)
            sent = (self._send_to(node, [commands[each] for each in numbers]) for node, numbers in by_node.items())
            for numbers, heard in zip(by_node.values(), await asyncio.gather(*sent), strict=True):
                for number, answer in zip(numbers, heard, strict=True):
                    answers[number] = answer
            for number, answer in enumerate(answers):
                # Those whose slots have moved, or are moving, one by one: it is seldom, and each has its own way.
                if isinstance(answer, _ELSEWHERE):
                    args, options = commands[number]
                    answers[number] = await self._send(await self._owner(args), args, options)
            return answers

    async def _owner(self, args: tuple[Any, ...]) -> Address:
        slot = key_slot(key_of(args).encode())
        return self._owners[slot] or await self._find_owner(slot)

    async def _send_to(self, node: Address, commands: list[Command]) -> list[Any]:
        try:
            return await self._client(node).execute_commands(commands)
        except _AWAY:
            self._draw_map()
            raise

    async def _send(
        self, node: Address, args: tuple[Any, ...], options: dict[str, Any], promise: Promise | None = None
    ) -> Any:
        is_asking = False
        for _ in range(_REDIRECTIONS):
            client = self._client(node)
            try:
                if promise is not None:
                    return await client.execute_durably(promise, *args, is_asking=is_asking, **options)
                if is_asking:
                    return await _ask(client, args, options)
                return await client.execute_command(*args, **options)
            except exceptions.MovedError as moved:
                node, is_asking = (moved.host or node[0], moved.port), False
                self._owners[moved.slot_id] = node
                self._draw_map()
            except exceptions.AskError as elsewhere:
                # While a slot moves; its owner stays who it was.
                node, is_asking = (elsewhere.host or node[0], elsewhere.port), True
            except exceptions.TryAgainError:
                await asyncio.sleep(_TRY_AGAIN_SECONDS)
            except _AWAY:
                self._draw_map()
                raise
        raise exceptions.ClusterError("the nodes do not agree on who has the slot")

    def _client(self, node: Address) -> Client:
        client = self._clients.get(node)
        if client is None:
            client = self._clients[node] = self._make_client(*node)
        return client

    async def _find_owner(self, slot: int) -> Address:
        await asyncio.shield(self._draw_map(at_once=True))
        owner = self._owners[slot]
        if owner is None:
            raise exceptions.ClusterDownError(f"no node has slot {slot}")
        return owner

    def _draw_map(self, *, at_once: bool = False) -> asyncio.Task[None]:
        """Ask where the slots are, once for all who found their map wrong."""
        if self._mapping is None or self._mapping.done():
            self._mapping = self._start(self._read_map(0.0 if at_once else _MAP_INTERVAL_SECONDS))
        return self._mapping

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Read here, since whoever waits for it may have been given up.
        task.add_done_callback(lambda done: done.cancelled() or done.exception())
        return task

    async def _read_map(self, interval: float) -> None:
        await asyncio.sleep(max(0.0, self._mapped + interval - time.monotonic()))
        self._mapped = time.monotonic()
        asked = random.sample(list(self._clients), min(_ASKED_AT_ONCE, len(self._clients)))
        pending = {self._start(self._ask_for_slots(each)) for each in {*asked, *self._seeds}}
        problem: BaseException = exceptions.ClusterDownError("no node says who has the slots")
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None and task.result():
                    await self._keep(task.result())
                    return
                problem = task.exception() or problem
        raise problem

    async def _ask_for_slots(self, node: Address) -> list[tuple[int, int, Address]]:
        ranges = await self._client(node).execute_command("CLUSTER SLOTS")
        # A node that was told no name for itself leaves it out.
        return [(int(first), int(last), (owner[0] or node[0], int(owner[1]))) for first, last, owner, *_ in ranges]

    async def _keep(self, ranges: list[tuple[int, int, Address]]) -> None:
        owners: list[Address | None] = [None] * REDIS_CLUSTER_HASH_SLOTS
        for first, last, owner in ranges:
            owners[first : last + 1] = [owner] * (last + 1 - first)
        self._owners = owners
        # Commands may still be under way at a node that has just left; it is closed the next time.
        departed, self._departed = self._departed, []
        for left in set(self._clients) - set(owners) - set(self._seeds):
            self._departed.append(self._clients.pop(left))
        for client in departed:
            await client.aclose()

    async def _masters(self) -> list[Address]:
        if not any(self._owners):
            await asyncio.shield(self._draw_map(at_once=True))
        return sorted({owner for owner in self._owners if owner is not None})

    async def ping(self, **_: Any) -> bool:
        """Whether the cluster takes commands: one master that says so will do, others may be away."""
        async with asyncio.timeout(LONGEST_SECONDS):
            pending = {self._start(self._is_up(each)) for each in await self._masters()}
            problem: BaseException | None = None
            while pending:
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    problem = task.exception()
                    if problem is None and task.result():
                        return True
        self._draw_map()
        raise problem or exceptions.ClusterDownError("the cluster takes no commands")

    async def _is_up(self, node: Address) -> bool:
        state = await self._client(node).execute_command("CLUSTER INFO")
        return bool(state["cluster_state"] == "ok")

    async def eviction_policies(self) -> dict[str, str]:
        """Each master's `maxmemory-policy` by its address; every one must answer."""
        async with asyncio.timeout(LONGEST_SECONDS):
            masters = await self._masters()
            found = await asyncio.gather(*(self._client(each).eviction_policies() for each in masters))
        return {f"{host}:{port}": policy[""] for (host, port), policy in zip(masters, found, strict=True)}

    async def durability_problems(self, promise: Promise) -> dict[str, Problem | None]:
        """What keeps each master from confirming writes, by its address; every one must answer."""
        async with asyncio.timeout(LONGEST_SECONDS):
            masters = await self._masters()
            found = await asyncio.gather(*(self._client(each).durability_problems(promise) for each in masters))
        return {f"{host}:{port}": problem[""] for (host, port), problem in zip(masters, found, strict=True)}

    async def aclose(self) -> None:
        """Close every connection."""
        await tasks.end(*self._tasks)
        for client in [*self._clients.values(), *self._departed]:
            with contextlib.suppress(exceptions.RedisError, OSError):
                await client.aclose()


async def _ask(client: Redis, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """The command with ASKING right before it on the same connection, which is what it counts for."""
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("ASKING")
    pipeline.execute_command(*args, **options)
    _, answer = await pipeline.execute()
    return answer


def client_of_cluster(settings: StoreSettings) -> Cluster:
    """A client of the cluster that `store.cluster` leads to; nothing is sent until it is used."""
    options, tls = server_options(settings), tls_options(settings)
    seeds = [address(node) for node in settings.cluster]
    return Cluster(seeds, lambda host, port: client_of(host, port, options, tls))
