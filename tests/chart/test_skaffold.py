"""skaffold.yaml: each profile is understood, and deploys the images that it builds."""

import os
import subprocess

import pytest
import yaml

from tests.chart.manifests import REPOSITORY, assert_fits, read
from tests.chart.release import program

PROFILES = ("", "debug", "ci")


def _skaffold(command: str, profile: str, *options: str) -> str:
    # No words to its makers, and nobody's own settings.
    environ = os.environ | {"SKAFFOLD_COLLECT_METRICS": "false", "SKAFFOLD_UPDATE_CHECK": "false"}
    chosen = ["--profile", profile] if profile else []
    answer = subprocess.run(
        [program("skaffold"), command, *chosen, *options],
        cwd=REPOSITORY, env=environ, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.mark.parametrize("profile", PROFILES)
def test_skaffold_understands_the_file(profile: str) -> None:
    found = yaml.safe_load(_skaffold("diagnose", profile, "--yaml-only"))
    dockerfiles = {each["docker"]["dockerfile"] for each in found["build"]["artifacts"]}
    assert dockerfiles == {"Dockerfile.auth", "Dockerfile.mcp"}
    assert ("portForward" in found) == (profile != "ci")


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_built_is_what_is_deployed(profile: str) -> None:
    program("kubectl")  # skaffold's kustomize
    manifests = _skaffold("render", profile, "--offline=true", "--digest-source=tag")
    assert_fits(manifests)
    deployments = {each["metadata"]["name"]: each["spec"] for each in read(manifests) if each["kind"] == "Deployment"}
    for name in ("keystile-auth", "keystile-mcp"):
        (container,) = deployments[name]["template"]["spec"]["containers"]
        repository, _, tag = container["image"].rpartition(":")
        assert repository == f"ghcr.io/keystile/{name}"
        # Of the content; the base's own is the release's version.
        assert len(tag) == 64
        assert deployments[name]["replicas"] == (1 if profile == "debug" else 2)
        assert ({"name": "KEYSTILE_LOG__LEVEL", "value": "debug"} in container["env"]) == (profile == "debug")
