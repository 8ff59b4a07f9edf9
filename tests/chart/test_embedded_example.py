"""The example of the embedded topology: its settings, its paths, its walls."""

from pathlib import Path
from typing import Any

import pytest

from keystile_common.settings import load
from keystile_embedded.settings import EmbeddedSettings
from tests.chart.manifests import REPOSITORY, read
from tests.chart.release import program, render, run, variant
from tests.chart.test_rendering import NOT_FOLLOWED

EXAMPLE = REPOSITORY / "k8s" / "examples" / "embedded.yaml"


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {each["kind"]: each for each in read(EXAMPLE.read_text())}


def test_the_process_takes_its_settings_and_secrets(objects: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "keystile.yaml").write_text(objects["ConfigMap"]["data"]["keystile.yaml"])
    (tmp_path / "secrets").mkdir()
    for volume in objects["StatefulSet"]["spec"]["template"]["spec"]["volumes"]:
        for item in volume.get("secret", {}).get("items", ()):
            (tmp_path / "secrets" / item["path"]).write_text("A" * 43 + "=")
    environ = {
        "KEYSTILE_CONFIG": str(tmp_path / "keystile.yaml"),
        "KEYSTILE_SECRETS_DIR": str(tmp_path / "secrets"),
        "KEYSTILE_DATA_DIR": "/data",
    }
    settings = load(EmbeddedSettings, environ)
    assert settings.has_own_store
    assert not settings.metadata_documents.enabled
    (container,) = objects["StatefulSet"]["spec"]["template"]["spec"]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.listen.port, "metrics": settings.metrics.port}
    assert str(settings.data_dir) in {mount["mountPath"] for mount in container["volumeMounts"]}
    (rule,) = objects["Ingress"]["spec"]["rules"]
    assert settings.own_resource == f"https://{rule['host']}/mcp"
    grace = objects["StatefulSet"]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert grace >= container["lifecycle"]["preStop"]["sleep"]["seconds"] + settings.drain_seconds + 10


def test_it_routes_what_the_chart_routes_for_both_services(objects: dict[str, Any]) -> None:
    chart = render(*variant("one-line-values.yaml"), "--set", "network.ingress.enabled=true").get("Ingress", "keystile")
    wanted, routed = (
        {(path["path"], path["pathType"]) for rule in ingress["spec"]["rules"] for path in rule["http"]["paths"]}
        for ingress in (chart, objects["Ingress"])
    )
    assert routed == wanted


def test_its_selectors_find_the_pod_and_nothing_leaves_it(objects: dict[str, Any]) -> None:
    labels = objects["StatefulSet"]["spec"]["template"]["metadata"]["labels"]
    assert objects["Service"]["spec"]["selector"] == labels
    assert objects["StatefulSet"]["spec"]["selector"]["matchLabels"] == labels
    policy = objects["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    assert policy["egress"] == []
    assert "Egress" in policy["policyTypes"]


def test_kube_score_finds_nothing_that_was_not_decided() -> None:
    options = [
        "--ignore-container-cpu-limit",
        "--output-format=ci",
        *(f"--ignore-test={each}" for each in NOT_FOLLOWED),
    ]
    answer = run(program("kube-score"), "score", *options, "-", given=EXAMPLE.read_text())
    assert "[OK]" in answer.stdout, answer.stderr
    assert not [line for line in answer.stdout.splitlines() if line.startswith(("[CRITICAL]", "[WARNING]"))]
