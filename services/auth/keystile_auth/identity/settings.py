"""What an operator says of an identity."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from keystile_common.settings import HostName, PublicUrl, Section

Preset = Literal["generic", "google", "entra", "okta", "keycloak", "auth0", "github"]
IdentityName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""A name that can stand in a URL, a metric and before a slash."""

_ISSUERS = {"google": "https://accounts.google.com", "github": "https://github.com"}
_OF_OIDC = {
    "preset", "issuer", "client_id", "client_secret", "scopes", "userinfo", "username_claim", "groups_claim",
    "required_claims", "anyone", "recheck", "ca_file",
}  # fmt: skip
_OF_KIND = {
    "local": set[str](),
    "oidc": _OF_OIDC | {"domains", "recheck_seconds", "recheck_allowance_seconds"},
    "plugin": {"plugin", "recheck_seconds", "recheck_allowance_seconds"},
}


class IdentitySettings(Section):
    """Who says who somebody is; by default local users alone ([how to set each up](identity.md)).

    `kind` is `local`, `oidc` or `plugin`; the others of these settings are for the kind that they speak of.
    """

    kind: Literal["local", "oidc", "plugin"]
    title: str | None = Field(default=None, min_length=1, max_length=80)
    domains: list[HostName] = []
    preset: Preset = "generic"
    issuer: PublicUrl | None = None
    client_id: str | None = Field(default=None, min_length=1)
    client_secret: SecretStr | None = None
    scopes: list[str] = []
    userinfo: bool = False
    username_claim: str | None = None
    groups_claim: str | None = None
    required_claims: dict[str, list[str]] = {}
    anyone: bool = False
    ca_file: Path | None = None
    plugin: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    recheck: Literal["refresh_token", "sign_in"] = "refresh_token"
    recheck_seconds: int = Field(default=3600, ge=1)
    recheck_allowance_seconds: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _is_of_its_kind(self) -> Self:
        foreign = self.model_fields_set - _OF_KIND[self.kind] - {"kind", "title"}
        if foreign:
            raise ValueError(f"{min(foreign)} is not a setting of the kind {self.kind}")
        if self.kind == "plugin" and self.plugin is None:
            raise ValueError("plugin is missing: package.module:factory")
        if self.kind == "oidc":
            self._check_oidc()
        return self

    def _check_oidc(self) -> None:
        if self.client_id is None:
            raise ValueError("client_id is missing")
        if self.issuer is None and self.preset not in _ISSUERS:
            raise ValueError("issuer is missing")
        if self.preset == "github" and self.client_secret is None:
            raise ValueError("client_secret is missing; GitHub has no clients without")
        # An account there is to be had by everybody: without a bound the whole world could sign in here.
        if self.preset in _ISSUERS and not self.required_claims and not self.anyone:
            raise ValueError("required_claims must say who may sign in; anyone: true lets in every account there is")

    @property
    def issuer_url(self) -> str:
        """The issuer, which some presets know themselves."""
        return self.issuer or _ISSUERS[self.preset]
