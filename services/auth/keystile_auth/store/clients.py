"""Registered clients and cached metadata documents, as JSON text."""

import hashlib

from keystile_common.store import Store

_OPERATORS = "ks:clients"


class ClientStore:
    """Keeps client documents. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def find(self, client_id: str) -> str | None:
        """The stored document of a client, or None."""
        with self._store.operation("client.find"):
            document: str | None = await self._store.redis.get(_key(client_id))
        return document

    async def add(self, client_id: str, document: str, *, listed: bool) -> bool:
        """Store a new client; False when the id is taken. `listed` ones appear in `all_listed`."""
        with self._store.operation("client.add"):
            added = bool(await self._store.redis.set(_key(client_id), document, nx=True))
            if added and listed:
                await self._store.redis.sadd(_OPERATORS, client_id)
        return added

    async def replace(self, client_id: str, document: str) -> bool:
        """Store a client's changed document; False when it is gone."""
        with self._store.operation("client.replace"):
            return bool(await self._store.redis.set(_key(client_id), document, xx=True))

    async def delete(self, client_id: str) -> bool:
        """Forget a client; False when it was not there."""
        with self._store.operation("client.delete"):
            await self._store.redis.srem(_OPERATORS, client_id)
            return bool(await self._store.redis.delete(_key(client_id)))

    async def all_listed(self) -> list[str]:
        """The ids of the operator's clients, sorted."""
        with self._store.operation("client.list"):
            members: set[str] = await self._store.redis.smembers(_OPERATORS)
        return sorted(members)

    async def cached_document(self, url: str) -> str | None:
        """A metadata document fetched before and still fresh, or None."""
        with self._store.operation("document.find"):
            document: str | None = await self._store.redis.get(_document_key(url))
        return document

    async def cache_document(self, url: str, document: str, seconds: int) -> None:
        """Keep a fetched metadata document for `seconds`."""
        with self._store.operation("document.put"):
            await self._store.redis.set(_document_key(url), document, ex=seconds)


def _key(client_id: str) -> str:
    return f"ks:client:{client_id}"


def _document_key(url: str) -> str:
    return f"ks:document:{hashlib.sha256(url.encode()).hexdigest()}"
