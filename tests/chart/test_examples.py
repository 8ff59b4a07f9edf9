"""Every example in k8s/examples is what the chart and Kubernetes take."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.chart.manifests import REPOSITORY, assert_fits, read
from tests.chart.release import Release, render
from tests.integration.store.test_servers import USER

EXAMPLES = REPOSITORY / "k8s" / "examples"
VALUES = sorted(path.name for path in EXAMPLES.glob("*-values.yaml"))
MANIFESTS = sorted({path.name for path in EXAMPLES.glob("*.yaml")} - set(VALUES))
FILES = sorted(path.relative_to(EXAMPLES).as_posix() for path in EXAMPLES.rglob("*.yaml"))


def _release(name: str) -> Release:
    return render("--values", str(EXAMPLES / name))


@pytest.mark.parametrize("name", VALUES)
def test_values_render_to_what_kubernetes_takes(name: str) -> None:
    assert_fits(_release(name).text)


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_fits_the_schema_of_its_kind(name: str) -> None:
    # Of cert-manager and Argo CD there is a schema where somebody put one.
    assert_fits((EXAMPLES / name).read_text(), unknown_kinds=True)


@pytest.mark.parametrize("name", FILES)
def test_an_example_begins_with_what_it_is_for(name: str) -> None:
    assert (EXAMPLES / name).read_text().startswith("# ")


@pytest.mark.parametrize("name", [*VALUES, *MANIFESTS])
def test_an_example_names_the_command_and_is_in_the_list(name: str) -> None:
    comment = "".join(re.findall(r"^#.*\n", (EXAMPLES / name).read_text(), re.MULTILINE))
    assert f"k8s/examples/{name}" in comment
    assert f"(examples/{name})" in (EXAMPLES.parent / "README.md").read_text()


@pytest.mark.parametrize("name", VALUES)
def test_the_command_for_the_secret_makes_every_key_that_the_pods_read(name: str) -> None:
    text = (EXAMPLES / name).read_text()
    made = set(re.findall(r"--from-literal=([\w-]+)=", text))
    if not made and "existingSecret" in text:
        made = {"master-key", "valkey-password", "mcp-valkey-password"}  # as the chart's README has it
    assert _keys_of_the_secret(_release(name)) == made


def _keys_of_the_secret(release: Release) -> set[str]:
    def walk(value: Any) -> set[str]:
        if isinstance(value, list):
            return set().union(*map(walk, value))
        if not isinstance(value, dict):
            return set()
        if "keystile" in {value.get("secretName"), value.get("name")} and "items" in value:
            return {item["key"] for item in value["items"]}
        return set().union(*map(walk, value.values()))

    return walk(release.of_kind("Deployment") + release.of_kind("StatefulSet"))


def test_the_acl_user_may_do_what_the_store_tests_are_run_with() -> None:
    text = (EXAMPLES / "external-redis-values.yaml").read_text()
    (rules,) = re.findall(r"^# +ACL SETUSER keystile on >PASSWORD (.*)$", text, re.MULTILINE)
    assert rules.split() == USER[4:]


def test_argo_cd_gets_the_same_twice_and_no_helm_test() -> None:
    (application,) = read((EXAMPLES / "argocd-application.yaml").read_text())
    helm = application["spec"]["source"]["helm"]
    arguments = ("--set-json", _as_json(helm["valuesObject"]))
    first, second = (render(*arguments, release=helm["releaseName"]) for _ in range(2))
    assert first.text == second.text
    assert_fits(first.text)
    assert "helm-test" not in first.get("ConfigMap", "keystile-auth")["data"]["keystile.yaml"]
    assert Path(REPOSITORY / application["spec"]["source"]["path"] / "Chart.yaml").exists()


def _as_json(values: dict[str, Any]) -> str:
    return ",".join(f"{name}={json.dumps(value)}" for name, value in values.items())


def test_routes_go_to_the_gateway_of_the_example() -> None:
    (gateway,) = read((EXAMPLES / "gateway.yaml").read_text())
    listeners = {listener["name"]: listener for listener in gateway["spec"]["listeners"]}
    routes = _release("gateway-values.yaml").of_kind("HTTPRoute")
    assert routes
    for route in routes:
        (parent,) = route["spec"]["parentRefs"]
        assert (parent["name"], parent["namespace"]) == (gateway["metadata"]["name"], gateway["metadata"]["namespace"])
        assert parent["sectionName"] in listeners
        wildcard = listeners[parent["sectionName"]]["hostname"].removeprefix("*")
        assert all(host.endswith(wildcard) for host in route["spec"]["hostnames"])


def test_certificates_come_from_the_issuer_of_the_example() -> None:
    (issuer,) = read((EXAMPLES / "cert-manager-issuer.yaml").read_text())
    ingress = _release("cert-manager-values.yaml").get("Ingress", "keystile")
    assert ingress["metadata"]["annotations"]["cert-manager.io/cluster-issuer"] == issuer["metadata"]["name"]
