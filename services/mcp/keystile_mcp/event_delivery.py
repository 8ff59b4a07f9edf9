"""How what an issuer has pushed to one replica reaches all of them.

A push comes to one replica of a Service. With a store that the replicas share it is appended to a stream there, which
each of them reads, and so does the one that it came to. While that cannot be read, revocations are not heard of: what
is known is forgotten, and what is learned is believed for a few seconds only. Without such a store a replica knows what
was pushed to itself, until it ends.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping
from types import TracebackType
from typing import Protocol, Self

import structlog

from keystile_common import tasks
from keystile_common.metrics import McpMetrics
from keystile_common.store import StoreUnavailableError
from keystile_mcp.hearing import Hearing, Revocable
from keystile_mcp.pushed_event_store import BATCH, Entry, PushedEventStore
from keystile_mcp.revoked import Revoked
from keystile_mcp.security_events import SecurityEvent

REMEMBERED = 20_000
"""So many events are known again by a process without a store; the oldest are forgotten first."""
_PAUSE_SECONDS = 0.5

_log = structlog.stdlib.get_logger(__name__)


class Holders:
    """Who holds the tokens of each issuer, and who holds those of all of them (`of_all`).

    Args:
        by_issuer: the first, by the issuer's identifier.
        metrics: what is counted in.
        clock: Unix time in seconds.
    """

    def __init__(
        self, by_issuer: Mapping[str, Revocable], metrics: McpMetrics, clock: Callable[[], float] = time.time
    ) -> None:
        self._by_issuer = by_issuer
        self.of_all: list[Revocable] = []
        self._clock = clock
        self._applied = metrics.revocation_events.labels("applied")
        self.begun_anew = metrics.revocation_events.labels("beginning")
        self._propagation = metrics.revocation_propagation
        self._up = metrics.revocation_feed_up.labels

    def hearing(self) -> Hearing:
        """What tells them when to doubt."""
        return Hearing([self], [self._up(issuer) for issuer in self._by_issuer])

    def revoke(self, revoked: Collection[Revoked]) -> None:
        """Believe in these no more. Who holds the tokens of another issuer is told nothing of them."""
        for issuer, holder in self._by_issuer.items():
            own = [each for each in revoked if each.name.issuer == issuer]
            for each in (holder, *self.of_all) if own else ():
                each.revoke(own)
        self._applied.inc(len(revoked))

    def observe(self, revoked: Iterable[Revoked]) -> None:
        """Say how long it took until these held."""
        for at in {each.at for each in revoked}:
            self._propagation.observe(max(0.0, self._clock() - at))

    def doubt(self, seconds: float) -> None:
        """Believe nothing that was learned so far, and what will be learned for `seconds` at most."""
        for each in (*self._by_issuer.values(), *self.of_all):
            each.doubt(seconds)

    def trust(self) -> None:
        """Take back the limit."""
        for each in (*self._by_issuer.values(), *self.of_all):
            each.trust()


class Delivery(Protocol):
    """Brings what has died to the holders, here and at the other replicas, while it is entered."""

    async def __aenter__(self) -> Self:
        """Begin."""
        ...

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End."""
        ...

    async def deliver(self, issuer: str, event: SecurityEvent, seconds: int) -> bool:
        """Tell all of them.

        Args:
            issuer: whose word it is.
            event: checked.
            seconds: for how long it could come again.

        Returns:
            False where the same event was told before.

        Raises:
            StoreUnavailableError: some may not have been told.
        """
        ...


class OwnDelivery:
    """To this process alone."""

    def __init__(self, holders: Holders) -> None:
        self._holders = holders
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._told.clear()

    async def deliver(self, issuer: str, event: SecurityEvent, seconds: int) -> bool:
        """See `Delivery`. How many are remembered is bounded, so `seconds` is not needed."""
        del seconds
        if (issuer, event.jti) in self._told:
            return False
        self._told[issuer, event.jti] = None
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._holders.revoke(event.revoked)
        self._holders.observe(event.revoked)
        return True


class SharedDelivery:
    """To every replica, by a stream in the store.

    Args:
        store: where the stream is.
        holders: those of this replica.
    """

    def __init__(self, store: PushedEventStore, holders: Holders) -> None:
        self._store = store
        self._holders = holders
        self._hearing = holders.hearing()
        self._place: str | None = None
        self._trouble: str | None = None
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._hearing.lose()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            await tasks.end(self._running)
        self._hearing.close()
        await self._store.close()

    async def deliver(self, issuer: str, event: SecurityEvent, seconds: int) -> bool:
        """See `Delivery`."""
        try:
            if await self._store.has_accepted(issuer, event.jti):
                return False
            if event.revoked:
                await self._store.append(event.revoked)
            # Last: whoever is cut off before this sends it again, and telling of it twice changes nothing.
            await self._store.accept(issuer, event.jti, seconds)
        except StoreUnavailableError:
            # The issuer will send it again. Here it holds at once.
            self._holders.revoke(event.revoked)
            raise
        return True

    async def _run(self) -> None:
        while True:
            try:
                await self._read_on()
            except StoreUnavailableError as problem:
                self._note(str(problem))
                await asyncio.sleep(_PAUSE_SECONDS)
            except Exception as problem:  # noqa: BLE001 (whatever it is, the next read may do)
                # A mistake of ours: it must not end the reading for good.
                self._note(type(problem).__name__)
                _log.exception("what was pushed to other replicas could not be read")
                await asyncio.sleep(_PAUSE_SECONDS)
            else:
                self._note(None)

    async def _read_on(self) -> None:
        # What was appended before the question was sent is in the answer, however long that took.
        asked_at = asyncio.get_running_loop().time()
        if self._place is None:
            self._begin(await self._store.retained())
            self._hearing.confirm(asked_at)
            return
        entries = await self._store.after(self._place)
        if entries is None:
            self._place = None
            return
        self._apply(entries)
        self._holders.observe(each for entry in entries for each in entry.revoked or ())
        if len(entries) < BATCH:
            self._hearing.confirm(asked_at)

    def _begin(self, entries: list[Entry]) -> None:
        # Also at the start: a token that proves itself may have been revoked before this process began.
        self._holders.begun_anew.inc()
        self._hearing.begin_anew()
        self._apply(entries)
        self._place = entries[-1].id

    def _apply(self, entries: list[Entry]) -> None:
        for entry in entries:
            if entry.revoked is None:
                # Of a later version of ours, so what died is not known.
                self._hearing.begin_anew()
            elif entry.revoked:
                self._holders.revoke(entry.revoked)
            self._place = entry.id

    def _note(self, trouble: str | None) -> None:
        # A line when trouble begins, changes or ends.
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("revocations are heard of again", of="the other replicas")
        else:
            _log.warning("revocations are not heard of", of="the other replicas", problem=trouble)
