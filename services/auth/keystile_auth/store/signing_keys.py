"""The signing keys' document; its private parts come here encrypted already."""

from keystile_common.store import Store

_KEY = "ks:signing-keys"


class SigningKeyStore:
    """Keeps one document. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

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
