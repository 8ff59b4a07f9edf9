"""The signing keys' document; its private parts come here encrypted already."""

from dataclasses import dataclass

from keystile_auth.store import scripts
from keystile_common.store import Store

_KEY = "ks:signing-keys"


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a rotation came to: the script's word, and the ids or the seconds that go with it."""

    word: str
    kid: str = ""
    retired_kid: str = ""
    seconds: int = 0


class SigningKeyStore:
    """Keeps one document. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._rotate = store.redis.register_script(scripts.read("rotate_signing_keys"))

    async def find(self) -> str | None:
        """The document, or None before the first start."""
        with self._store.operation("keys.find"):
            document: str | None = await self._store.redis.get(_KEY)
        return document

    async def put_first(self, document: str) -> str:
        """Store the first document; whoever comes second gets the first one's."""
        with self._store.operation("keys.put"):
            await self._store.redis.set(_KEY, document, nx=True)
            stored: str = await self._store.redis.get(_KEY)
        return stored

    async def rotate(
        self, candidate: str, *, force: bool, rotate_after: int, published_seconds: int, retired_seconds: int
    ) -> Rotation:
        """Rotate in one commit; see `rotate_signing_keys.lua`.

        Args:
            candidate: the key that is to become the next one, as JSON.
            force: whatever the current key's age.
            rotate_after: the age at which it is due, in seconds.
            published_seconds: for how long a key is published before it signs.
            retired_seconds: for how long it is published after it signed.
        """
        with self._store.operation("keys.rotate"):
            word, *rest = await self._rotate(
                keys=[_KEY], args=[candidate, int(force), rotate_after, published_seconds, retired_seconds]
            )
        if word == "rotated":
            return Rotation(word, kid=rest[0], retired_kid=rest[1])
        return Rotation(word, seconds=int(rest[0]) if rest else 0)
