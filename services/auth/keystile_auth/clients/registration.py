"""Dynamic client registration and its management (RFC 7591, RFC 7592)."""

import hashlib
import secrets
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from keystile_auth.clients import metadata
from keystile_auth.clients.client import AUTH_METHODS, Client, Source
from keystile_auth.errors import OAuthError
from keystile_auth.store.clients import ClientStore

CLIENT_ID_PREFIX = "kst_client_"


def hash_secret(secret: str) -> str:
    """SHA-256 in hex. Enough for what is 256 random bits; people's passwords go through argon2id."""
    return hashlib.sha256(secret.encode()).hexdigest()


def new_client_id() -> str:
    """A new registered client's id. No user's `sub` begins like it."""
    return CLIENT_ID_PREFIX + secrets.token_urlsafe(16)


def new_secret() -> str:
    """A client secret or registration access token: 256 random bits."""
    return secrets.token_urlsafe(32)


class Registration:
    """Registers clients that strangers bring, and lets each manage its own registration."""

    def __init__(
        self, store: ClientStore, private_use_schemes: list[str], unused_seconds: int, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._unused_seconds = unused_seconds
        self._schemes = private_use_schemes
        self._clock = clock

    async def register(self, document: Mapping[str, Any]) -> tuple[Client, str | None, str]:
        """Register a client.

        Returns:
            The client, its secret (None for one that has none) and its registration access token. Neither is
            stored; this is the only time they can be shown.

        Raises:
            OAuthError: as `metadata.check`.
        """
        client, secret = self._build(new_client_id(), document, int(self._clock()))
        token = new_secret()
        client = replace(client, registration_token_hash=hash_secret(token))
        if not await self._store.add(client.id, client.to_json(), seconds=self._unused_seconds):
            raise RuntimeError("a new client id was taken")
        return client, secret, token

    async def authenticate(self, client_id: str, token: str | None) -> Client:
        """The client whose registration access token this is (RFC 7592 section 2).

        Raises:
            OAuthError: `invalid_token`, whether the client is unknown or the token is another's.
        """
        document = await self._store.find(client_id)
        client = Client.from_json(document) if document else None
        known = client.registration_token_hash if client else None
        if not secrets.compare_digest(hash_secret(token or ""), known or "") or client is None:
            raise OAuthError("invalid_token", "the registration access token is not this client's")
        return client

    async def update(self, client: Client, document: Mapping[str, Any]) -> tuple[Client, str | None]:
        """Replace a client's metadata (RFC 7592 section 2.2).

        Returns:
            The client, and a new secret where it needs one that it did not have.

        Raises:
            OAuthError: as `metadata.check`; or it names another client's id, or a secret of its own choice.
        """
        if document.get("client_id") != client.id:
            raise OAuthError("invalid_client_metadata", "client_id must be this client's id")
        secret = document.get("client_secret")
        if secret is not None and not _is_secret_of(client, secret):
            raise OAuthError("invalid_client_metadata", "client_secret must be this client's own, or left out")
        new, secret = self._build(client.id, document, client.issued)
        if new.secret_hash is not None and client.secret_hash is not None:
            new, secret = replace(new, secret_hash=client.secret_hash), None
        new = replace(new, registration_token_hash=client.registration_token_hash)
        if not await self._store.replace(client.id, new.to_json()):
            raise OAuthError("invalid_token", "the client was deleted")
        return new, secret

    async def delete(self, client: Client) -> None:
        """Forget a client (RFC 7592 section 2.3). Its grants are ended by the caller."""
        await self._store.delete(client.id)

    def _build(self, client_id: str, document: Mapping[str, Any], issued: int) -> tuple[Client, str | None]:
        # RFC 7591 section 2 says a client that names no method uses client_secret_basic.
        checked = metadata.check(document, self._schemes, ("client_secret_basic",))
        method = next((each for each in checked.auth_methods if each in AUTH_METHODS), None)
        if method is None:
            raise OAuthError(
                "invalid_client_metadata",
                f"token_endpoint_auth_method must be one of {', '.join(AUTH_METHODS)}",
            )
        secret = new_secret() if method.startswith("client_secret_") else None
        client = Client(
            id=client_id,
            name=checked.name,
            source=Source.REGISTRATION,
            redirect_uris=checked.redirect_uris,
            auth_methods=(method,),
            grant_types=checked.grant_types,
            client_uri=checked.client_uri,
            jwks=checked.jwks,
            jwks_uri=checked.jwks_uri,
            secret_hash=hash_secret(secret) if secret else None,
            issued=issued,
        )
        return client, secret


def _is_secret_of(client: Client, secret: Any) -> bool:
    return isinstance(secret, str) and secrets.compare_digest(hash_secret(secret), client.secret_hash or "")
