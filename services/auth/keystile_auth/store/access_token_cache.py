"""Access tokens kept in memory for as long as the store tells of every change of theirs.

A look-up that was under way when its key changed may bring what was there before: it is answered, for it was asked
before, but never kept. So a revoked token does not come back, whichever of the two arrives first.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from keystile_auth.store.stored_access_token import StoredAccessToken


class Changes(Protocol):
    """What the cache must know of the store; see `keystile_common.store_tracking`."""

    @property
    def store_time(self) -> float | None: ...  # noqa: D102


@dataclass(slots=True, eq=False)
class Reading:
    """A look-up under way, or several of one key; `generation_is_over` once the key has changed meanwhile."""

    readers: int = 0
    generation_is_over: bool = False


class AccessTokenCache:
    """Keeps at most `most` access tokens, those that were asked for last."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[bytes, StoredAccessToken] = OrderedDict()
        self._readings: dict[bytes, Reading] = {}
        self._changes: Changes | None = None

    def follow(self, changes: Changes) -> None:
        """Be of use, while `changes` is."""
        self._changes = changes

    @property
    def _now(self) -> float | None:
        return self._changes.store_time if self._changes is not None else None

    def find(self, key: bytes) -> StoredAccessToken | None:
        """The token of this key if it is known to live, by the store's clock; None says nothing."""
        token = self._kept.get(key)
        now = self._now if token is not None else None
        if token is None or now is None:
            return None
        if now >= token.expires:
            del self._kept[key]
            return None
        self._kept.move_to_end(key)
        return token

    @contextmanager
    def reading(self, key: bytes) -> Iterator[Reading]:
        """Around a look-up in the store, which begins after this does."""
        reading = self._readings.get(key)
        if self._now is None:
            reading = Reading(generation_is_over=True)  # nobody would say that the key changes
        elif reading is None:
            reading = self._readings[key] = Reading()
        reading.readers += 1
        try:
            yield reading
        finally:
            reading.readers -= 1
            if reading.readers == 0 and self._readings.get(key) is reading:
                del self._readings[key]

    def keep(self, key: bytes, token: StoredAccessToken, reading: Reading) -> None:
        """Keep what a look-up brought, unless the key has changed since it began."""
        if reading.generation_is_over:
            return
        self._kept[key] = token
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)

    def forget(self, keys: Sequence[bytes] | None) -> None:
        """These have changed; with None, any may have."""
        if keys is None:
            for reading in self._readings.values():
                reading.generation_is_over = True
            self._readings.clear()
            self._kept.clear()
            return
        for key in keys:
            self._kept.pop(key, None)
            changed = self._readings.pop(key, None)
            if changed is not None:
                changed.generation_is_over = True
