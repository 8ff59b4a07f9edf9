"""The settings of the MCP resource server."""

import datetime
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationInfo, field_validator, model_validator

from keystile_common.settings import (
    Listen,
    PublicUrl,
    Section,
    ServiceListen,
    ServiceSettings,
    StoreSettings,
    is_loopback_host,
)
from keystile_mcp import request_state
from keystile_mcp.issuer_settings import IssuerSettings, TrustedIssuerSettings
from keystile_mcp.issuers import Issuer
from keystile_mcp.providers import PROVIDERS, method_of

MAX_BODY_BYTES = 4 * 1024 * 1024
"""The most that a request to the MCP endpoint may bring."""


# Of the reference server.
SCOPES = {
    "mcp:basic": "Use the basic tools: echo, add, who am I",
    "mcp:jobs": "Start long-running jobs",
}
REQUIRED_SCOPES = ["mcp:basic"]
POLICY = {"long_running": ["mcp:jobs"]}


def _resource(value: str) -> str:
    path = urlsplit(value).path
    if not path.strip("/") or path.endswith("/") or "//" in path:
        raise ValueError("must have a path without a trailing slash, such as https://tools.example.com/mcp")
    return value


def _upstream_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname or url.username or url.password or url.fragment:
        raise ValueError("must be the URL of an MCP endpoint, without user or password, such as http://tools:8080/mcp")
    return value


def _origin(value: str) -> str:
    url = urlsplit(value)
    if not url.scheme or not url.hostname or value != f"{url.scheme}://{url.netloc}" or {"*", "@"} & set(value):
        raise ValueError("must be one origin as browsers send it, such as https://app.example.com")
    return value


def _app_name(value: str) -> str:
    module, _, name = value.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *name.split("."))):
        raise ValueError("must be module:name, such as mypackage.server:mcp")
    return value


def _declared(value: str, info: ValidationInfo) -> str:
    scopes = info.data.get("scopes")
    if scopes is not None and value not in scopes:
        raise ValueError(f"{value} is not among scopes; they are {', '.join(sorted(scopes)) or 'none'}")
    return value


Resource = Annotated[PublicUrl, AfterValidator(_resource)]
"""A protected resource's identifier (RFC 9728 section 1.2), and here the URL of its MCP endpoint."""

ScopeName = Annotated[str, Field(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+$")]
"""A scope token as RFC 6749 section 3.3 spells it."""

DeclaredScope = Annotated[str, AfterValidator(_declared)]
"""A scope that the setting `scopes` has a sentence for."""

AppName = Annotated[str, AfterValidator(_app_name)]
"""Where a Python object is found, as module:name."""

Origin = Annotated[str, AfterValidator(_origin)]
UpstreamUrl = Annotated[str, AfterValidator(_upstream_url)]


class McpListen(ServiceListen):
    """Where MCP clients connect."""

    port: int = Field(default=3232, ge=0, le=65535)


class MetricsListen(Listen):
    """Where Prometheus connects."""

    port: int = Field(default=9465, ge=0, le=65535)


class UpstreamSettings(Section):
    """An MCP server behind this one, which gets the requests that are let through.

    It is shown `bearer` or the token in `token_file`, or neither; the client's own token never. With
    `identity_key_file` each request says who makes it, in the header `Keystile-Identity`: a JWT signed with that key.
    """

    url: UpstreamUrl | None = None
    bearer: SecretStr | None = Field(default=None, min_length=1)
    token_file: Path | None = None
    identity_key_file: Path | None = None
    ca_file: Path | None = None
    connect_timeout_seconds: float = Field(default=2, gt=0, le=30)
    connections: int = Field(default=256, ge=1)

    @model_validator(mode="after")
    def _has_at_most_one_proof(self) -> Self:
        if self.url is None and self.model_fields_set - {"url"}:
            raise ValueError("needs url, the MCP endpoint that the rest is about")
        if self.bearer is not None and self.token_file is not None:
            raise ValueError("takes bearer or token_file, not both")
        return self


class HandoverSettings(Listen):
    """Where this replica takes over requests of sessions that live in it, from the other replicas and nobody else.

    `address` is how they reach it, host and port; the one that is listened on when left out.
    """

    port: int = Field(default=3233, ge=0, le=65535)
    address: str | None = Field(default=None, pattern=r"^(\[[0-9a-f:]+\]|[A-Za-z0-9.-]+):[0-9]+$")
    connect_timeout_seconds: float = Field(default=1, gt=0, le=10)

    @property
    def reachable_at(self) -> str:
        """Host and port for the other replicas."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return self.address or f"{host}:{self.port}"


class ResourceServerSettings(ServiceSettings):
    """What a resource server is told, however it learns about tokens."""

    resource: Resource
    resource_name: str = "Keystile reference server"
    resource_documentation: PublicUrl | None = None
    authorization_server: PublicUrl
    scopes: dict[ScopeName, Annotated[str, Field(min_length=1)]] = SCOPES
    required_scopes: list[DeclaredScope] = Field(default=REQUIRED_SCOPES, validate_default=True)
    policy: dict[str, list[DeclaredScope]] = Field(default=POLICY, validate_default=True)
    allowed_origins: list[Origin] = []
    app: AppName | None = None
    upstream: UpstreamSettings = UpstreamSettings()
    # Sessions of revisions before 2026-07-28 live in the process that opened them. With several replicas they need the
    # store, by which the replicas find them; or there can be none: then each request is served alone, and what a server
    # would say outside of a call is not delivered.
    sessions: Literal["process", "shared", "none"] = "process"
    store: StoreSettings = StoreSettings()
    handover: HandoverSettings = HandoverSettings()
    request_state_key: SecretStr | None = None
    listen: McpListen = McpListen()
    metrics: MetricsListen = MetricsListen()
    drain_seconds: int = Field(default=20, ge=0)

    @field_validator("request_state_key")
    @classmethod
    def _request_state_key_is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None:
            request_state.decode_key(key)
        return key

    @model_validator(mode="after")
    def _serves_one_thing(self) -> Self:
        if self.app is not None and self.upstream.url is not None:
            raise ValueError("app and upstream.url: give one of them, or neither for the reference server")
        return self

    @property
    def endpoint_path(self) -> str:
        """The path of the MCP endpoint, which is that of the resource identifier."""
        return urlsplit(self.resource).path

    @property
    def is_local(self) -> bool:
        """Whether the resource is reached on this machine only."""
        return is_loopback_host(urlsplit(self.resource).hostname)

    @property
    def issuer_names(self) -> frozenset[str]:
        """The issuers whose tokens are honoured."""
        return frozenset({self.authorization_server})

    @property
    def advertised_prefix(self) -> str:
        """What clients put before a scope of this resource when they ask for it."""
        return ""


class McpSettings(IssuerSettings, ResourceServerSettings):
    """Everything that the MCP resource server can be told."""

    trusted_issuers: list[TrustedIssuerSettings] = []

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.check_possible(self.authorization_server)
        demanded = {*self.required_scopes, *(scope for scopes in self.policy.values() for scope in scopes)}
        own = sorted(scope for scope in demanded if scope != "openid" and not scope.startswith("https://"))
        if self.provider == "google" and own:
            raise ValueError(
                f"Google has no scope {own[0]}; name scopes of Google's in scopes, required_scopes and policy"
            )
        return self

    @model_validator(mode="after")
    def _has_one_issuer_a_token(self) -> Self:
        issuers = self.issuers
        names = [name for issuer in issuers for name in issuer.names]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"trusted_issuers: {twice[0]} is there twice")
        for is_ours in (True, False):
            asked = [each for each in issuers if each.method == "introspection" and is_ours == each.is_keystile]
            if len(asked) > 1:
                raise ValueError(
                    f"trusted_issuers: an opaque token does not say whether {asked[0].identifier} or "
                    f"{asked[1].identifier} issued it; one of the two needs validation jwks"
                )
        return self

    @model_validator(mode="after")
    def _has_one_issuer_a_pushed_event(self) -> Self:
        names = [issuer.pushes_as for issuer in self.issuers if issuer.pushes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"revocations.push: {twice[0]} would send events of two issuers; accept those of one")
        return self

    @cached_property
    def issuers(self) -> tuple[Issuer, ...]:
        """Whose tokens are honoured, the main issuer first."""
        main = _issuer(self, self.authorization_server, self.resource, None)
        older = [_issuer(each, each.issuer, self.resource, each.until) for each in self.trusted_issuers]
        return (main, *older)

    @property
    def issuer_names(self) -> frozenset[str]:
        """The issuers whose tokens are honoured."""
        return frozenset(issuer.identifier for issuer in self.issuers)

    @property
    def advertised_prefix(self) -> str:
        """What clients put before a scope of this resource when they ask the main issuer for it."""
        return self.issuers[0].scope_prefix


def _issuer(settings: IssuerSettings, identifier: str, resource: str, until: datetime.date | None) -> Issuer:
    provider = PROVIDERS[settings.provider]
    usual_prefix = f"{resource}/" if provider.qualifies_scopes else ""
    midnight = None if until is None else datetime.datetime.combine(until, datetime.time(), datetime.UTC).timestamp()
    return Issuer(
        identifier=identifier,
        provider=provider,
        resource=resource,
        audiences=tuple(settings.audience) or (resource,),
        method=method_of(provider, settings.validation),
        introspection=settings.introspection,
        jwks=settings.jwks,
        revocations=settings.revocations,
        scope_prefix=usual_prefix if settings.scope_prefix is None else settings.scope_prefix,
        scope_claim=settings.scope_claim,
        until=midnight,
    )
