"""The settings of the embedded topology: those of both services, each by the name it has there."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, model_validator

from keystile_auth.cli.session import DATA_FOLDER, CommandError
from keystile_auth.settings import AuthListen, AuthSettings, ResourceSettings
from keystile_common.settings import CONFIG_VARIABLE, SECRETS_VARIABLE, PublicUrl, load
from keystile_mcp.settings import (
    POLICY,
    REQUIRED_SCOPES,
    SCOPES,
    AppName,
    DeclaredScope,
    Origin,
    Resource,
    ResourceServerSettings,
    ScopeName,
    UpstreamSettings,
)

OWN = "mcp"
"""The name of this process's own resource among `resources`."""

RESERVED = frozenset({
    ".well-known", "account", "authorize", "consent", "events", "healthz", "introspect", "jwks", "login", "readyz",
    "register", "revoke", "saml", "static", "token",
})  # fmt: skip
"""What stands behind the issuer's path, and so cannot be the resource's path."""


class OwnResourceSettings(ResourceSettings):
    """The resource that this process serves. It reads the store itself, so at /introspect it has no way in."""

    @model_validator(mode="after")
    def _has_one_proof(self) -> Self:
        return self


class EmbeddedListen(AuthListen):
    """Where clients and browsers connect."""

    port: int = Field(default=3232, ge=0, le=65535)


class EmbeddedSettings(AuthSettings):
    """Everything that the embedded topology can be told.

    `resources` are MCP servers elsewhere that get their tokens here too.
    """

    resource: Resource | None = None
    resource_name: str = Field(default="Keystile reference server", min_length=1, max_length=80)
    resource_documentation: PublicUrl | None = None
    scopes: dict[ScopeName, Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]] = Field(
        default=SCOPES, min_length=1
    )
    required_scopes: list[DeclaredScope] = Field(default=REQUIRED_SCOPES, validate_default=True)
    policy: dict[str, list[DeclaredScope]] = Field(default=POLICY, validate_default=True)
    user_scopes: dict[str, list[str]] = {}
    allowed_origins: list[Origin] = []
    app: AppName | None = None
    upstream: UpstreamSettings = UpstreamSettings()
    mcp_sessions: Literal["process", "none"] = "process"
    resources: dict[str, ResourceSettings] = {}
    listen: EmbeddedListen = EmbeddedListen()
    drain_seconds: int = Field(default=20, ge=0)
    data_dir: Path = Path(DATA_FOLDER)

    @property
    def own_resource(self) -> str:
        """The resource identifier: as set, else `/mcp` at the issuer's origin."""
        return self.resource or f"{_origin(self.issuer)}/mcp"

    @property
    def has_own_store(self) -> bool:
        """Whether the store is a child of this process."""
        return not (self.store.sentinels or self.store.cluster or "url" in self.store.model_fields_set)

    @property
    def store_folder(self) -> Path:
        """Where the own store keeps its files."""
        return self.data_dir.absolute() / "valkey"

    @property
    def appendfsync(self) -> Literal["always", "everysec"]:
        """When the own store makes sure that its file is on the disk."""
        return "always" if self.store.durability == "fsync" else "everysec"

    @property
    def all_resources(self) -> Mapping[str, ResourceSettings]:
        """This process's own, and those elsewhere."""
        own = OwnResourceSettings(
            uri=self.own_resource,
            title=self.resource_name,
            scopes=dict(self.scopes),
            user_scopes=self.user_scopes,
        )
        return {OWN: own, **self.resources}

    @property
    def resource_server(self) -> ResourceServerSettings:
        """What the resource server is told."""
        return ResourceServerSettings(
            resource=self.own_resource,
            resource_name=self.resource_name,
            resource_documentation=self.resource_documentation,
            authorization_server=self.issuer,
            scopes=dict(self.scopes),
            required_scopes=self.required_scopes,
            policy=self.policy,
            allowed_origins=self.allowed_origins,
            app=self.app,
            upstream=self.upstream,
            sessions=self.mcp_sessions,
        )

    def with_store_at(self, url: str) -> Self:
        """These settings, with the store at `url`."""
        return self.model_copy(update={"store": self.store.model_copy(update={"url": url})})

    @model_validator(mode="after")
    def _is_one_origin(self) -> Self:
        if _origin(self.own_resource) != _origin(self.issuer):
            raise ValueError(
                f"resource must begin with {_origin(self.issuer)}, as issuer does: one process has one public origin"
            )
        prefix, path = urlsplit(self.issuer).path, urlsplit(self.own_resource).path
        first = path.removeprefix(f"{prefix}/").split("/")[0]
        if path.split("/")[1] in RESERVED or path == prefix or (path.startswith(f"{prefix}/") and first in RESERVED):
            raise ValueError(f"resource: {path} is a path of the authorization server; /mcp is a usual one")
        if self.app is not None and self.upstream.url is not None:
            raise ValueError("app and upstream.url: give one of them, or neither for the reference server")
        if OWN in self.resources:
            raise ValueError(f"resources.{OWN}: is the name of the resource in this process; choose another")
        return self

    @model_validator(mode="after")
    def _own_store_has_no_login(self) -> Self:
        login = self.store.model_fields_set & {"username", "password"}
        if self.has_own_store and login:
            raise ValueError(f"store.{min(login)}: is for a store elsewhere, and none is named")
        return self

    @model_validator(mode="after")
    def _own_store_has_no_replica(self) -> Self:
        if self.has_own_store and self.store.durability == "replicated":
            raise ValueError(
                "store.durability: replicated needs a store with a replica, and this process's own has none; "
                "name one, or take fsync"
            )
        return self


def load_of_running(environ: Mapping[str, str]) -> EmbeddedSettings:
    """The settings of a server that runs, for commands that look into its store.

    Without settings in `environ` they are those of the development server whose folder is here.

    Raises:
        CommandError: it has a store of its own and does not run.
        SettingsError: as `keystile_common.settings.load`.
    """
    folder = Path(environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER))
    if not is_set_up(environ):
        environ = in_folder(folder, environ)
    settings = load(EmbeddedSettings, environ)
    if not settings.has_own_store:
        return settings
    try:
        socket = (settings.store_folder / "socket").read_text()
    except OSError:
        raise CommandError(
            f"No server runs on {settings.data_dir.absolute()}: its store is its own, so start it first, "
            "or name its folder in KEYSTILE_DATA_DIR."
        ) from None
    return settings.with_store_at(f"unix://{socket}?db=0")


def is_set_up(environ: Mapping[str, str]) -> bool:
    """Whether somebody gave settings; else it is the development server that is asked for."""
    return CONFIG_VARIABLE in environ or "KEYSTILE_ISSUER" in environ


def in_folder(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`environ`, with the settings that a development server wrote into `folder` below it."""
    files = {CONFIG_VARIABLE: str(folder / "embedded.yaml"), SECRETS_VARIABLE: str(folder / "secrets" / "embedded")}
    return {**environ, **files}


def _origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"
