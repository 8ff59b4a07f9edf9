"""Each way of using the chart renders to what Kubernetes takes; likely mistakes are refused by name."""

import hashlib
import os
import re
from typing import Any

import pytest

from tests.chart.release import CHART, VARIANTS, program, render, run, template, variant

KUBERNETES = ("1.33.0", "1.34.0", "1.35.0", "1.36.0", "1.37.0")
MINIMAL = variant("one-line-values.yaml")

# Advice of kube-score's that is not followed, and why.
NOT_FOLLOWED = {
    # The image is pinned by the release's tag, or by its digest.
    "container-image-pull-policy",
    # Log lines count towards it, and evicting a pod for a burst of audit events is the wrong answer.
    "container-ephemeral-storage-request-and-limit",
    # Topology spread says the same, for zones too, and without refusing to run on one node.
    "deployment-has-host-podantiaffinity",
    # Valkey's Service has an address of its own, so that clients need not wait for DNS when the pod is another one.
    "statefulset-has-servicename",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_helm_lint_has_nothing_to_say(name: str) -> None:
    answer = run(program("helm"), "lint", "--strict", CHART, *variant(name))
    assert answer.returncode == 0, answer.stdout


def test_the_chart_passes_chart_testing() -> None:
    # Maintainers would be looked up at a git host, and a version is raised by a release, not by each change.
    options = ["--validate-maintainers=false", "--check-version-increment=false"]
    answer = run(program("ct"), "lint", "--charts", ".", *options)
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("name", VARIANTS)
def test_manifests_fit_the_schemas_of_kubernetes_and_of_the_operators(name: str, version: str) -> None:
    """Schemas come from where kubeconform looks for them; KUBECONFORM_SCHEMA_LOCATION adds places, one a word."""
    kubeconform = program("kubeconform")
    manifests = template(*variant(name)).stdout
    places = [f"-schema-location={place}" for place in os.environ.get("KUBECONFORM_SCHEMA_LOCATION", "").split()]
    options = ["-strict", "-summary", f"-kubernetes-version={version}", *places]
    answer = run(kubeconform, *options, given=manifests)
    assert ", Invalid: 0, Errors: 0, Skipped: 0" in answer.stdout, answer.stdout + answer.stderr


@pytest.mark.parametrize("name", VARIANTS)
def test_kube_score_finds_nothing_that_was_not_decided(name: str) -> None:
    kube_score = program("kube-score")
    ignored = [f"--ignore-test={each}" for each in sorted(NOT_FOLLOWED)]
    # Throttled CPU makes every request wait for the password that is being checked.
    options = ["--ignore-container-cpu-limit", "--output-format=ci", *ignored]
    answer = run(kube_score, "score", *options, "-", given=template(*variant(name)).stdout)
    assert "[OK]" in answer.stdout, answer.stderr
    assert not re.findall(r"^\[(?:CRITICAL|WARNING)\].*$", answer.stdout, re.MULTILINE)


@pytest.mark.parametrize("name", VARIANTS)
def test_every_mount_of_a_pod_has_its_volume(name: str) -> None:
    pods = 0
    for key, each in render(*variant(name)).objects.items():
        spec = each["spec"] if each["kind"] == "Pod" else each.get("spec", {}).get("template", {}).get("spec")
        if each["kind"] == "CronJob":
            spec = each["spec"]["jobTemplate"]["spec"]["template"]["spec"]
        if not spec or "containers" not in spec:
            continue
        pods += 1
        volumes = {volume["name"] for volume in spec.get("volumes", ())}
        volumes |= {claim["metadata"]["name"] for claim in each["spec"].get("volumeClaimTemplates", ())}
        for container in (*spec.get("initContainers", ()), *spec["containers"]):
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes, key
    assert pods >= 2


@pytest.mark.parametrize("name", VARIANTS)
def test_the_same_values_render_the_same(name: str) -> None:
    assert template(*variant(name)).stdout == template(*variant(name)).stdout


@pytest.mark.parametrize("name", VARIANTS)
def test_no_secret_is_written_and_none_is_shown(name: str) -> None:
    release = render(*variant(name))
    assert not release.of_kind("Secret")


def test_templates_use_nothing_that_differs_from_one_rendering_to_the_next() -> None:
    templates = "".join(path.read_text() for path in (CHART / "templates").rglob("*") if path.is_file())
    actions = " ".join(re.findall(r"\{\{-?(?! ?/\*)(.*?)\}\}", templates))
    words = set(re.findall(r"[\w.]+", re.sub(r'"[^"]*"', "", actions)))
    assert not {word for word in words if re.match(r"(lookup|rand|gen[A-Z]|uuidv4|now|date|htpasswd|bcrypt)", word)}


def test_unit_tests_of_the_templates_pass() -> None:
    answer = run(program("helm-unittest"), CHART)
    assert answer.returncode == 0, answer.stdout


def test_readme_is_what_helm_docs_makes_of_the_values() -> None:
    answer = run(program("helm-docs"), "--chart-search-root", CHART, "--dry-run")
    assert answer.stdout.strip() == (CHART / "README.md").read_text().strip()


# What people get wrong, and what the refusal has to name.
MISTAKES = {
    "a typo": (["--set", "isuer=https://auth.example.com"], "isuer"),
    "a typo in a setting": (["--set", "auth.settings.tokens.acess_token_seconds=60"], "acess_token_seconds"),
    "a typo in a server": (["--set", "servers.tools.pth=/tools"], "pth"),
    "a server's name in capitals": (["--set", "servers.Tools.path=/tools"], "Tools"),
    "plain http": (["--set", "issuer=http://auth.example.com"], "issuer: http://auth.example.com must be https"),
    "a slash after the issuer": (["--set", "issuer=https://auth.example.com/"], "must not end with a slash"),
    "no issuer": (["--set", "issuer="], "--set issuer=https://auth.example.com"),
    "no Secret": (["--set", "existingSecret="], "kubectl create secret generic keystile --namespace demo"),
    "no resource": (["--set", "resource="], "resource: is required"),
    "a resource without a path": (
        ["--set", "resource=https://mcp.example.com"],
        "https://mcp.example.com must have a path",
    ),
    "a password in a URL": (["--set", "auth.store.url=redis://:x@redis:6379"], "auth.store.url: must be"),
    "a word for a number": (["--set", "auth.replicas=two"], "replicas"),
    "a lifetime that is too long": (["--set", "auth.settings.tokens.code_seconds=3600"], "code_seconds"),
    "an unknown log level": (["--set", "observability.log.level=loud"], "level"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_refused_with_the_name_of_the_value(mistake: str) -> None:
    arguments, named = MISTAKES[mistake]
    answer = template(*MINIMAL, *arguments)
    assert answer.returncode != 0
    assert named in answer.stderr


def test_helm_install_prints_the_url_the_sign_in_and_the_command_for_the_secret() -> None:
    answer = run(
        program("helm"), "install", "keystile", CHART, "--namespace", "demo", "--dry-run=client", *MINIMAL
    )  # fmt: skip
    notes = answer.stdout[answer.stdout.index("\nNOTES:") :]
    assert "https://auth.example.com" in notes
    assert "kubectl exec -it --namespace demo deploy/keystile-auth -- keystile users add alice" in notes
    assert 'kubectl create secret generic keystile --namespace demo --from-literal=master-key="$(openssl' in notes
    assert "kubectl rollout restart --namespace demo statefulset/keystile-valkey deployment/keystile-auth" in notes


def _pod_hashes(*arguments: str) -> dict[str, str]:
    release = render(*variant("everything-values.yaml"), *arguments)
    workloads: list[dict[str, Any]] = release.of_kind("Deployment") + release.of_kind("StatefulSet")
    return {
        each["metadata"]["name"]: hashlib.sha256(repr(each["spec"]["template"]).encode()).hexdigest()
        for each in workloads
    }


def _restarted_by(*arguments: str) -> set[str]:
    before, after = _pod_hashes(), _pod_hashes(*arguments)
    return {name for name in before if before[name] != after[name]}


def test_a_changed_setting_restarts_the_pods_that_read_it_and_no_others() -> None:
    assert _restarted_by("--set", "auth.settings.tokens.access_token_seconds=60") == {"keystile-auth"}
    assert _restarted_by("--set", "servers.tools.settings.introspection.cache_seconds=1") == {"keystile-tools"}
    assert _restarted_by("--set", "auth.store.valkey.maxmemory=2gb") == {"keystile-valkey"}
    collected = {"keystile-auth", "keystile-tools", "keystile-reference"}
    assert _restarted_by("--set", "observability.audit.collector.otlp_endpoint=http://other:4318") == collected


def test_two_releases_share_a_namespace() -> None:
    blue, green = (set(render(*variant("everything-values.yaml"), release=name).objects) for name in ("blue", "green"))
    assert not blue & green


def test_a_name_that_kubernetes_would_cut_off_is_refused() -> None:
    answer = template(*MINIMAL, release="k" * 41)
    assert "is longer than 40 characters" in answer.stderr
    for kind, name in render(*MINIMAL, release="k" * 40).objects:
        assert len(name) <= 63, kind
