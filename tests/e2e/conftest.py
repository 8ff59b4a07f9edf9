"""A kind cluster with the release in it, one for all tests here.

E2E_KEEP=1 leaves the cluster after the tests, and takes the one that an earlier run left.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.company import NAMESPACE as ON_SITE
from tests.e2e.company import Company, running_company
from tests.e2e.keycloak import IMAGE as KEYCLOAK
from tests.e2e.keycloak import Keycloak, external_resource, running_keycloak
from tests.e2e.kubernetes import NAMESPACE, ROOT, Kubernetes
from tests.e2e.site import Site
from tests.e2e.tls_inside import VALUES as TLS_INSIDE
from tests.e2e.tls_inside import TlsInside
from tests.made_run import free_ports

CLUSTER = "keystile-e2e"
STATE = ROOT / ".cluster" / CLUSTER
LOGS = ROOT / ".cluster" / "logs"
# The least disturbing first.
ORDER = (
    "images",
    "install",
    "servers",
    "client",
    "hopping",
    "sessions",
    "network_policies",
    "store_killed",
    "rollouts",
    "on_site",
    "bad_values",
    "audit",
    "autoscaling",
    "keycloak",
    "ldap",
    "embedded",
    "tls_inside",
    "dashboards",
    "operations",
)
VALUES = ("--values", "tests/e2e/values.yaml")

_figures = pytest.StashKey[dict[str, str]]()
_kubernetes = pytest.StashKey[Kubernetes]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test here needs the cluster, and some leave it in another state."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
    items.sort(key=lambda item: ORDER.index(item.path.stem.removeprefix("test_")) if here in item.path.parents else -1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Keep the logs of all pods where a test failed, and say where."""
    report = yield
    kubernetes = item.config.stash.get(_kubernetes, None)
    if report.failed and kubernetes is not None:
        folder = LOGS / item.name
        shutil.rmtree(folder, ignore_errors=True)
        kubernetes.keep_logs(folder)
        report.sections.append(("logs of all pods", str(folder)))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print what was measured."""
    figures = config.stash.get(_figures, {})
    if figures:
        terminalreporter.section("figures")
        width = max(map(len, figures))
        for what, figure in figures.items():
            terminalreporter.write_line(f"{what:<{width}}  {figure}")


def _script(port: int, *arguments: str) -> None:
    environment = {**os.environ, "CLUSTER": CLUSTER, "PORT": str(port)}
    answer = subprocess.run(
        ["scripts/cluster", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


def _port_of_kept_cluster() -> int | None:
    command = ["docker", "port", f"{CLUSTER}-control-plane", "30443/tcp"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return int(answer.stdout.split()[0].rpartition(":")[2]) if answer.returncode == 0 else None


def _uninstall(kubernetes: Kubernetes) -> None:
    kubernetes.run("helm", "uninstall", "keystile", "--namespace", NAMESPACE, "--ignore-not-found", "--wait")
    kubernetes.kubectl("delete", "pvc", "--all", "--wait")


def _pull(kubernetes: Kubernetes, image: str) -> None:
    if kubernetes.run("docker", "image", "inspect", image, check=False).returncode != 0:
        kubernetes.run("docker", "pull", "--quiet", image)


def _load(kubernetes: Kubernetes, image: str) -> None:
    _pull(kubernetes, image)
    kubernetes.run("kind", "load", "docker-image", "--name", CLUSTER, image)


def _start_prometheus(kubernetes: Kubernetes) -> None:
    _load(kubernetes, "prom/prometheus:v3.5.3")
    kubernetes.run("kubectl", "apply", "--filename", "tests/e2e/prometheus.yaml")
    kubernetes.kubectl("wait", "pod/prometheus", "--for=condition=Ready", "--timeout=120s", namespace="monitoring")


@pytest.fixture(scope="session")
def figures(request: pytest.FixtureRequest) -> dict[str, str]:
    """What is measured, by what it is."""
    return request.config.stash.setdefault(_figures, {})


@pytest.fixture(scope="session")
def images(figures: dict[str, str]) -> None:
    """The images of both services, built from what is here."""
    started = time.monotonic()
    _script(0, "images")
    figures["images built"] = f"{time.monotonic() - started:.0f} s"


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest, images: None, figures: dict[str, str]) -> Iterator[tuple[Kubernetes, int]]:
    """A cluster with images, Traefik, certificate and Secret in it, and its port; Keystile is not there yet."""
    keep, kept = bool(os.environ.get("E2E_KEEP")), _port_of_kept_cluster()
    if kept is not None and not keep:
        _script(kept, "down")
        kept = None
    port, kubernetes = kept or free_ports(1)[0], Kubernetes(STATE / "kubeconfig", f"{CLUSTER}-control-plane")
    try:
        started = time.monotonic()
        _script(port, "create")
        figures["cluster made, images loaded"] = f"{time.monotonic() - started:.0f} s"
        request.config.stash[_kubernetes] = kubernetes
        if kept:
            _uninstall(kubernetes)
        _start_prometheus(kubernetes)
        yield kubernetes, port
    finally:
        if not keep:
            _script(port, "down")


@pytest.fixture(scope="session")
def site(cluster: tuple[Kubernetes, int], figures: dict[str, str]) -> Site:
    """The release, installed, with a user; the time until its first tool call is among the figures."""
    kubernetes, port = cluster
    started = time.monotonic()
    _script(port, "install", *VALUES)
    ready = time.monotonic()
    _script(port, "user")
    issuer = f"https://localhost:{port}"
    password = (STATE / "password").read_text().strip()
    site = Site(issuer, f"{issuer}/mcp", STATE / "ca.crt", password, kubernetes, figures)
    site.wait_until_served()
    with site.http() as http:
        client = site.sign_in(http)
        answer = site.call_tool(http, client.access_token)
    assert answer.status_code == httpx2.codes.OK, answer.text
    site.ready_seconds, site.first_call_seconds = ready - started, time.monotonic() - started
    figures["install until every pod is ready"] = f"{site.ready_seconds:.1f} s"
    figures["install until the first authorised tool call"] = f"{site.first_call_seconds:.1f} s"
    return site


@pytest.fixture(scope="session")
def upgrade(cluster: tuple[Kubernetes, int], site: Site) -> Callable[..., None]:
    """Upgrades the release: what is given goes to helm, beside the values of the first installation."""

    def upgrade(*arguments: str) -> None:
        _script(cluster[1], "install", *VALUES, *arguments)

    return upgrade


@pytest.fixture(scope="session")
def tls_inside(site: Site, upgrade: Callable[..., None]) -> TlsInside:
    """From here on every connection between the pods is TLS, and the ingress controller checks the certificates."""
    inside = TlsInside(site.kubernetes)
    inside.put_authority()
    inside.renew()
    inside.give_traefik_its_own_kinds()
    inside.let_traefik_check()
    upgrade(*TLS_INSIDE)
    site.kubernetes.wait_for_rollout(
        "statefulset/keystile-valkey", *(f"deployment/keystile-{each}" for each in ("auth", "mcp", "signed"))
    )
    site.wait_until_served(site.resource, f"{site.issuer}/signed")
    return inside


@pytest.fixture(scope="session")
def age_keys(tls_inside: TlsInside) -> Callable[[int], None]:
    """Makes the signing keys in the store so many seconds older, which a test could not wait for."""

    def age_keys(seconds: int) -> None:
        script = f"""
            local document = cjson.decode(redis.call('GET', KEYS[1]))
            for _, key in ipairs(document.keys) do
              key.created = key.created - {seconds}
              if key.since then key.since = key.since - {seconds} end
            end
            return redis.call('SET', KEYS[1], cjson.encode(document))"""
        ask = 'valkey-cli --tls --insecure eval "$1" 1 ks:signing-keys'
        command = ("sh", "-c", f"REDISCLI_AUTH=$(cat /var/run/secrets/valkey/password) {ask}", "sh", script)
        answer = tls_inside.kubernetes.kubectl("exec", "keystile-valkey-0", "--", *command)
        assert answer.strip() == "OK"

    return age_keys


@pytest.fixture(scope="session")
def load(cluster: tuple[Kubernetes, int]) -> Callable[[str], None]:
    """Brings an image into the cluster, pulled if it is not here."""
    return lambda image: _load(cluster[0], image)


@pytest.fixture(scope="session")
def company(cluster: tuple[Kubernetes, int], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Company]:
    """A company's site beside the cluster, and a namespace that is ready for a release."""
    _pull(cluster[0], "redis:7")
    kubernetes = replace(cluster[0], namespace=ON_SITE)
    with running_company(kubernetes, tmp_path_factory.mktemp("company")) as company:
        yield company


@pytest.fixture(scope="module")
def keycloak(site: Site, company: Company, load: Callable[[str], None]) -> Iterator[Keycloak]:
    """A Keycloak in the cluster. It knows the release as a client, and a server at `external.corp.test`."""
    load(KEYCLOAK)
    started = time.monotonic()
    with running_keycloak(site.kubernetes, company) as keycloak:
        keycloak.make_realm(site.issuer, external_resource(site))
        site.figures["Keycloak started"] = f"{time.monotonic() - started:.0f} s"
        yield keycloak


@pytest.fixture(scope="session")
def install_on_site(
    cluster: tuple[Kubernetes, int], company: Company, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """Installs or upgrades the release on the company's site; what is given goes to helm."""
    kubernetes, port = cluster
    values = tmp_path_factory.mktemp("on-site") / "values.yaml"
    text = (ROOT / "tests" / "e2e" / "on-site-values.yaml").read_text()
    values.write_text(text.replace("PORT", str(port)).replace("NETWORK", ", ".join(map(json.dumps, company.networks))))

    def install(*arguments: str) -> None:
        release = ("keystile", "charts/keystile", "--namespace", ON_SITE, "--values", str(values))
        kubernetes.run("helm", "upgrade", "--install", *release, "--wait", "--timeout", "120s", *arguments)

    return install


@pytest.fixture(scope="module")
def on_site(cluster: tuple[Kubernetes, int], company: Company, install_on_site: Callable[..., None]) -> Iterator[Site]:
    """The release on the company's site, with a user; it goes with its module, to leave the node's CPU to others."""
    kubernetes, port = replace(cluster[0], namespace=ON_SITE), cluster[1]
    install_on_site()
    password = "a password that nobody guesses"
    command = ("exec", "--stdin", "deploy/keystile-auth", "--", "keystile", "users", "add", "demo")
    kubernetes.kubectl(*command, given=password)
    issuer, resource = f"https://auth.corp.test:{port}", f"https://tools.corp.test:{port}/mcp"
    site = Site(issuer, resource, company.ca_file, password, kubernetes, {}, access_token_seconds=4, cache_seconds=1)
    site.wait_until_served(resource, f"https://notes.corp.test:{port}/notes")
    yield site
    kubernetes.run("helm", "uninstall", "keystile", "--namespace", ON_SITE, "--wait")


@pytest.fixture
def http(site: Site) -> Iterator[httpx2.Client]:
    """What reaches the site as any client on the internet does."""
    with site.http() as client:
        yield client
