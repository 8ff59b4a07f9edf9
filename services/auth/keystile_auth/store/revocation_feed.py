"""The latest revocations as one process has them in memory, for all who wait for news of some.

One blocking read of the stream serves every waiting poll. It begins with the first poll: where nobody polls, nothing
is read.
"""

import asyncio
from collections import OrderedDict, defaultdict, deque
from dataclasses import dataclass

from keystile_auth.store.revocations import RETAINED, EntryId, Revocation, RevocationStore
from keystile_common import tasks
from keystile_common.store import StoreUnavailableError

MOST_WAITING = 1_000
"""So many polls wait at one time at most; the next is told to come later."""

_RETRY_SECONDS = 0.5
_START_SECONDS = 1.5
_CATCH_UP_SECONDS = 1.0


class TooManyWaitingError(Exception):
    """As many polls wait as may."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a receiver is in the stream: behind this entry, or right before it."""

    id: EntryId
    is_behind: bool = True


@dataclass(frozen=True, slots=True)
class Batch:
    """What a poll gets. `beginning` is set where it does not continue what the receiver has: something may be missing.

    `has_more` tells that another poll would get more at once.
    """

    beginning: EntryId | None
    revocations: tuple[Revocation, ...]
    has_more: bool

    def __bool__(self) -> bool:
        return self.beginning is not None or bool(self.revocations)


class RevocationFeed:
    """What has been revoked, as far as it is retained, and the polls that wait for more of it."""

    def __init__(self, store: RevocationStore) -> None:
        self._store = store
        self._entries: OrderedDict[EntryId, Revocation] = OrderedDict()
        self._by_audience: dict[str, deque[Revocation]] = defaultdict(deque)
        self._waiting: dict[str, set[asyncio.Future[str | None]]] = defaultdict(set)
        self._progress: set[asyncio.Future[str | None]] = set()
        self._is_current = False
        self._reading: asyncio.Task[None] | None = None
        self.is_stopping = False

    @property
    def waiting(self) -> int:
        """How many polls wait."""
        return sum(map(len, self._waiting.values()))

    async def poll(self, audience: str, place: Place | None, most: int, seconds: float) -> Batch:
        """What was revoked for `audience` behind `place`.

        Args:
            audience: a resource.
            place: where the receiver is; None where it has seen nothing.
            most: how many to answer at most.
            seconds: how long to wait where there is nothing.

        Raises:
            StoreUnavailableError: it cannot be known.
            TooManyWaitingError: it would have to wait, and too many do.
        """
        await self._catch_up(place)
        batch = self._batch(audience, place, most)
        if batch or seconds <= 0 or self.is_stopping:
            return batch
        if self.waiting >= MOST_WAITING:
            raise TooManyWaitingError
        await self._wait(self._waiting[audience], seconds)
        return self._batch(audience, place, most)

    async def stop(self) -> None:
        """Let every poll that waits end now; those that come do not wait."""
        self.is_stopping = True
        self._wake(None)

    async def close(self) -> None:
        """Stop, and read no more."""
        await self.stop()
        if self._reading is not None:
            await tasks.end(self._reading)

    async def _catch_up(self, place: Place | None) -> None:
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _START_SECONDS
        while not self._is_current:
            if loop.time() >= deadline:
                raise StoreUnavailableError("revocation.list: timeout")
            await self._wait(self._progress, deadline - loop.time())
        # Another process may have told the receiver of what has not come here yet.
        deadline = loop.time() + _CATCH_UP_SECONDS
        while place is not None and self._last < place.id and loop.time() < deadline:
            await self._wait(self._progress, deadline - loop.time())

    @property
    def _last(self) -> EntryId:
        return next(reversed(self._entries))

    def _batch(self, audience: str, place: Place | None, most: int) -> Batch:
        beginning = None
        if place is None or place.id not in self._entries:
            beginning = next(iter(self._entries))
            place = Place(beginning, is_behind=False)
        found: list[Revocation] = []
        for each in reversed(self._by_audience.get(audience, ())):
            if each.id < place.id or (place.is_behind and each.id == place.id):
                break
            found.append(each)
        found.reverse()
        return Batch(beginning, tuple(found[:most]), len(found) > most)

    async def _wait(self, others: "set[asyncio.Future[str | None]]", seconds: float) -> None:
        future: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        others.add(future)
        try:
            async with asyncio.timeout(seconds):
                trouble = await future
        except TimeoutError:
            return
        finally:
            others.discard(future)
        if trouble is not None:
            raise StoreUnavailableError(trouble)

    async def _read(self) -> None:
        trouble = "revocation.wait: stopped"
        try:
            while True:
                try:
                    await self._read_on()
                except StoreUnavailableError as problem:
                    # What was read may be more than what a store that took over has: it is compared anew.
                    self._is_current, trouble = False, str(problem)
                    self._wake(trouble)
                    await asyncio.sleep(_RETRY_SECONDS)
        finally:
            # However this ends: nobody must wait for news that nobody reads.
            self._is_current = False
            self._wake(None if self.is_stopping else trouble)

    async def _read_on(self) -> None:
        if not self._is_current:
            self._begin(await self._store.retained())
        for each in await self._store.after(self._last):
            self._add(each)
            _wake(self._waiting[each.audience], None)
        _wake(self._progress, None)

    def _begin(self, retained: list[Revocation]) -> None:
        self._entries.clear()
        self._by_audience.clear()
        for each in retained:
            self._add(each)
        self._is_current = True
        _wake(self._progress, None)

    def _add(self, revocation: Revocation) -> None:
        self._entries[revocation.id] = revocation
        self._by_audience[revocation.audience].append(revocation)
        if len(self._entries) > RETAINED:
            _, oldest = self._entries.popitem(last=False)
            self._by_audience[oldest.audience].popleft()

    def _wake(self, trouble: str | None) -> None:
        for others in [*self._waiting.values(), self._progress]:
            _wake(others, trouble)


def _wake(others: "set[asyncio.Future[str | None]]", trouble: str | None) -> None:
    for future in others:
        if not future.done():
            future.set_result(trouble)
