"""What an operator says of an identity."""

from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, TypeAdapter, model_validator

from keystile_auth.identity.ldap.settings import LdapSettings
from keystile_common.settings import HostName, PublicUrl, Section, is_loopback_host

Preset = Literal["generic", "google", "entra", "okta", "keycloak", "auth0", "github"]
IdentityName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
"""A name that can stand in a URL, a metric and before a slash."""

HeaderName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,63}$")]
"""The name of an HTTP header, without underscores: some servers take these for hyphens."""


def _certificate_name(value: str) -> str:
    if "://" in value:
        if not value.isascii() or not value.isprintable() or " " in value:
            raise ValueError("must be a host name, or a URI such as spiffe://example.com/proxy")
        return value
    return _HOST_NAMES.validate_python(value)


_HOST_NAMES = TypeAdapter[str](HostName)
CertificateName = Annotated[str, AfterValidator(_certificate_name)]
"""A subject alternative name of a certificate: a host name, or a URI."""


def _metadata_url(value: str) -> str:
    url = urlsplit(value)
    secure = url.scheme == "https" or (url.scheme == "http" and is_loopback_host(url.hostname))
    if not secure or not url.hostname or url.fragment or url.username or url.password or not value.isascii():
        raise ValueError("must be an https URL without fragment, user or password")
    return value


MetadataUrl = Annotated[str, AfterValidator(_metadata_url)]
"""Where a document is fetched from: https, or http on a loopback host; with a query, if it must be."""

_ISSUERS = {"google": "https://accounts.google.com", "github": "https://github.com"}
_OF_OIDC = {
    "preset", "issuer", "client_id", "client_secret", "scopes", "userinfo", "username_claim", "groups_claim",
    "required_claims", "anyone", "recheck", "ca_file",
}  # fmt: skip
_OF_SAML = {
    "metadata_url", "metadata_file", "metadata_certificate_file", "entity_id", "idp_entity_id", "name_id_format",
    "subject_claim", "leeway_seconds", "key", "certificate", "username_claim", "groups_claim", "required_claims",
    "ca_file", "domains", "recheck_seconds",
}  # fmt: skip
_OF_KIND = {
    "local": set[str](),
    "saml": _OF_SAML,
    "oidc": _OF_OIDC | {"domains", "recheck_seconds", "recheck_allowance_seconds"},
    "ldap": {*LdapSettings.model_fields, "recheck_seconds", "recheck_allowance_seconds"},
    "plugin": {"plugin", "recheck_seconds", "recheck_allowance_seconds"},
    "header": {
        "certificate_names",
        "user_header",
        "name_header",
        "email_header",
        "groups_header",
        "groups_separator",
        "recheck_seconds",
    },
}


class _AnyIdentity(Section):
    kind: Literal["local", "oidc", "saml", "ldap", "plugin", "header"]
    title: str | None = Field(default=None, min_length=1, max_length=80)


class IdentitySettings(LdapSettings, _AnyIdentity):
    """Who says who somebody is; by default local users alone ([how to set each up](identity.md)).

    `kind` is `local`, `oidc`, `saml`, `ldap`, `plugin` or `header`; the others of these settings are for the kind that
    they speak of.
    """

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
    metadata_url: MetadataUrl | None = None
    metadata_file: Path | None = None
    metadata_certificate_file: Path | None = None
    entity_id: str | None = Field(default=None, min_length=1, max_length=1024)
    idp_entity_id: str | None = Field(default=None, min_length=1, max_length=1024)
    name_id_format: Literal["persistent", "email", "unspecified", "transient"] = "persistent"
    subject_claim: str | None = Field(default=None, min_length=1)
    leeway_seconds: int = Field(default=60, ge=0, le=300)
    key: SecretStr | None = None
    certificate: str | None = None
    plugin: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    certificate_names: list[CertificateName] = []
    user_header: HeaderName = "X-Remote-User"
    name_header: HeaderName | None = None
    email_header: HeaderName | None = None
    groups_header: HeaderName | None = None
    groups_separator: str = Field(default=",", min_length=1, max_length=8)
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
        if self.kind == "ldap":
            self.check_ldap()
        if self.kind == "header":
            self._check_header()
        if self.kind == "saml":
            self._check_saml()
        return self

    def _check_saml(self) -> None:
        if (self.metadata_url is None) == (self.metadata_file is None):
            raise ValueError("needs exactly one of metadata_url and metadata_file, the identity provider's metadata")
        if (self.key is None) != (self.certificate is None):
            raise ValueError("needs key and certificate, or neither")
        if self.name_id_format == "transient" and self.subject_claim is None:
            raise ValueError("subject_claim is missing; a transient NameID is another one at each sign-in")
        if self.ca_file and self.metadata_file:
            raise ValueError("ca_file is for metadata_url")

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

    def _check_header(self) -> None:
        if not self.certificate_names:
            raise ValueError("certificate_names is missing: the names in the proxy's certificate")
        headers = [self.user_header, self.name_header, self.email_header, self.groups_header]
        given = [each.lower() for each in headers if each]
        if len(set(given)) != len(given):
            raise ValueError("user_header, name_header, email_header and groups_header are different headers")

    @property
    def issuer_url(self) -> str:
        """The issuer, which some presets know themselves."""
        return self.issuer or _ISSUERS[self.preset]
