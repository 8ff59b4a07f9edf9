"""Who issues tokens that are honoured here: the main issuer, and older ones for a while."""

from dataclasses import dataclass, field
from functools import cached_property

from keystile_mcp.issuer_settings import IntrospectionSettings, JwksSettings, RevocationSettings
from keystile_mcp.providers import GOOGLE_TOKEN_INFO, Method, Provider, ScopeClaim


@dataclass(frozen=True)
class Issuer:
    """One issuer, and how its tokens are to be read.

    Attributes:
        identifier: the issuer's own (RFC 8414 section 2).
        provider: what kind of server it is.
        resource: this resource's identifier.
        audiences: those that its tokens for this resource have; one will do.
        method: how its tokens are checked.
        introspection: how it is asked.
        jwks: how its keys are had.
        revocations: how it tells of revocations.
        scope_prefix: what its names of scopes begin with, for clients and maybe in tokens.
        scope_claim: where scopes are; None for the provider's usual place.
        until: Unix time from which its tokens are honoured no more, or None.
    """

    identifier: str
    provider: Provider
    resource: str
    audiences: tuple[str, ...]
    method: Method
    introspection: IntrospectionSettings
    jwks: JwksSettings
    revocations: RevocationSettings = field(default_factory=RevocationSettings)
    scope_prefix: str = ""
    scope_claim: ScopeClaim | None = None
    until: float | None = None

    @cached_property
    def names(self) -> frozenset[str]:
        """What `iss` may be in its tokens."""
        return self.provider.names(self.identifier)

    @property
    def is_keystile(self) -> bool:
        """Whether its opaque tokens have Keystile's form."""
        return self.provider.name == "keystile"

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What its tokens may be signed with."""
        return tuple(self.jwks.algorithms or self.provider.algorithms)

    @property
    def introspection_url(self) -> str | None:
        """Where its tokens are introspected; None where its metadata are to say so."""
        if self.introspection.url is not None:
            return self.introspection.url
        if self.provider.name == "google":
            return GOOGLE_TOKEN_INFO
        return self.identifier.rstrip("/") + "/introspect" if self.provider.name == "keystile" else None

    @property
    def polls(self) -> bool:
        """Whether it is asked for revocations: only Keystile is, by a resource that it knows."""
        return self.is_keystile and self.revocations.poll and self.introspection.client_id is not None

    @property
    def events_url(self) -> str:
        """Where Keystile is polled for revocations: beside introspection, unless the settings say where."""
        return self.revocations.url or self._beside_introspection("events/poll")

    @property
    def event_keys(self) -> JwksSettings:
        """How the keys are had that its security events are signed with: those of its tokens."""
        if self.jwks.url is not None:
            return self.jwks
        given = {"url": self._beside_introspection("jwks"), "ca_file": self.introspection.ca_file}
        return self.jwks.model_copy(update=given)

    @property
    def pushes(self) -> bool:
        """Whether security events that it sends are accepted."""
        return self.revocations.push.accept

    @property
    def pushes_as(self) -> str:
        """What `iss` is in those."""
        return self.revocations.push.issuer or self.identifier

    @property
    def pushed_audiences(self) -> tuple[str, ...]:
        """What `aud` is in those; one will do."""
        return tuple(self.revocations.push.audience) or self.audiences

    @property
    def pushed_keys(self) -> JwksSettings:
        """How the keys are had that those are signed with."""
        url = self.revocations.push.jwks_url
        return self.jwks if url is None else self.jwks.model_copy(update={"url": url})

    def _beside_introspection(self, name: str) -> str:
        base = self.introspection.url or f"{self.identifier.rstrip('/')}/introspect"
        return base.rpartition("/")[0] + f"/{name}"
