"""Registered clients and cached metadata documents, as JSON text."""

import hashlib

from keystile_common.store import Store

KEYS_OF_CLIENTS = "ks:client:"
"""How the keys of registered clients begin."""
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

    async def add(self, client_id: str, document: str, *, seconds: int | None) -> bool:
        """Store a new client; False when the id is taken.

        It is forgotten after `seconds` unless `keep` is called; with None it stays, and `all_listed` has it.
        """
        with self._store.operation("client.add"):
            # Listed first: the list leaves out what is not there, but shows nothing that it does not have.
            listed = seconds is None and await self._store.redis.sadd(_OPERATORS, client_id)
            taken = await self._store.redis.set(_key(client_id), document, nx=True, get=True, ex=seconds)
            added = taken in {None, document}  # ours when the answer got lost and the command was sent again
            if listed and not added:
                await self._store.redis.srem(_OPERATORS, client_id)
        return added

    async def keep(self, client_id: str) -> None:
        """Never forget this client by itself."""
        with self._store.operation("client.keep"):
            await self._store.redis.persist(_key(client_id))

    async def replace(self, client_id: str, document: str) -> bool:
        """Store a client's changed document; False when it is gone."""
        with self._store.operation("client.replace"):
            return bool(await self._store.redis.set(_key(client_id), document, xx=True, keepttl=True))

    async def delete(self, client_id: str) -> bool:
        """Forget a client; False when it was not there."""
        with self._store.operation("client.delete"):
            deleted = await self._store.durable.delete(_key(client_id))
            await self._store.redis.srem(_OPERATORS, client_id)
        return bool(deleted)

    async def confirm_deleted(self, client_id: str) -> None:
        """Return once a client that is not there stays so, as durably as it is to be."""
        await self._store.confirm(_key(client_id))

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

    async def cache_document(self, url: str, document: str, seconds: int, kept_seconds: int) -> None:
        """Keep a fetched metadata document: fresh for `seconds`, for `kept_seconds` in case its host goes away."""
        with self._store.operation("document.put"):
            await self._store.redis.set(_document_key(url), document, ex=seconds)
            if kept_seconds > seconds:
                await self._store.redis.set(_kept_document_key(url), document, ex=kept_seconds)

    async def kept_document(self, url: str) -> str | None:
        """A metadata document fetched before, fresh or not, or None."""
        with self._store.operation("document.find"):
            document: str | None = await self._store.redis.get(_kept_document_key(url))
        return document

    async def cached_keys(self, uri: str) -> str | None:
        """A key set fetched before and still fresh, or None."""
        with self._store.operation("keys_document.find"):
            document: str | None = await self._store.redis.get(_keys_key(uri))
        return document

    async def cache_keys(self, uri: str, document: str, seconds: int) -> None:
        """Keep a fetched key set for `seconds`, apart from metadata documents: anybody may put any JSON here."""
        with self._store.operation("keys_document.put"):
            await self._store.redis.set(_keys_key(uri), document, ex=seconds)


def _key(client_id: str) -> str:
    return f"{KEYS_OF_CLIENTS}{client_id}"


def _document_key(url: str) -> str:
    return f"ks:document:{hashlib.sha256(url.encode()).hexdigest()}"


def _kept_document_key(url: str) -> str:
    return f"ks:kept-document:{hashlib.sha256(url.encode()).hexdigest()}"


def _keys_key(uri: str) -> str:
    return f"ks:keys:{hashlib.sha256(uri.encode()).hexdigest()}"
