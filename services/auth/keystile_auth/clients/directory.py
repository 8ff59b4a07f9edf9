"""Where a client is looked up, whichever way it became known."""

from collections.abc import Mapping

from keystile_auth.clients.client import Client
from keystile_auth.clients.metadata_document import MetadataDocuments, is_document_url
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.limits import LimitStore

MAX_CLIENT_ID_CHARACTERS = 1024


class ClientDirectory:
    """Finds clients by id."""

    def __init__(
        self,
        store: ClientStore,
        documents: MetadataDocuments | None,
        limits: LimitStore,
        fetches_per_minute: int,
        configured: Mapping[str, Client],
    ) -> None:
        self._store = store
        self._configured = configured
        self._documents = documents
        self._limits = limits
        self._fetches = fetches_per_minute

    async def find(self, client_id: str, ip: str, document: str | None = None) -> Client:
        """The client of this id.

        Args:
            client_id: as the request has it.
            ip: the address that asks; it bounds how many documents are fetched for it.
            document: what the store has of a registered one, where that was read just now.

        Raises:
            OAuthError: `invalid_client`: unknown, or its metadata document cannot be used.
            RateLimitedError: this address made us fetch too many documents.
        """
        if len(client_id) > MAX_CLIENT_ID_CHARACTERS or not (client_id.isascii() and client_id.isprintable()):
            raise OAuthError("invalid_client", "client_id is too long or not printable ASCII")
        if client_id in self._configured:
            return self._configured[client_id]
        if is_document_url(client_id):
            return await self._document(client_id, ip)
        document = document or await self._store.find(client_id)
        if document is None:
            raise OAuthError("invalid_client", "the client is unknown; it must register again")
        return Client.from_json(document)

    async def _document(self, url: str, ip: str) -> Client:
        if self._documents is None:
            raise OAuthError("invalid_client", "Client ID Metadata Documents are turned off here; register instead")
        cached = await self._documents.cached(url)
        if cached is not None:
            return cached
        count, left = await self._limits.count("document", ip, 60)
        if count > self._fetches:
            raise RateLimitedError("metadata_document", left)
        return await self._documents.fetch(url)
