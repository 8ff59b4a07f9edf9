"""Settings: one YAML file, `KEYSTILE_…` environment variables over it, secrets from mounted files.

Every setting has one name. `store.url` in YAML is `KEYSTILE_STORE__URL` in the environment and a file
named `store__url` in the secrets folder. A key that no setting has, or a value that cannot be right, is
refused with its path before anything starts.
"""

import ipaddress
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

PREFIX = "KEYSTILE_"
CONFIG_VARIABLE = "KEYSTILE_CONFIG"
SECRETS_VARIABLE = "KEYSTILE_SECRETS_DIR"
TOPOLOGY_VARIABLE = "KEYSTILE_TOPOLOGY"
# Read before the settings, or by the development servers alone; the services that these start inherit them.
DEVELOPMENT_VARIABLES = frozenset({"KEYSTILE_DEMO_PASSWORD", "KEYSTILE_DATA_DIR"})
_NO_SETTINGS = frozenset({CONFIG_VARIABLE, SECRETS_VARIABLE, TOPOLOGY_VARIABLE, *DEVELOPMENT_VARIABLES})
SEPARATOR = "__"
_MAX_PORT = 65535

_PRIVATE_NETWORKS = tuple(
    map(ipaddress.ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"))
)
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")


class SettingsError(Exception):
    """Settings that cannot be used. `str()` is text for a person, one line a problem, never a secret."""


class Section(BaseModel):
    """A group of settings: immutable, and closed to unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True)


SettingsT = TypeVar("SettingsT", bound=Section)


def _public_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must be an absolute https URL such as https://auth.example.com")
    if url.query or url.fragment or url.username or url.password:
        raise ValueError("must have no query, fragment, user or password")
    if url.scheme == "http" and not is_loopback_host(url.hostname):
        raise ValueError("must be https (plain http is accepted for 127.0.0.1, ::1 and localhost only)")
    if value != value.strip() or url.netloc != url.netloc.lower():
        raise ValueError("must be written with a lower-case host and no surrounding spaces")
    return value


def is_loopback_host(host: str | None) -> bool:
    """Whether `host` (no brackets, no port) names this machine only, as RFC 8252 section 7.3 means it."""
    return host in {"127.0.0.1", "::1", "localhost"}


PublicUrl = Annotated[str, AfterValidator(_public_url), WithJsonSchema({"type": "string", "pattern": "^https?://"})]
"""An absolute URL that clients see: https, or http on a loopback host. Kept byte for byte as written."""


def _store_url(value: str) -> str:
    url = urlsplit(value)
    if url.scheme not in {"redis", "rediss", "unix"} or not (url.hostname or url.path):
        raise ValueError("must be redis://host:6379/0, rediss:// for TLS, or unix:///path/to/socket")
    if url.username or url.password:
        raise ValueError("must have no user or password; they go into store.username and store.password")
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError:
        raise ValueError("must be an address or network such as 10.0.0.0/8") from None
    return value


def _private_network(value: str) -> str:
    network = ipaddress.ip_network(_network(value))
    for private in _PRIVATE_NETWORKS:
        # No network contains one of the other version.
        if private.version == network.version and network.subnet_of(private):  # type: ignore[arg-type]
            return value
    raise ValueError(f"must lie within one of {', '.join(map(str, _PRIVATE_NETWORKS))}")


def _host_name(value: str) -> str:
    # A last label that begins with a digit would make it an address to some parsers.
    if not _HOST_NAME.fullmatch(value) or value.rpartition(".")[2][0].isdigit():
        raise ValueError("must be a host name in lower case, such as documents.example.com")
    return value


StoreUrl = Annotated[str, AfterValidator(_store_url)]
Network = Annotated[str, AfterValidator(_network)]
"""An address, or a network in CIDR form."""
PrivateNetwork = Annotated[
    str,
    AfterValidator(_private_network),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-f.:]+(/[0-9]{1,3})?$"}),
]
"""The same, of a site's own: RFC 1918, RFC 6598 or RFC 4193; never loopback or link-local."""
HostName = Annotated[
    str, AfterValidator(_host_name), WithJsonSchema({"type": "string", "pattern": "^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$"})
]
"""A DNS name in lower case."""


class Listen(Section):
    """Where a server accepts connections."""

    host: str = "127.0.0.1"
    port: int = Field(default=0, ge=0, le=65535)


def _address(value: str) -> str:
    host, _, port = value.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if not re.fullmatch(r"[^\s/@\[\]]+", bare) or (":" in bare) != host.startswith("["):
        raise ValueError("must be host:port, such as node-0.example.com:6379, or [::1]:6379")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) <= _MAX_PORT:
        raise ValueError("must be host:port with a port from 1 to 65535")
    return value


Address = Annotated[str, AfterValidator(_address)]
"""A host and a port; an IPv6 address in brackets."""


class ListenTls(Section):
    """The server's own certificate; without one it speaks plain HTTP."""

    certificate_file: Path | None = None
    key_file: Path | None = None
    minimum_version: Annotated[Literal["1.2", "1.3"], BeforeValidator(str)] = "1.2"

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError("needs certificate_file and key_file, or neither")
        return self


class ServiceListen(Listen):
    """Where a service's endpoints are."""

    tls: ListenTls = ListenTls()


class StoreSettings(Section):
    """The Valkey or Redis that holds every state Keystile has: one server, a master with sentinels, or a cluster."""

    url: StoreUrl = "redis://127.0.0.1:6379/0"
    sentinels: list[Address] = []
    sentinel_master: str | None = None
    sentinel_username: str | None = None
    sentinel_password: SecretStr | None = None
    cluster: list[Address] = []
    tls: bool = False
    username: str | None = None
    password: SecretStr | None = None
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    max_connections: int = Field(default=64, ge=1)
    connect_timeout_seconds: float = Field(default=0.4, gt=0, le=2)
    command_timeout_seconds: float = Field(default=0.6, gt=0, le=2)
    # Both are started at once in a cluster, and the store is slower where it reads a long append-only file.
    start_seconds: float = Field(default=30, ge=0)

    @property
    def uses_tls(self) -> bool:
        """Whether every connection is encrypted, those to sentinels too."""
        return self.tls if self.sentinels or self.cluster else self.url.startswith("rediss://")

    @model_validator(mode="after")
    def _is_one_store(self) -> Self:
        named = ["url"] if "url" in self.model_fields_set else []
        named += [name for name in ("sentinels", "cluster") if getattr(self, name)]
        if len(named) > 1:
            raise ValueError(f"store.{named[0]} and store.{named[1]} name two stores; keep one of them")
        if bool(self.sentinels) != bool(self.sentinel_master):
            missing = "sentinel_master" if self.sentinels else "sentinels"
            raise ValueError(f"store.{missing} is missing; sentinels need store.sentinels and store.sentinel_master")
        if (self.sentinel_username or self.sentinel_password) and not self.sentinels:
            raise ValueError("store.sentinel_username and store.sentinel_password are for store.sentinels")
        return self

    @model_validator(mode="after")
    def _certificates_are_of_use(self) -> Self:
        by_url = not (self.sentinels or self.cluster)
        if self.tls and by_url:
            raise ValueError("store.tls is for store.sentinels and store.cluster; store.url says it with rediss://")
        for name in ("ca_file", "certificate_file", "key_file"):
            if getattr(self, name) and not self.uses_tls:
                how = "write store.url with rediss://" if by_url else "set store.tls"
                raise ValueError(f"store.{name} is for TLS; {how}, or leave it out")
        if bool(self.certificate_file) != bool(self.key_file):
            missing = "key_file" if self.certificate_file else "certificate_file"
            raise ValueError(f"store.{missing} is missing; a client certificate is two files")
        return self


class DurableStoreSettings(StoreSettings):
    """The Valkey or Redis that holds every state Keystile has: one server, a master with sentinels, or a cluster.

    `durability` is what has to be true of a write before it is promised.
    """

    durability: Literal["memory", "fsync", "replicated"] = "memory"


class AuditSettings(Section):
    """Where audit events go: standard output, a file, or both."""

    stdout: bool = True
    file: Path | None = None


class TraceSettings(Section):
    """OpenTelemetry traces; off unless an endpoint is set."""

    otlp_endpoint: str | None = None
    sample_ratio: float = Field(default=1.0, ge=0, le=1)


class LogSettings(Section):
    """Operational log on standard error."""

    level: str = Field(default="info", pattern="^(debug|info|warning|error)$")


class ServiceSettings(Section):
    """What every service can be told; each gives its own ports and drain time."""

    listen: ServiceListen = ServiceListen()
    metrics: Listen = Listen()
    trusted_proxies: list[Network] = []
    drain_seconds: int = Field(default=10, ge=0)
    audit: AuditSettings = AuditSettings()
    traces: TraceSettings = TraceSettings()
    log: LogSettings = LogSettings()


def is_embedded(environ: Mapping[str, str]) -> bool:
    """Whether `environ` asks for the embedded topology.

    Raises:
        SettingsError: it asks for one that does not exist.
    """
    topology = environ.get(TOPOLOGY_VARIABLE, "separate")
    if topology not in {"separate", "embedded"}:
        raise SettingsError(f"{TOPOLOGY_VARIABLE}: must be separate or embedded, not {topology}")
    return topology == "embedded"


def load(model: type[SettingsT], environ: Mapping[str, str] | None = None) -> SettingsT:
    """Read `model` from the YAML file, secrets folder and variables that `environ` names.

    Args:
        model: the service's settings class.
        environ: environment variables; the process's own by default.

    Raises:
        SettingsError: a file cannot be read, a key is unknown or a value is wrong; all problems at once.
    """
    environ = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    origin: dict[str, str] = {}
    config = environ.get(CONFIG_VARIABLE)
    if config:
        _merge(values, _read_yaml(Path(config)))
    secrets = environ.get(SECRETS_VARIABLE)
    if secrets:
        for name, text in _read_secrets(Path(secrets)):
            _set(values, name.lower().split(SEPARATOR), text, model)
            origin[name.lower().replace(SEPARATOR, ".")] = f"the file {name} in {SECRETS_VARIABLE}"
    for name, text in sorted(environ.items()):
        path = name.removeprefix(PREFIX).lower().split(SEPARATOR)
        if not name.startswith(PREFIX) or (name in _NO_SETTINGS and path[0] not in model.model_fields):
            continue
        _set(values, path, text, model)
        origin[".".join(path)] = f"the variable {name}"
    try:
        return model.model_validate(values)
    except ValidationError as problem:
        raise SettingsError("\n".join(_sentence(e, model, origin) for e in problem.errors())) from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except OSError as problem:
        raise SettingsError(f"{CONFIG_VARIABLE}: cannot read {path}: {problem.strerror}") from None
    except UnicodeDecodeError:
        raise SettingsError(f"{CONFIG_VARIABLE}: {path} is not UTF-8 text") from None
    except yaml.YAMLError as problem:
        mark = getattr(problem, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark else ""
        raise SettingsError(f"{CONFIG_VARIABLE}: {path} is not valid YAML{where}") from None
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise SettingsError(f"{CONFIG_VARIABLE}: {path} must hold a map of settings")
    return document


def _read_secrets(folder: Path) -> Iterable[tuple[str, str]]:
    try:
        # A mounted Secret has links such as ..data beside the keys.
        files = [f for f in sorted(folder.iterdir()) if not f.name.startswith(".") and f.is_file()]
        return [(f.name, f.read_text().rstrip("\r\n")) for f in files]
    except (OSError, UnicodeDecodeError) as problem:
        reason = getattr(problem, "strerror", None) or "not UTF-8 text"
        raise SettingsError(f"{SECRETS_VARIABLE}: cannot read {folder}: {reason}") from None


def _merge(into: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _set(values: dict[str, Any], path: list[str], text: str, model: type[BaseModel]) -> None:
    """Put `text` at `path`. Where the setting is a list or map, the text is read as YAML.

    An item of a list that is there already goes by its number, from 0: `trusted_issuers__0__introspection__…`.
    """
    node: Any = values
    for depth, part in enumerate(path[:-1]):
        child = node[int(part)] if isinstance(node, list) else node.get(part)
        if not (isinstance(child, dict) or _has_item(child, path[depth + 1 : -1])):
            child = node[part] = {}
        node = child
    node[path[-1]] = _read_structure(text) if _is_structured(model, path) else text


def _has_item(child: Any, path: list[str]) -> bool:
    """Whether `child` is a list with a map at the number that `path` begins with."""
    if not (isinstance(child, list) and path and path[0].isascii() and path[0].isdigit()):
        return False
    place = int(path[0])
    return place < len(child) and isinstance(child[place], dict)


def _read_structure(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text  # refused below as what it is: no list and no map


def _is_structured(model: type[BaseModel], path: list[str]) -> bool:
    annotation: Any = model
    for part in path:
        fields = getattr(annotation, "model_fields", None)
        if fields is None:  # below a map of named things: {name: Section}
            arguments = getattr(annotation, "__args__", ())
            annotation = arguments[-1] if arguments else str
        elif part in fields:
            annotation = fields[part].annotation
        else:
            return False
    origin = getattr(annotation, "__origin__", annotation)
    return isinstance(origin, type) and issubclass(origin, (list, tuple, dict, frozenset, set, BaseModel))


def _sentence(error: ErrorDetails, model: type[BaseModel], origin: Mapping[str, str]) -> str:
    path = ".".join(str(part) for part in error["loc"])
    # What set it, something below it, or the list or map that it is in.
    setters = (key for key in origin if f"{key}.".startswith(f"{path}.") or f"{path}.".startswith(f"{key}."))
    source = next((origin[key] for key in setters), None)
    where = f"{path} ({source})" if source else path
    if error["type"] == "extra_forbidden":
        # For a server that is set up wrongly alone.
        from difflib import get_close_matches  # noqa: PLC0415

        known = _known_keys(model, error["loc"])
        near = get_close_matches(str(error["loc"][-1]), known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{where}: no such setting; {hint}"
    if error["type"] == "missing":
        paths = [f"{path}.{key}" for key in _required_keys(model, error["loc"])] or [path]
        variables = " and ".join(PREFIX + each.replace(".", SEPARATOR).upper() for each in paths)
        return f"{where}: is required; set it in the YAML file or as {variables}"
    if error["type"] in {"list_type", "dict_type"}:
        example = "[one, two]" if error["type"] == "list_type" else "{name: value}"
        return f"{where}: must be written as YAML has it, such as {example}"
    message = error["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if path else message


def _known_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    return list(_fields(model, location[:-1]))


def _required_keys(model: type[BaseModel], location: tuple[int | str, ...]) -> list[str]:
    return [name for name, field in _fields(model, location).items() if field.is_required()]


def _fields(model: type[BaseModel], location: tuple[int | str, ...]) -> dict[str, FieldInfo]:
    """The fields of the section at `location`; empty where there is none."""
    annotation: Any = model
    for part in location:
        fields = getattr(annotation, "model_fields", None)
        if fields is not None:
            annotation = fields[str(part)].annotation if str(part) in fields else None
        else:
            arguments = getattr(annotation, "__args__", ())
            annotation = arguments[-1] if arguments else None
    return dict(getattr(annotation, "model_fields", {}))
