"""Rate limits and single-use identifiers."""

import hashlib
import secrets

from keystile_auth.store import scripts
from keystile_common.store import Store


class LimitStore:
    """Counts events. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._count = store.redis.register_script(scripts.read("count"))

    async def count(self, limit: str, who: str, window_seconds: int, *, by: int = 1) -> tuple[int, int]:
        """Count an event of `who` (`by` = -1 takes one back).

        Returns:
            How many there were in this window, and the seconds until it ends.
        """
        digest = hashlib.sha256(who.encode()).hexdigest()[:32]
        with self._store.operation("limit.count"):
            count, left = await self._count(keys=[f"ks:limit:{limit}:{digest}"], args=[window_seconds * 1000, by])
        return int(count), max(1, -(-int(left) // 1000))

    async def use_once(self, kind: str, identifier: str, seconds: int) -> bool:
        """Mark an identifier as used; False when it was used before."""
        digest = hashlib.sha256(identifier.encode()).hexdigest()
        attempt = secrets.token_urlsafe(12)
        with self._store.operation("once.use"):
            used = await self._store.redis.set(f"ks:{kind}:{digest}", attempt, nx=True, get=True, ex=seconds)
        # It is our own mark when the answer got lost and the command was sent again.
        return used in {None, attempt}
