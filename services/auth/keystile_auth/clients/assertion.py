"""Client assertions: a client signs a short-lived JWT with its own key (RFC 7523 section 3, private_key_jwt)."""

import contextlib
import json
import math
from collections.abc import Callable
from typing import Any, Protocol

from keystile_auth.clients.claims import read, refused
from keystile_auth.errors import OAuthError
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.limits import LimitStore
from keystile_common.jws import (
    ALGORITHMS,
    LEEWAY_SECONDS,
    JwsError,
    UnverifiedJwt,
    audiences_of,
    numeric_date,
    public_keys,
    verify,
)
from keystile_common.outbound import OutboundError, PublicFetcher

MAX_JWKS_BYTES = 64 * 1024
MAX_LIFETIME_SECONDS = 600
_JWKS_CACHE_SECONDS = 300
_FETCHES_PER_MINUTE = 10
_MAX_JTI_CHARACTERS = 256


class KeyOwner(Protocol):
    """A program that signs with keys of its own: a client, or a resource server.

    `id` is its `client_id`; of `jwks` and `jwks_uri` one is given.
    """

    @property
    def id(self) -> str: ...  # noqa: D102
    @property
    def jwks(self) -> dict[str, Any] | None: ...  # noqa: D102
    @property
    def jwks_uri(self) -> str | None: ...  # noqa: D102


class AssertionVerifier:
    """Checks client assertions. `audiences` are the names this server answers to: issuer and token endpoint."""

    def __init__(
        self,
        audiences: frozenset[str],
        store: ClientStore,
        limits: LimitStore,
        fetcher: PublicFetcher,
        clock: Callable[[], float],
    ) -> None:
        self._audiences = audiences
        self._store = store
        self._limits = limits
        self._fetcher = fetcher
        self._clock = clock

    async def verify(self, assertion: str, client: KeyOwner) -> None:
        """Check that `assertion` was signed by `client`, for this server, now, and never seen before.

        Raises:
            OAuthError: `invalid_client`; the sentence names the claim that is wrong.
        """
        claims = await self._signed_claims(read(assertion, ALGORITHMS), client)
        expires = self._check(claims, client)
        left = expires - int(self._clock()) + LEEWAY_SECONDS
        if not await self._limits.use_once("assertion", f"{client.id} {claims['jti']}", max(1, left)):
            raise refused("was used before: jti must be new in each")

    async def _signed_claims(self, assertion: UnverifiedJwt, client: KeyOwner) -> dict[str, Any]:
        if client.jwks_uri is None:
            return _claims(assertion, client.jwks)
        cached = await self._store.cached_keys(client.jwks_uri)
        if cached is not None:
            # When it does not fit, the client may have changed its keys.
            with contextlib.suppress(OAuthError):
                return _claims(assertion, json.loads(cached))
        return _claims(assertion, await self._fetch(client.jwks_uri, client.id))

    async def _fetch(self, url: str, client_id: str) -> Any:
        # Not for every forgery that comes: whoever registers a client could make us hammer any host.
        count, _ = await self._limits.count("jwks", client_id, 60)
        if count > _FETCHES_PER_MINUTE:
            raise refused("has no signature by a known key of this client; its jwks_uri was asked often enough")
        try:
            fetched = await self._fetcher.get(url, max_bytes=MAX_JWKS_BYTES)
            document = json.loads(fetched.body)
        except (OutboundError, ValueError, RecursionError):
            raise refused("cannot be checked: the client's jwks_uri gives no key set") from None
        await self._store.cache_keys(url, json.dumps(document), _JWKS_CACHE_SECONDS)
        return document

    def _check(self, claims: dict[str, Any], client: KeyOwner) -> int:
        now = self._clock()
        if claims.get("iss") != client.id or claims.get("sub") != client.id:
            raise refused("must have the client's id as iss and sub")
        if not self._audiences.intersection(audiences_of(claims)):
            raise refused("must have this server's issuer as aud")
        expires, not_before = numeric_date(claims.get("exp")), numeric_date(claims.get("nbf", 0))
        if expires is None or expires <= now - LEEWAY_SECONDS:
            raise refused("has expired, or has no exp")
        if expires > now + MAX_LIFETIME_SECONDS + LEEWAY_SECONDS:
            raise refused(f"must expire within {MAX_LIFETIME_SECONDS} seconds")
        if not_before is None or not_before > now + LEEWAY_SECONDS:
            raise refused("is not valid yet")
        if not _is_jti(claims.get("jti")):
            raise refused(f"must have a jti of 1 to {_MAX_JTI_CHARACTERS} printable characters")
        # Rounded up: the mark that its jti was used must outlive it.
        return math.ceil(expires)


def _claims(assertion: UnverifiedJwt, document: Any) -> dict[str, Any]:
    try:
        return verify(assertion, public_keys(document))
    except ValueError:
        raise refused("cannot be checked: the key set cannot be read") from None
    except JwsError:
        raise refused("has no signature by a key of this client") from None


def _is_jti(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_JTI_CHARACTERS and value.isprintable()
