"""The settings of one issuer of tokens, and how it is asked."""

import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from keystile_common.settings import PublicUrl, Section
from keystile_mcp.providers import PROVIDERS, Method, ProviderName, ScopeClaim, check, method_of


def _introspection_url(value: str) -> str:
    return _internal_url(value, "introspect")


def _key_set_url(value: str) -> str:
    return _internal_url(value, "jwks")


def _internal_url(value: str, example: str) -> str:
    # Not a PublicUrl: inside a cluster the authorization server may be reached by another name, without TLS.
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError(f"must be an absolute URL such as http://keystile-auth:3001/{example}")
    if url.fragment or url.username or url.password:
        raise ValueError("must have no fragment, user or password; credentials go into client_id and client_secret")
    return value


def _events_url(value: str) -> str:
    return _internal_url(value, "events/poll")


EventsUrl = Annotated[str, AfterValidator(_events_url)]
IntrospectionUrl = Annotated[str, AfterValidator(_introspection_url)]
KeySetUrl = Annotated[str, AfterValidator(_key_set_url)]


class IntrospectionSettings(Section):
    """How the authorization server is asked about tokens (RFC 7662), and how long its answers are kept."""

    url: IntrospectionUrl | None = None
    client_id: str | None = Field(default=None, min_length=1)
    client_secret: SecretStr | None = Field(default=None, min_length=1)
    token_file: Path | None = None
    private_key_file: Path | None = None
    ca_file: Path | None = None
    # A revoked token may be accepted for as long as an answer is kept.
    cache_seconds: float = Field(default=30, ge=0, le=60)
    negative_cache_seconds: float = Field(default=5, ge=0, le=60)
    cache_entries: int = Field(default=10_000, ge=1)
    # The caller is told within two seconds that the authorization server is away.
    timeout_seconds: float = Field(default=1.5, gt=0, le=1.8)
    connections: int = Field(default=32, ge=1)

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        given = (self.client_secret, self.token_file, self.private_key_file)
        if self.client_id is not None and sum(each is not None for each in given) != 1:
            raise ValueError(
                "needs exactly one of client_secret, token_file (with a service-account token) and private_key_file"
            )
        return self

    @model_validator(mode="after")
    def _authorities_are_for_https(self) -> Self:
        if self.ca_file is not None and self.url is not None and self.url.startswith("http:"):
            raise ValueError("ca_file is for an https url")
        return self


class JwksSettings(Section):
    """How access tokens that are JWTs are checked with the issuer's keys, where `validation` is `jwks`."""

    url: KeySetUrl | None = None
    ca_file: Path | None = None
    algorithms: list[Literal["ES256", "ES384", "PS256", "RS256", "Ed25519"]] | None = Field(default=None, min_length=1)
    refresh_seconds: float = Field(default=300, ge=10, le=3600)
    # The caller is told within two seconds that the keys cannot be had.
    timeout_seconds: float = Field(default=1.5, gt=0, le=1.8)

    @model_validator(mode="after")
    def _authorities_are_for_https(self) -> Self:
        if self.ca_file is not None and self.url is not None and self.url.startswith("http:"):
            raise ValueError("ca_file is for an https url")
        return self


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Audiences = Annotated[list[Annotated[str, Field(min_length=1)]], BeforeValidator(_as_list)]
"""One audience or several."""


class PushSettings(Section):
    """Security events that an issuer sends here (RFC 8935)."""

    accept: bool = False
    audience: Audiences = []
    bearer: SecretStr | None = Field(default=None, min_length=16)
    # Some sign their events as somebody else than their tokens.
    issuer: PublicUrl | None = None
    jwks_url: KeySetUrl | None = None
    # No access token lives longer than a day, so an older event is of nothing that could still be used.
    max_age_seconds: float = Field(default=86_400, ge=60, le=604_800)

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        others = sorted(self.model_fields_set - {"accept"})
        if others and not self.accept:
            raise ValueError(f"{others[0]} is for accept: true")
        if self.issuer is not None and self.jwks_url is None:
            raise ValueError("issuer needs jwks_url, where the keys are that its events are signed with")
        return self


class RevocationSettings(Section):
    """How this resource hears of revocations as they happen.

    From Keystile it does so by polling (RFC 8936), with what it introspects with; others may push (RFC 8935).
    """

    poll: bool = True
    url: EventsUrl | None = None
    push: PushSettings = PushSettings()


class IssuerSettings(Section):
    """What is known of an issuer, and how its tokens are checked."""

    provider: ProviderName = "keystile"
    audience: Audiences = []
    validation: Method | None = None
    scope_prefix: str | None = None
    scope_claim: ScopeClaim | None = None
    introspection: IntrospectionSettings = IntrospectionSettings()
    jwks: JwksSettings = JwksSettings()
    revocations: RevocationSettings = RevocationSettings()

    def check_possible(self, issuer: str) -> None:
        """Raise ValueError unless tokens of `issuer` can be checked as these settings say; see `providers.check`."""
        provider = PROVIDERS[self.provider]
        if provider.name == "keystile" and self.revocations.push.accept:
            raise ValueError("revocations.push: Keystile sends no events, it is polled for them (revocations.poll)")
        check(
            provider,
            issuer,
            method=method_of(provider, self.validation),
            audience=bool(self.audience),
            scope_claim=self.scope_claim,
            client_id=self.introspection.client_id is not None,
        )


class TrustedIssuerSettings(IssuerSettings):
    """An issuer whose tokens are honoured beside those of `authorization_server`, before the day `until` begins."""

    issuer: PublicUrl
    until: datetime.date

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        self.check_possible(self.issuer)
        return self
