"""What issuers have pushed, for all replicas of one resource to read.

Keys (prefix `km:`, then the resource):

| key | what |
|---|---|
| `km:RESOURCE:pushed` | a stream of what died, the latest of it |
| `km:RESOURCE:pushed:HASH` | an event that was accepted, by its issuer and `jti`, for as long as it could come again |
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, get_args

from keystile_common.store import Store
from keystile_mcp.revoked import Kind, Name, Revoked
from keystile_mcp.session_store import prefix_of

RETAINED = 5_000
"""So many entries are kept at least. Whoever is further behind begins anew."""
BATCH = 500
_KINDS = frozenset(get_args(Kind))


class Entry(NamedTuple):
    """An entry's id, and what died; None where that cannot be read."""

    id: str
    revoked: tuple[Revoked, ...] | None


class PushedEventStore:
    """The events of one resource. Every method raises `StoreUnavailableError` when the store is away.

    Args:
        store: the connection.
        resource: the resource's identifier; events for another are never found.
    """

    def __init__(self, store: Store, resource: str) -> None:
        self._store = store
        self._stream = f"{prefix_of(resource)}:pushed"

    async def close(self) -> None:
        """Give the connections back."""
        await self._store.close()

    async def has_accepted(self, issuer: str, jti: str) -> bool:
        """Whether this event was accepted before."""
        with self._store.operation("pushed.has_accepted"):
            return bool(await self._store.redis.get(self._accepted(issuer, jti)))

    async def accept(self, issuer: str, jti: str, seconds: int) -> None:
        """Remember for `seconds` that this event was accepted."""
        with self._store.operation("pushed.accept"):
            await self._store.redis.set(self._accepted(issuer, jti), "1", ex=seconds)

    async def append(self, revoked: Iterable[Revoked]) -> None:
        """Tell all replicas that these have died."""
        listed = json.dumps([[*each.name, each.at] for each in revoked])
        with self._store.operation("pushed.append"):
            await self._store.redis.xadd(self._stream, {"revoked": listed}, maxlen=RETAINED, approximate=True)

    async def retained(self) -> list[Entry]:
        """Every entry there is, the oldest first; never none, so that there is a place to read on from."""
        with self._store.operation("pushed.list"):
            found = await self._store.redis.xrange(self._stream)
            if not found:
                # Two replicas may do so at once: one of the marks is superfluous and does no harm.
                await self._store.redis.xadd(self._stream, {"revoked": "[]"})
                found = await self._store.redis.xrange(self._stream)
        return _entries(found)

    async def after(self, last: str) -> list[Entry] | None:
        """What came after the entry `last`, `BATCH` at most; waits for a moment where that is nothing.

        Returns:
            None where that entry is not there any more: others that came after it may be gone, too.
        """
        with self._store.waiting("pushed.wait"):
            answer = await self._store.redis.xread({self._stream: last}, count=BATCH, block=self._store.longest_wait_ms)
        # Asked after the rest was read: the oldest go first, so if it is still there, so was all that came after it.
        with self._store.operation("pushed.place"):
            place = await self._store.redis.xrange(self._stream, min=last, max=last)
        return _entries(_of_one_stream(answer)) if place else None

    def _accepted(self, issuer: str, jti: str) -> str:
        return f"{self._stream}:{hashlib.sha256(json.dumps([issuer, jti]).encode()).hexdigest()}"


def _of_one_stream(answer: Any) -> list[Any]:
    # In the form of whichever protocol is spoken.
    if isinstance(answer, dict):
        return [entry for parts in answer.values() for part in parts for entry in part]
    return [entry for _, entries in answer for entry in entries]


def _entries(found: Sequence[Any]) -> list[Entry]:
    return [Entry(entry_id, _revoked(fields)) for entry_id, fields in found]


def _revoked(fields: dict[str, str]) -> tuple[Revoked, ...] | None:
    try:
        listed = json.loads(fields["revoked"])
        read = tuple(Revoked(Name(str(issuer), kind, str(text)), float(at)) for issuer, kind, text, at in listed)
    except (KeyError, TypeError, ValueError):
        return None
    return read if all(each.name.kind in _KINDS for each in read) else None
