"""The authorization server's settings."""

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, field_validator, model_validator

from keystile_auth.clients.metadata import check_key_set
from keystile_auth.errors import OAuthError
from keystile_auth.identity.settings import IdentityName, IdentitySettings
from keystile_common.settings import (
    DurableStoreSettings,
    HostName,
    Listen,
    ListenTls,
    PrivateNetwork,
    PublicUrl,
    Section,
    ServiceListen,
    ServiceSettings,
)

MASTER_KEY_BYTES = 32
MIN_SECRET_CHARACTERS = 32


def _long(secret: SecretStr) -> SecretStr:
    if len(secret.get_secret_value()) < MIN_SECRET_CHARACTERS:
        raise ValueError(f"must be at least {MIN_SECRET_CHARACTERS} characters: openssl rand -hex 32")
    return secret


Secret = Annotated[SecretStr, AfterValidator(_long)]
"""A random secret between two programs."""

ServiceAccount = Annotated[str, Field(pattern=r"^[a-z0-9-]+/[a-z0-9.-]+$")]
"""A Kubernetes service account, as namespace/name."""


class ProofSettings(Section):
    """What another program proves itself by, exactly one: `secret`, in a cluster `service_account`, or its own keys.

    With `jwks` (the key set itself) or `jwks_uri` (where it is served) it signs a client assertion, private_key_jwt
    of RFC 7523.
    """

    secret: Secret | None = None
    service_account: ServiceAccount | None = None
    jwks: dict[str, Any] | None = None
    jwks_uri: PublicUrl | None = None

    @field_validator("jwks")
    @classmethod
    def _keys_are_public(cls, jwks: dict[str, Any] | None) -> dict[str, Any] | None:
        try:
            if jwks is not None:
                check_key_set(jwks)
        except OAuthError as problem:
            raise ValueError(problem.description) from None
        return jwks

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        given = [self.secret, self.service_account, self.jwks, self.jwks_uri]
        if sum(each is not None for each in given) != 1:
            raise ValueError("needs exactly one of secret, service_account, jwks and jwks_uri as its proof")
        return self


class ResourceSettings(ProofSettings):
    """A protected resource: an MCP server that this server issues tokens for.

    Its name in the map is its `client_id` at /introspect.
    """

    uri: PublicUrl
    title: str = Field(min_length=1, max_length=80)
    scopes: dict[str, str] = Field(min_length=1)
    default_scopes: list[str] = []
    access_token: Literal["opaque", "jwt"] = "opaque"
    user_scopes: dict[str, list[str]] = {}

    @field_validator("scopes")
    @classmethod
    def _scopes_are_tokens(cls, scopes: dict[str, str]) -> dict[str, str]:
        for name, text in scopes.items():
            if not name.isascii() or any(c <= " " or c in '"\\\x7f' for c in name):
                raise ValueError(f"the scope {name!r} must be printable ASCII without spaces, quotes or backslashes")
            if not text.strip():
                raise ValueError(f"the scope {name} needs a sentence that people read at consent")
        return scopes

    @model_validator(mode="after")
    def _defaults_exist(self) -> Self:
        unknown = [scope for scope in self.default_scopes if scope not in self.scopes]
        if unknown:
            raise ValueError(f"default_scopes names {', '.join(unknown)}, which scopes does not have")
        for who, granted in self.user_scopes.items():
            wrong = [scope for scope in granted if scope not in self.scopes]
            if wrong:
                raise ValueError(f"user_scopes.{who} names {wrong[0]}, which scopes does not have")
        return self


class TokenSettings(Section):
    """Lifetimes, and how many access tokens each process keeps in memory."""

    access_token_seconds: int = Field(default=900, ge=1, le=86400)
    refresh_token_seconds: int = Field(default=30 * 86400, ge=1)
    code_seconds: int = Field(default=60, ge=1, le=60)
    refresh_grace_seconds: int = Field(default=10, ge=0, le=60)
    client_cache: int = Field(default=0, ge=0, le=1_000_000)


class SigningKeySettings(Section):
    """Keys that sign access tokens of resources with `access_token: jwt`.

    `keystile keys rotate`, which the chart runs each day, rotates a key that is older than this.
    """

    rotate_after_seconds: int = Field(default=30 * 86400, ge=3600)


class SessionSettings(Section):
    """Sign-in sessions of people."""

    idle_seconds: int = Field(default=12 * 3600, ge=60)
    lifetime_seconds: int = Field(default=7 * 86400, ge=60)
    sign_in_seconds: int = Field(default=600, ge=10, le=3600)


class RegistrationSettings(Section):
    """Dynamic client registration, RFC 7591 and 7592.

    A registration that no user has consented to is forgotten after `unused_seconds`.
    """

    enabled: bool = True
    per_hour_and_address: int = Field(default=60, ge=1)
    unused_seconds: int = Field(default=30 * 86400, ge=60)
    private_use_schemes: list[str] = ["cursor"]

    @field_validator("private_use_schemes")
    @classmethod
    def _schemes_are_harmless(cls, schemes: list[str]) -> list[str]:
        for scheme in schemes:
            if not scheme.replace("-", "").replace(".", "").replace("+", "").isalnum() or scheme != scheme.lower():
                raise ValueError(f"{scheme!r} is not a lower-case URI scheme")
            if scheme in {
                "http",
                "https",
                "javascript",
                "data",
                "file",
                "vbscript",
                "blob",
                "about",
                "ftp",
                "ws",
                "wss",
            }:
                raise ValueError(f"{scheme} can never be a private-use scheme")
        return schemes


class MetadataDocumentSettings(Section):
    """Client ID Metadata Documents: a client's https URL is its id.

    `private_hosts` are hosts on site: each name, and the networks it may have an address in besides public ones.
    """

    enabled: bool = True
    allow_loopback: bool = False
    private_hosts: dict[HostName, Annotated[list[PrivateNetwork], Field(min_length=1)]] = {}
    ca_file: Path | None = None
    timeout_seconds: float = Field(default=3, gt=0, le=10)
    max_cache_seconds: int = Field(default=86400, ge=0)
    kept_seconds: int = Field(default=86400, ge=0)
    fetches_per_minute_and_address: int = Field(default=60, ge=1)


class SignInSettings(Section):
    """How people sign in and consent.

    With `always_ask_native_clients` a client on the user's own machine needs a click each time, though it was
    consented to before (RFC 8252 section 8.6: any program there could claim to be that client).
    """

    always_ask_native_clients: bool = False
    failures_per_5_minutes_and_user: int = Field(default=10, ge=1)
    failures_per_5_minutes_and_address: int = Field(default=50, ge=1)


class MachineClientSettings(ProofSettings):
    """A client that acts for itself (client_credentials), set up here instead of by `keystile clients add`.

    Its name in the map is its `client_id`.
    """

    title: str = Field(min_length=1, max_length=80)
    resources: list[str] = Field(min_length=1)
    scopes: list[str] = Field(min_length=1)


class KubernetesSettings(Section):
    """The cluster whose service accounts resources prove themselves by; its API server tells issuer and keys."""

    url: str = "https://kubernetes.default.svc"
    ca_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/ca.crt")
    token_file: Path = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


class AuthListenTls(ListenTls):
    """The server's own certificate, and the authorities whose certificates clients may show."""

    client_ca_file: Path | None = None

    @model_validator(mode="after")
    def _clients_have_somebody_to_show_it_to(self) -> Self:
        if self.client_ca_file is None:
            return self
        if self.certificate_file is None:
            raise ValueError("client_ca_file is for TLS; it needs certificate_file and key_file")
        if self.minimum_version == "1.2" and "minimum_version" in self.model_fields_set:
            raise ValueError("client_ca_file needs TLS 1.3; leave minimum_version out")
        return self


class AuthListen(ServiceListen):
    """Where the endpoints and pages are served."""

    tls: AuthListenTls = AuthListenTls()
    # The defaults stand in classes: a host alone in the settings must not lose the port.
    port: int = Field(default=3001, ge=0, le=65535)


class MetricsListen(Listen):
    """Where Prometheus scrapes."""

    port: int = Field(default=9464, ge=0, le=65535)


class AuthSettings(ServiceSettings):
    """Everything the authorization server can be told."""

    issuer: PublicUrl
    master_key: SecretStr
    resources: dict[str, ResourceSettings] = Field(min_length=1)
    clients: dict[str, MachineClientSettings] = {}
    identity: dict[IdentityName, IdentitySettings] = Field(
        default={"local": IdentitySettings(kind="local")}, min_length=1
    )
    listen: AuthListen = AuthListen()
    metrics: MetricsListen = MetricsListen()
    store: DurableStoreSettings = DurableStoreSettings()
    kubernetes: KubernetesSettings = KubernetesSettings()
    tokens: TokenSettings = TokenSettings()
    signing_keys: SigningKeySettings = SigningKeySettings()
    sessions: SessionSettings = SessionSettings()
    registration: RegistrationSettings = RegistrationSettings()
    metadata_documents: MetadataDocumentSettings = MetadataDocumentSettings()
    sign_in: SignInSettings = SignInSettings()

    @field_validator("issuer")
    @classmethod
    def _no_trailing_slash(cls, issuer: str) -> str:
        # RFC 8414 section 3.1 strips it to build the metadata's address, so two spellings would be one place.
        if issuer.endswith("/"):
            raise ValueError("must not end with a slash")
        return issuer

    @field_validator("master_key")
    @classmethod
    def _master_key_is_a_key(cls, key: SecretStr) -> SecretStr:
        decode_master_key(key)
        return key

    @property
    def all_resources(self) -> Mapping[str, ResourceSettings]:
        """Every resource that tokens are issued for."""
        return self.resources

    @model_validator(mode="after")
    def _cache_can_follow_the_store(self) -> Self:
        # A master that was replaced, or a node that lost a slot, goes on to say that nothing has changed.
        if self.tokens.client_cache and (self.store.sentinels or self.store.cluster):
            raise ValueError("tokens.client_cache works with store.url alone; leave it out with sentinels and clusters")
        return self

    @model_validator(mode="after")
    def _resources_differ(self) -> Self:
        uris = [resource.uri.rstrip("/").lower() for resource in self.all_resources.values()]
        if len(set(uris)) != len(uris):
            raise ValueError("resources: two of them have the same uri")
        return self

    @model_validator(mode="after")
    def _identities_are_told_apart(self) -> Self:
        for name, identity in self.identity.items():
            if (name == "local") != (identity.kind == "local"):
                raise ValueError(f"identity.{name}: the identity local, and no other, has the kind local")
        domains = [domain for identity in self.identity.values() for domain in identity.domains]
        if len(set(domains)) != len(domains):
            raise ValueError("identity: a domain belongs to one identity")
        for name, resource in self.all_resources.items():
            for who in resource.user_scopes:
                if who.partition("/")[0] not in self.identity:
                    raise ValueError(
                        f"resources.{name}.user_scopes.{who}: there is no identity {who.partition('/')[0]}"
                    )
        return self

    @model_validator(mode="after")
    def _headers_are_of_a_proxy_that_proves_itself(self) -> Self:
        names = [name for name, identity in self.identity.items() if identity.kind == "header"]
        tls = self.listen.tls
        if len(names) > 1:
            raise ValueError(f"identity.{names[1]}: one identity alone has the kind header, and {names[0]} has it")
        for name in names:
            if tls.certificate_file is None:
                raise ValueError(f"identity.{name}: the kind header needs listen.tls.certificate_file and key_file")
            if tls.client_ca_file is None:
                raise ValueError(
                    f"identity.{name}: the kind header needs listen.tls.client_ca_file, the authorities of the "
                    "proxy's certificate"
                )
        if tls.client_ca_file is not None and not names:
            raise ValueError(
                "listen.tls.client_ca_file: is for an identity of the kind header, and there is none; it keeps nobody "
                "out who has no certificate"
            )
        return self

    @model_validator(mode="after")
    def _clients_may_have_what_there_is(self) -> Self:
        known = {each.uri: set(each.scopes) for each in self.all_resources.values()}
        for name, client in self.clients.items():
            unknown = [uri for uri in client.resources if uri not in known]
            if unknown:
                raise ValueError(f"clients.{name}.resources: {unknown[0]} is not the uri of a resource here")
            offered = set().union(*(known[uri] for uri in client.resources))
            wrong = [scope for scope in client.scopes if scope not in offered]
            if wrong:
                raise ValueError(f"clients.{name}.scopes: {wrong[0]} is not a scope of its resources")
        return self


def decode_master_key(key: SecretStr) -> bytes:
    """The 32 bytes that `master_key` spells in base64.

    Raises:
        ValueError: it does not; the text says how to make one.
    """
    try:
        decoded = base64.b64decode(key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) != MASTER_KEY_BYTES:
        raise ValueError(f"must be {MASTER_KEY_BYTES} random bytes in base64: openssl rand -base64 32")
    return decoded
