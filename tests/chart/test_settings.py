"""What the chart writes for the services is what the services take, and the other way round."""

import datetime
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from keystile_auth import endpoints
from keystile_auth.settings import AuthSettings
from keystile_common.settings import SettingsT, load
from keystile_embedded.settings import EmbeddedSettings
from keystile_mcp.settings import McpSettings
from tests.chart.manifests import REPOSITORY
from tests.chart.release import CHART, VARIANTS, Release, render, variant

SCHEMA: dict[str, Any] = yaml.safe_load((CHART / "values.schema.json").read_text())


def test_the_schema_has_the_settings_that_the_services_have() -> None:
    script = [sys.executable, str(REPOSITORY / "scripts" / "chart_schema.py"), "--check"]
    answer = subprocess.run(script, capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 0, answer.stderr


def test_a_setting_that_is_a_secret_or_a_file_is_one_in_the_schema_too() -> None:
    identity = SCHEMA["definitions"]["identity"]["properties"]
    assert identity["clientSecretKey"] == {"$ref": "#/definitions/secretKey"}
    assert identity["ca"] == {"$ref": "#/definitions/file"}
    assert not {"client_secret", "ca_file"} & set(identity)


def test_every_kind_of_identity_has_its_own_settings_in_the_schema_and_no_others() -> None:
    identity = SCHEMA["definitions"]["identity"]
    kinds = [rule["if"]["properties"]["kind"]["const"] for rule in identity["allOf"]]
    assert sorted(kinds) == sorted(identity["properties"]["kind"]["enum"])
    for rule in identity["allOf"]:
        assert set(rule["then"]["propertyNames"]["enum"]) <= set(identity["properties"])


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


def _workload(release: Release, name: str) -> dict[str, Any]:
    kinds = ("Deployment", "StatefulSet")
    (found,) = [release.objects[kind, name] for kind in kinds if (kind, name) in release.objects]
    return found


def _settings(release: Release, name: str, folder: Path, model: type[SettingsT]) -> SettingsT:
    """The settings as a service's pod would load them, its Secret's contents made up."""
    folder.mkdir()
    (folder / "secrets").mkdir()
    for volume in _workload(release, name)["spec"]["template"]["spec"]["volumes"]:
        if volume["name"] == "secrets":
            for item in volume["secret"]["items"]:
                (folder / "secrets" / item["path"]).write_text("A" * 43 + "=")
    (folder / "keystile.yaml").write_text(release.get("ConfigMap", name)["data"]["keystile.yaml"])
    places = {"KEYSTILE_CONFIG": "keystile.yaml", "KEYSTILE_SECRETS_DIR": "secrets"}
    return load(model, {variable: str(folder / place) for variable, place in places.items()})


def _deployed(release: Release) -> list[str]:
    """The MCP servers in the release, by their names in `servers`."""
    return [each["metadata"]["labels"]["keystile/server"] for each in release.of_kind("Service") if _is_mcp(each)]


def _is_mcp(service: dict[str, Any]) -> bool:
    return "keystile/server" in service["metadata"]["labels"]


@pytest.mark.parametrize("name", [each for each in VARIANTS if not each.startswith(("external-v", "embedded"))])
def test_the_services_take_the_settings_that_the_chart_writes(name: str, tmp_path: Path) -> None:
    release = render(*variant(name))
    auth = _settings(release, "keystile-auth", tmp_path / "auth", AuthSettings)
    assert auth.listen.host == auth.metrics.host == "0.0.0.0"
    assert auth.metrics.port == 9464
    assert _deployed(release)
    for key in _deployed(release):
        mcp = _settings(release, f"keystile-{key}", tmp_path / key, McpSettings)
        assert mcp.resource == auth.resources[key].uri
        assert mcp.authorization_server == auth.issuer
        assert mcp.scopes == auth.resources[key].scopes
        assert mcp.introspection.client_id == key
        assert mcp.metrics.port == 9465


def test_servers_take_the_settings_for_an_authorization_server_of_others(tmp_path: Path) -> None:
    release = render(*variant("external-values.yaml"))
    tools, reports, google = (
        _settings(release, f"keystile-{each}", tmp_path / each, McpSettings) for each in ("tools", "reports", "google")
    )
    assert {each.provider for each in (tools, reports)} == {"keycloak"}
    assert tools.authorization_server == reports.authorization_server == "https://id.example.com/realms/example"
    assert google.authorization_server == "https://accounts.google.com"
    assert reports.introspection.client_id == reports.resource
    assert reports.introspection.client_secret is not None
    (old,) = reports.trusted_issuers
    assert (old.issuer, old.until) == ("https://auth.example.com", datetime.date(2027, 3, 1))
    assert old.introspection.client_secret is not None
    assert (tools.sessions, reports.sessions) == ("shared", "none")
    assert [each.pushes for each in (*tools.issuers, *reports.issuers)] == [True, False, False]
    assert tools.revocations.push.bearer is not None


@pytest.mark.parametrize(("name", "own"), [("embedded-values.yaml", True), ("embedded-store-values.yaml", False)])
def test_one_process_takes_the_settings_of_both(name: str, own: bool, tmp_path: Path) -> None:
    release = render(*variant(name))
    settings = _settings(release, "keystile-tools", tmp_path / "embedded", EmbeddedSettings)
    assert settings.has_own_store is own
    assert settings.mcp_sessions == ("process" if own else "none")
    (container,) = _workload(release, "keystile-tools")["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.listen.port, "metrics": settings.metrics.port}
    assert (str(settings.data_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}) is own


def test_one_process_needs_no_more_than_the_least_that_can_be_said(tmp_path: Path) -> None:
    told = (
        "topology=embedded",
        "issuer=https://a.example.com",
        "resource=https://a.example.com/mcp",
        "existingSecret=x",
    )
    release = render("--set", ",".join(told))
    settings = _settings(release, "keystile-mcp", tmp_path / "embedded", EmbeddedSettings)
    assert settings.own_resource == "https://a.example.com/mcp"
    assert settings.has_own_store


def test_identities_and_scopes_of_users_reach_the_settings(tmp_path: Path) -> None:
    release = render(*variant("embedded-values.yaml"))
    settings = _settings(release, "keystile-tools", tmp_path / "embedded", EmbeddedSettings)
    corp = settings.identity["corp"]
    assert corp.client_secret is not None
    assert str(corp.ca_file) == "/etc/keystile/files/identity__corp__ca_file"
    assert settings.all_resources["mcp"].user_scopes["corp/engineering"] == ["mcp:jobs"]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_file_that_settings_name_is_mounted(name: str) -> None:
    release = render(*variant(name))
    for config in release.of_kind("ConfigMap"):
        if "keystile.yaml" not in config["data"]:
            continue
        pod = _workload(release, config["metadata"]["name"])["spec"]["template"]["spec"]
        paths = set(re.findall(r"_file: (/etc/keystile/files/\S+)", config["data"]["keystile.yaml"]))
        (mounts,) = [each["volumeMounts"] for each in pod["containers"]]
        folders = {each["name"]: each["mountPath"] for each in mounts}
        there = {
            f"{folders['files']}/{item['path']}"
            for volume in pod["volumes"]
            if volume["name"] == "files"
            for source in volume["projected"]["sources"]
            for item in (source.get("configMap") or source["secret"])["items"]
        }
        assert paths == there


def test_the_reference_server_has_the_scopes_and_policy_that_the_service_gives_it() -> None:
    release = render(*variant("external-store-values.yaml"))
    written = yaml.safe_load(release.get("ConfigMap", "keystile-alpha")["data"]["keystile.yaml"])
    for name in ("scopes", "required_scopes", "policy"):
        assert written[name] == McpSettings.model_fields[name].default


def _paths_in_the_source(then: str = "") -> set[str]:
    """The first part of every path that the authorization server routes below the issuer's path, if `then` follows."""
    source = "".join(path.read_text() for path in Path(str(endpoints.__file__)).parent.glob("*.py"))
    found = re.findall(rf"\{{(?:prefix|self\._prefix|path)\}}/([a-z-]+){then}", source)
    return set(found)


def _routed() -> dict[str, str]:
    """The first part of every path that is let in to the authorization server, and its type."""
    rules = render(*variant("one-line-values.yaml"), "--set", "network.ingress.enabled=true").get(
        "Ingress", "keystile"
    )["spec"]["rules"]
    (paths,) = [rule["http"]["paths"] for rule in rules if rule["host"] == "auth.example.com"]
    return {path["path"].split("/")[1]: path["pathType"] for path in paths}


def test_every_page_and_endpoint_is_routed_but_introspection_and_events() -> None:
    assert set(_routed()) - {"", ".well-known"} == _paths_in_the_source() - {"introspect", "events"}


def test_what_lies_below_a_page_is_routed_with_it() -> None:
    below = _paths_in_the_source(r"/[a-z{]") - {"events"}
    assert {"account", "consent", "login", "register"} <= below
    assert {path for path, kind in _routed().items() if kind == "Prefix"} == below | {"static"}
