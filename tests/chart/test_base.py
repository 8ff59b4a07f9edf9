"""k8s/base, the chart without Helm: in step with the chart, whole, and ready for hosts of one's own."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from keystile_auth.settings import AuthSettings
from keystile_common.settings import load
from keystile_mcp.settings import McpSettings
from tests.auth_server import MASTER_KEY
from tests.chart.manifests import REPOSITORY, assert_fits, kustomize, read
from tests.chart.release import program, render

BASE = REPOSITORY / "k8s" / "base"
OVERLAYS = ("examples/kustomize", "skaffold", "skaffold-debug")


def _script(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program("helm")
    command = [sys.executable, REPOSITORY / "scripts" / "k8s_base.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def _names(objects: list[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in objects}


def test_the_base_is_what_the_chart_renders() -> None:
    answer = _script("--check")
    assert answer.returncode == 0, answer.stderr


def test_a_base_that_fell_behind_is_named(tmp_path: Path) -> None:
    assert _script("--to", tmp_path).returncode == 0
    (tmp_path / "auth.yaml").write_text("")
    (tmp_path / "left-over.yaml").write_text("")
    answer = _script("--to", tmp_path, "--check")
    assert answer.returncode == 1
    assert "auth.yaml, left-over.yaml" in answer.stderr


def test_what_the_chart_refuses_is_refused_with_the_chart_s_sentence(tmp_path: Path) -> None:
    values = tmp_path / "values.yaml"
    values.write_text("issuer: https://auth.example.com/\nresource: https://mcp.example.com/mcp\nexistingSecret: x\n")
    answer = _script("--values", values, "--to", tmp_path / "base")
    assert answer.returncode == 1
    assert "must not end with a slash" in answer.stderr
    assert not (tmp_path / "base").exists()


def test_the_base_has_every_object_of_the_release_but_hooks() -> None:
    release = render("--values", str(BASE / "values.yaml"), "--skip-tests")
    objects = read(kustomize(BASE))
    assert _names(objects) == set(release.objects)
    assert all(each["metadata"]["namespace"] == "keystile" for each in objects)


def test_the_base_holds_no_secret_and_nothing_of_helm() -> None:
    text = kustomize(BASE)
    kinds = {each["kind"] for each in read(text)}
    assert not kinds & {"Secret", "Namespace"}
    assert "helm" not in text.lower()


@pytest.mark.parametrize("folder", ["base", *OVERLAYS])
def test_manifests_fit_the_schemas_of_kubernetes(folder: str) -> None:
    assert_fits(kustomize(REPOSITORY / "k8s" / folder))


@pytest.mark.parametrize("folder", OVERLAYS)
def test_other_hosts_are_everywhere_the_base_has_its_own(folder: str) -> None:
    assert "example.com" not in kustomize(REPOSITORY / "k8s" / folder)


@pytest.mark.parametrize("folder", OVERLAYS)
def test_the_services_take_the_settings_of_an_overlay(folder: str, tmp_path: Path) -> None:
    objects = read(kustomize(REPOSITORY / "k8s" / folder))
    settings = {each["metadata"]["name"]: each["data"] for each in objects if each["kind"] == "ConfigMap"}
    for name in ("keystile-auth", "keystile-mcp"):
        (tmp_path / name).write_text(settings[name]["keystile.yaml"])
    auth = load(
        AuthSettings, {"KEYSTILE_CONFIG": str(tmp_path / "keystile-auth"), "KEYSTILE_MASTER_KEY": MASTER_KEY}
    )  # fmt: skip
    mcp = load(McpSettings, {"KEYSTILE_CONFIG": str(tmp_path / "keystile-mcp")})
    assert (mcp.resource, mcp.authorization_server) == (auth.resources["mcp"].uri, auth.issuer)
    assert mcp.scopes == auth.resources["mcp"].scopes
    (audience,) = [
        source["serviceAccountToken"]["audience"]
        for each in objects
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "keystile-mcp")
        for volume in each["spec"]["template"]["spec"]["volumes"]
        for source in volume.get("projected", {}).get("sources", ())
    ]
    assert audience == auth.issuer
    # What an overlay leaves out, the base has; what it says, the base has under the same name.
    for name in ("keystile-auth", "keystile-mcp"):
        (base,) = [
            each["data"]["keystile.yaml"]
            for each in read((BASE / f"{name.removeprefix('keystile-')}.yaml").read_text())
            if each["kind"] == "ConfigMap"
        ]
        own = yaml.safe_load(settings[name]["keystile.yaml"])
        assert set(own) <= set(yaml.safe_load(base))
