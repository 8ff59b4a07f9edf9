"""The example of the embedded topology: its paths, and its walls."""

from typing import Any

from keystile_embedded.settings import RESERVED
from tests.chart.manifests import REPOSITORY
from tests.chart.release import render, variant

EXAMPLE = ("--values", str(REPOSITORY / "k8s" / "examples" / "embedded-values.yaml"))


def _paths(ingress: dict[str, Any]) -> set[tuple[str, str]]:
    return {(path["path"], path["pathType"]) for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}


def test_it_routes_what_the_separate_services_do() -> None:
    separate = render(*variant("one-line-values.yaml"), "--set", "network.ingress.enabled=true")
    assert _paths(render(*EXAMPLE).get("Ingress", "keystile")) == _paths(separate.get("Ingress", "keystile"))


def test_it_routes_no_path_that_the_process_does_not_know() -> None:
    paths = {path.split("/")[1] for path, _ in _paths(render(*EXAMPLE).get("Ingress", "keystile"))}
    assert paths - {"", "mcp"} <= RESERVED


def test_every_object_selects_the_one_pod_and_nothing_leaves_it() -> None:
    release = render(*EXAMPLE, "--skip-tests")
    workload = release.get("StatefulSet", "keystile-mcp")["spec"]
    labels = workload["template"]["metadata"]["labels"]
    assert workload["selector"]["matchLabels"] == labels
    assert release.get("Service", "keystile-mcp")["spec"]["selector"] == labels
    (policy,) = release.of_kind("NetworkPolicy")
    assert policy["spec"]["podSelector"]["matchLabels"] == labels
    assert policy["spec"]["egress"] == []
    assert "Egress" in policy["spec"]["policyTypes"]


def test_it_has_time_to_stop_the_store_last() -> None:
    pod = render(*EXAMPLE).get("StatefulSet", "keystile-mcp")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    drain_seconds = 20
    begins = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] >= begins + drain_seconds + 10
