"""What was revoked lately: a stream that the scripts on grants append to in the commit that revokes.

An entry names what died and for whom that matters, and holds no secret: the audience of the tokens, and a grant's id
or a token's `jti`. Its id is the store's clock, and the place from which a receiver reads on.

A cluster has the stream in one slot and grants in all of them, so no script can write both. There an entry is appended
right after the commit (docs/decisions/0025).
"""

import asyncio
import re
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import structlog

from keystile_common.store import Store, StoreUnavailableError

STREAM = "ks:revocations"
RETAINED = 5_000
"""So many entries are kept; `grant.lua` has the same number. Whoever is further behind starts anew."""

_BATCH = 500
_TRIES = 3
_PAUSE_SECONDS = 0.1
_REMEMBERED_SECONDS = 7 * 86400
_ENTRY_ID = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

_log = structlog.stdlib.get_logger(__name__)


class EntryId(NamedTuple):
    """An entry's place in the stream, in the order of time: Unix milliseconds, and a number within that."""

    milliseconds: int
    number: int

    @classmethod
    def read(cls, text: str) -> Self | None:
        """The id that `text` is, or None."""
        match = _ENTRY_ID.fullmatch(text)
        return cls(int(match[1]), int(match[2])) if match else None

    def __str__(self) -> str:
        return f"{self.milliseconds}-{self.number}"


@dataclass(frozen=True, slots=True)
class Revocation:
    """What died. `kind` is `grant` or `token`; `name` a grant's id or a token's `jti`; `audience` its resource."""

    id: EntryId
    audience: str
    kind: str
    name: str


class RevocationStore:
    """The stream. Every method raises `StoreUnavailableError` when the store is away, but for `append`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def append(self, audience: str, kind: str, name: str) -> None:
        """Append an entry after the commit, as a cluster has to; tried a few times, then given up and logged."""
        fields = {"audience": audience, "kind": kind, "name": name}
        trouble = ""
        for attempt in range(_TRIES):
            await asyncio.sleep(attempt * _PAUSE_SECONDS)
            try:
                with self._store.operation("revocation.append"):
                    await self._store.redis.xadd(STREAM, fields, maxlen=RETAINED, approximate=True)
            except StoreUnavailableError as problem:
                trouble = str(problem)
            else:
                return
        _log.error("a revocation could not be told to resource servers; it holds when they ask next", problem=trouble)

    async def retained(self) -> list[Revocation]:
        """Every entry there is, the oldest first; never none, so that there is a place to read on from."""
        with self._store.operation("revocation.list"):
            found = await self._store.redis.xrange(STREAM)
            if not found:
                # Two processes may do so at once: one of the marks is superfluous and does no harm.
                await self._store.redis.xadd(STREAM, {"audience": "", "kind": "mark", "name": ""})
                found = await self._store.redis.xrange(STREAM)
        return [_revocation(*each) for each in found]

    async def after(self, last: EntryId) -> list[Revocation]:
        """What came after `last`; waits for a moment where that is nothing."""
        with self._store.waiting("revocation.wait"):
            answer = await self._store.redis.xread({STREAM: str(last)}, count=_BATCH, block=self._store.longest_wait_ms)
        return [_revocation(*each) for each in _entries(answer)]

    async def acknowledged(self, receiver: str) -> str | None:
        """What `acknowledge` kept of this receiver."""
        with self._store.operation("revocation.acknowledged"):
            found: str | None = await self._store.redis.get(_acknowledged(receiver))
        return found

    async def acknowledge(self, receiver: str, event: str) -> None:
        """Remember the last event that a receiver has acknowledged."""
        with self._store.operation("revocation.acknowledge"):
            await self._store.redis.set(_acknowledged(receiver), event, ex=_REMEMBERED_SECONDS)


def _entries(answer: Any) -> list[Any]:
    # One stream, in the form of whichever protocol is spoken.
    if isinstance(answer, dict):
        return [entry for parts in answer.values() for part in parts for entry in part]
    return [entry for _, entries in answer for entry in entries]


def _revocation(entry_id: str, fields: dict[str, str]) -> Revocation:
    place = EntryId.read(entry_id)
    assert place is not None  # noqa: S101 (the store makes them)
    return Revocation(place, fields.get("audience", ""), fields.get("kind", ""), fields.get("name", ""))


def _acknowledged(receiver: str) -> str:
    return f"ks:events-acked:{receiver}"
