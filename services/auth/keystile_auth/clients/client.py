"""A client, whatever made it known."""

import json
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

AUTH_METHODS = ("none", "client_secret_basic", "client_secret_post", "private_key_jwt")
"""What `token_endpoint_auth_method` may be."""


_REMEMBERED = 256
"""Documents that were read; the same few clients come again and again."""


class Source(StrEnum):
    """What made a client known."""

    REGISTRATION = "registration"
    METADATA_DOCUMENT = "metadata_document"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A client whose metadata was checked.

    `auth_methods` holds every method it may use (a registered client has one). `secret_hash` and
    `registration_token_hash` are SHA-256 in hex: the secrets themselves are random, not chosen by people.
    `scopes` and `resources` bound what it may get for itself; None means no bound of its own.
    """

    id: str
    name: str
    source: Source
    redirect_uris: tuple[str, ...] = ()
    auth_methods: tuple[str, ...] = ("none",)
    grant_types: tuple[str, ...] = ("authorization_code",)
    client_uri: str | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: str | None = None
    scopes: tuple[str, ...] | None = None
    resources: tuple[str, ...] | None = None
    secret_hash: str | None = None
    service_account: str | None = None
    registration_token_hash: str | None = None
    issued: int = 0

    @property
    def is_confidential(self) -> bool:
        """Whether it must prove who it is."""
        return "none" not in self.auth_methods

    @property
    def host(self) -> str | None:
        """The host of its home page, which nobody has checked."""
        return urlsplit(self.client_uri).hostname if self.client_uri else None

    @property
    def verified_host(self) -> str | None:
        """The host that serves its metadata document, so speaks for it; None for any other client."""
        return urlsplit(self.id).netloc if self.source is Source.METADATA_DOCUMENT else None

    def to_json(self) -> str:
        """The document the store keeps."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, document: str) -> "Client":
        """The client of a document that `to_json` made."""
        return _read(document)


@lru_cache(_REMEMBERED)
def _read(document: str) -> Client:
    values = json.loads(document)
    for name in ("redirect_uris", "auth_methods", "grant_types", "scopes", "resources"):
        values[name] = None if values[name] is None else tuple(values[name])
    return Client(**{**values, "source": Source(values["source"])})
