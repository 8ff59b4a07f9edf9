"""Client ID Metadata Documents: the client's id is the https URL of its metadata.

draft-ietf-oauth-client-id-metadata-document: fetched from a public address only, no redirect followed, at
most 5 KiB, kept as long as HTTP says.
"""

import json
import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from keystile_auth.clients import metadata, redirect_uri
from keystile_auth.clients.client import Client, Source
from keystile_auth.errors import OAuthError
from keystile_auth.store.clients import ClientStore
from keystile_common.outbound import Document, OutboundError, OutboundUnavailableError, PublicFetcher

MAX_BYTES = 5 * 1024
MAX_URL_CHARACTERS = 1024
_DEFAULT_CACHE_SECONDS = 300
_USABLE_METHODS = ("none", "private_key_jwt")
_MAX_AGES = tuple(
    # What is said to shared caches, as ours is one, comes first.
    re.compile(rf"(?:^|,)\s*{name}=\"?([0-9]{{1,9}})\"?\s*(?:,|$)", re.IGNORECASE)
    for name in ("s-maxage", "max-age")
)
_SECONDS = re.compile("[0-9]{1,9}")
_NO_STORE = re.compile(r"(?:^|,)\s*(?:no-store|no-cache|private)\b", re.IGNORECASE)


def is_document_url(client_id: str) -> bool:
    """Whether `client_id` asks to be looked up as a metadata document."""
    return client_id.lower().startswith(("https:", "http:"))


class MetadataDocuments:
    """Fetches, checks and caches metadata documents."""

    def __init__(
        self,
        store: ClientStore,
        fetcher: PublicFetcher,
        private_use_schemes: list[str],
        max_cache_seconds: int,
        kept_seconds: int,
    ) -> None:
        self._store = store
        self._fetcher = fetcher
        self._schemes = private_use_schemes
        self._max_cache = max_cache_seconds
        self._kept = kept_seconds

    async def cached(self, url: str) -> Client | None:
        """The client of a document that is still fresh, or None."""
        document = await self._store.cached_document(url)
        return Client.from_json(document) if document else None

    async def fetch(self, url: str) -> Client:
        """Fetch and check the document at `url`; while its host is away, the one it had before goes on.

        Raises:
            OAuthError: `invalid_client`, with a sentence for the client's developer: the URL, the answer or
                the metadata is not as it must be.
            StoreUnavailableError: the store is away.
        """
        _check_url(url)
        try:
            document = await self._fetcher.get(url, max_bytes=MAX_BYTES)
        except OutboundError as problem:
            kept = await self._store.kept_document(url) if isinstance(problem, OutboundUnavailableError) else None
            if kept is not None:
                return Client.from_json(kept)
            raise OAuthError("invalid_client", f"the metadata document could not be had: {problem}") from None
        client = self._client(url, document.body)
        seconds = _cache_seconds(document, self._max_cache)
        if seconds > 0:
            await self._store.cache_document(url, client.to_json(), seconds, self._kept)
        return client

    def _client(self, url: str, body: bytes) -> Client:
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise OAuthError("invalid_client", "the metadata document is not a JSON object")
        if content.get("client_id") != url:
            raise OAuthError("invalid_client", "client_id in the metadata document is not the URL it was fetched from")
        if not isinstance(content.get("client_name"), str):
            raise OAuthError("invalid_client", "the metadata document has no client_name")
        if any(name in content for name in ("client_secret", "client_secret_expires_at")):
            raise OAuthError("invalid_client", "the metadata document must not contain a client_secret")
        try:
            checked = metadata.check(content, self._schemes, ("none",))
            methods = tuple(method for method in checked.auth_methods if method in _USABLE_METHODS)
            if not methods:
                raise OAuthError(
                    "invalid_client_metadata",
                    f"the authentication method must be one of {', '.join(_USABLE_METHODS)}",
                )
        except OAuthError as problem:
            raise OAuthError("invalid_client", f"the metadata document: {problem.description}") from None
        has_keys = checked.jwks is not None or checked.jwks_uri is not None
        return Client(
            id=url,
            name=checked.name,
            source=Source.METADATA_DOCUMENT,
            redirect_uris=checked.redirect_uris,
            # A client that could sign but shows no key can only be public.
            auth_methods=methods if has_keys else tuple(m for m in methods if m == "none") or methods,
            grant_types=checked.grant_types,
            client_uri=checked.client_uri,
            jwks=checked.jwks,
            jwks_uri=checked.jwks_uri,
        )


def _check_url(url: str) -> None:
    sentence = None
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        raise OAuthError("invalid_client", "client_id is not a URL") from None
    if len(url) > MAX_URL_CHARACTERS or not re.fullmatch(r"[\x21-\x7E]+", url) or redirect_uri.has_odd_character(url):
        sentence = f"must be at most {MAX_URL_CHARACTERS} characters of ASCII without spaces, quotes or backslashes"
    elif parts.scheme != "https" or not url.startswith("https://"):
        sentence = "must be https"
    elif not parts.hostname or parts.username is not None or parts.password is not None or "#" in url:
        sentence = "must have a host and no user, password or fragment"
    elif parts.path in {"", "/"}:
        sentence = "must have a path"
    elif any(segment.lower().replace("%2e", ".") in {".", ".."} for segment in parts.path.split("/")):
        sentence = "must have no dot segments"
    if sentence:
        raise OAuthError("invalid_client", f"client_id as a URL {sentence}")


def _cache_seconds(document: Document, most: int) -> int:
    """How long HTTP lets a shared cache keep the document (RFC 9111 section 4.2), bounded by `most`."""
    control = document.headers.get("cache-control", "")
    if _NO_STORE.search(control):
        return 0
    age = document.headers.get("age", "0")
    spent = int(age) if _SECONDS.fullmatch(age) else 0
    match = next(filter(None, (pattern.search(control) for pattern in _MAX_AGES)), None)
    if match:
        return max(0, min(int(match[1]) - spent, most))
    if "expires" not in document.headers:
        return min(_DEFAULT_CACHE_SECONDS, most)
    expires = _date(document.headers["expires"])
    if expires is None:  # such as 0, which means the past (RFC 9111 section 5.3)
        return 0
    date = _date(document.headers.get("date", "")) or datetime.now(UTC)
    return max(0, min(int((expires - date).total_seconds()) - spent, most))


def _date(text: str) -> datetime | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
