"""What the chart writes for the services is what the services take, and the other way round."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel

from keystile_auth import endpoints
from keystile_auth.settings import AuthSettings
from keystile_common.settings import load
from keystile_mcp.settings import McpSettings
from tests.chart.release import CHART, VARIANTS, Release, render, variant

SCHEMA: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text())

# Settings that the chart makes from other values, or that make no sense in a cluster.
MADE_FOR_AUTH = {
    "issuer", "master_key", "resources", "clients", "listen", "metrics", "trusted_proxies", "audit", "traces", "log",
    "identity", "kubernetes", "store.url", "store.sentinels", "store.sentinel_master", "store.sentinel_username",
    "store.sentinel_password", "store.cluster", "store.tls", "store.username", "store.password", "store.ca_file",
    "store.certificate_file", "store.key_file",
    "metadata_documents.allow_loopback", "metadata_documents.ca_file",
}  # fmt: skip
MADE_FOR_MCP = {
    "provider", "audience", "scope_prefix", "scope_claim", "trusted_issuers",
    "app", "request_state_key", "resource", "resource_name", "authorization_server", "scopes", "required_scopes",
    "policy", "listen", "metrics",
    "trusted_proxies", "audit", "traces", "log",
    "jwks.url", "jwks.ca_file",
    "introspection.url", "introspection.client_id", "introspection.client_secret", "introspection.token_file",
    "introspection.private_key_file",
    "introspection.ca_file", "upstream", "handover",
    "store.url", "store.sentinels", "store.sentinel_master", "store.sentinel_username", "store.sentinel_password",
    "store.cluster", "store.tls", "store.username", "store.password", "store.ca_file", "store.certificate_file",
    "store.key_file",
}  # fmt: skip


def _names(model: type[BaseModel], prefix: str = "") -> set[str]:
    names = set()
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names |= _names(inner, f"{prefix}{name}.")
        else:
            names.add(f"{prefix}{name}")
    return names


def _schema_names(schema: dict[str, Any], prefix: str = "") -> set[str]:
    names = set()
    for name, inner in schema["properties"].items():
        names |= _schema_names(inner, f"{prefix}{name}.") if "properties" in inner else {f"{prefix}{name}"}
    return names


def _left_to_values(model: type[BaseModel], made: set[str]) -> set[str]:
    return {name for name in _names(model) if not {name, name.split(".", maxsplit=1)[0]} & made}


@pytest.mark.parametrize(
    ("definition", "model", "made"),
    [("authSettings", AuthSettings, MADE_FOR_AUTH), ("mcpSettings", McpSettings, MADE_FOR_MCP)],
)
def test_every_setting_has_its_name_in_the_chart_too(definition: str, model: type[BaseModel], made: set[str]) -> None:
    assert _schema_names(SCHEMA["definitions"][definition]) == _left_to_values(model, made)


def test_the_schema_is_closed_at_every_level() -> None:
    def walk(schema: Any, path: str) -> None:
        if isinstance(schema, dict):
            if "properties" in schema and schema.get("type") == "object":
                assert schema.get("additionalProperties") is False, path
            for name, inner in schema.items():
                walk(inner, f"{path}.{name}")

    walk(SCHEMA, "values")


def test_every_value_has_a_place_in_the_schema() -> None:
    def walk(values: Any, schema: dict[str, Any], path: str) -> None:
        if "$ref" in schema:
            schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]]
        if isinstance(values, dict) and "properties" in schema:
            assert set(values) <= set(schema["properties"]), path
            for name, inner in values.items():
                walk(inner, schema["properties"][name], f"{path}.{name}")

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), SCHEMA, "values")


def _secrets_of(release: Release, workload: str, folder: Path) -> dict[str, str]:
    """The files that the pod's Secret volume would hold, with made-up contents."""
    folder.mkdir()
    contents = {"master_key": "A" * 43 + "="}
    volumes = release.get("Deployment", workload)["spec"]["template"]["spec"]["volumes"]
    for volume in volumes:
        if volume["name"] in {"secrets", "credentials"}:
            for item in volume.get("secret", {}).get("items", ()):
                (folder / item["path"]).write_text(contents.get(item["path"], "s" * 64))
    return {"KEYSTILE_SECRETS_DIR": str(folder)}


def _settings_file(release: Release, name: str, folder: Path) -> dict[str, str]:
    path = folder / f"{name}.yaml"
    path.write_text(release.get("ConfigMap", name)["data"]["keystile.yaml"])
    return {"KEYSTILE_CONFIG": str(path)}


@pytest.mark.parametrize("name", VARIANTS)
def test_the_services_take_the_settings_that_the_chart_writes(name: str, tmp_path: Path) -> None:
    release = render(*variant(name))
    environ = _settings_file(release, "keystile-auth", tmp_path)
    auth = load(AuthSettings, environ | _secrets_of(release, "keystile-auth", tmp_path / "auth"))
    assert auth.listen.host == auth.metrics.host == "0.0.0.0"
    assert auth.metrics.port == 9464

    deployed = [key for key in auth.resources if ("Deployment", f"keystile-{key}") in release.objects]
    assert deployed
    for key in deployed:
        environ = _settings_file(release, f"keystile-{key}", tmp_path)
        mcp = load(McpSettings, environ | _secrets_of(release, f"keystile-{key}", tmp_path / key))
        assert mcp.resource == auth.resources[key].uri
        assert mcp.authorization_server == auth.issuer
        assert mcp.scopes == auth.resources[key].scopes
        assert mcp.introspection.client_id == key
        assert mcp.metrics.port == 9465


def test_the_reference_server_has_the_scopes_and_policy_that_the_service_gives_it() -> None:
    release = render(*variant("external-store-values.yaml"))
    written = yaml.safe_load(release.get("ConfigMap", "keystile-alpha")["data"]["keystile.yaml"])
    for name in ("scopes", "required_scopes", "policy"):
        assert written[name] == McpSettings.model_fields[name].default


def _paths_in_the_source() -> set[str]:
    """The first part of every path that the authorization server routes below the issuer's path."""
    source = "".join(path.read_text() for path in Path(str(endpoints.__file__)).parent.glob("*.py"))
    found = re.findall(r"\{(?:prefix|self\._prefix|path)\}/([a-z-]+)", source)
    return set(found)


def test_every_page_and_endpoint_is_routed_but_introspection() -> None:
    rules = render(*variant("one-line-values.yaml"), "--set", "network.ingress.enabled=true").get(
        "Ingress", "keystile"
    )["spec"]["rules"]
    (paths,) = [rule["http"]["paths"] for rule in rules if rule["host"] == "auth.example.com"]
    routed = {path["path"].split("/")[1] for path in paths} - {"", ".well-known"}
    assert routed == _paths_in_the_source() - {"introspect"}
