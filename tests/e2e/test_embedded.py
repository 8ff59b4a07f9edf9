"""The topology embedded: k8s/examples/embedded-values.yaml, installed as it is but for its host and image."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2
import pytest

from tests.e2e.company import DOMAIN, Company
from tests.e2e.kubernetes import ROOT, Kubernetes
from tests.e2e.site import Site

_NAMESPACE = "embedded"
_HOST = "embedded" + DOMAIN
_IMAGE = "keystile-embedded:dev"
_WORKLOAD = "statefulset/keystile-mcp"


@pytest.fixture(scope="module")
def embedded(
    cluster: tuple[Kubernetes, int],
    company: Company,
    load: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The example with a user, in a namespace of its own that goes afterwards."""
    kubernetes, port = replace(cluster[0], namespace=_NAMESPACE), cluster[1]
    load(_IMAGE)
    folder = tmp_path_factory.mktemp("embedded")
    _make_namespace(kubernetes, company)
    text = (ROOT / "k8s" / "examples" / "embedded-values.yaml").read_text()
    values = folder / "values.yaml"
    values.write_text(text.replace("https://tools.example.com", f"https://{_HOST}:{port}"))
    release = ("keystile", "charts/keystile", "--namespace", _NAMESPACE, "--values", str(values))
    image = (
        "--set",
        f"mcp.embedded.image.repository={_IMAGE.partition(':')[0]}",
        "--set",
        "mcp.embedded.image.tag=dev",
    )
    kubernetes.run("helm", "install", *release, *image, "--wait", "--timeout", "120s")
    password = "a password that nobody guesses"
    kubernetes.kubectl("exec", "--stdin", _WORKLOAD, "--", "keystile", "users", "add", "demo", given=password)
    issuer = f"https://{_HOST}:{port}"
    site = Site(issuer, f"{issuer}/mcp", company.ca_file, password, kubernetes, {})
    site.wait_until_served()
    yield site
    kubernetes.run("kubectl", "delete", "namespace", _NAMESPACE, "--wait=false")


def _make_namespace(kubernetes: Kubernetes, company: Company) -> None:
    kubernetes.run("kubectl", "delete", "namespace", _NAMESPACE, "--ignore-not-found", "--wait")
    kubernetes.run("kubectl", "create", "namespace", _NAMESPACE)
    kubernetes.run("kubectl", "label", "namespace", _NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    company.put_certificate(kubernetes, "keystile-tls", _HOST)
    master_key = kubernetes.run("openssl", "rand", "-base64", "32").stdout.strip()
    kubernetes.kubectl("create", "secret", "generic", "keystile", f"--from-literal=master-key={master_key}")


@pytest.fixture
def http(embedded: Site) -> Iterator[httpx2.Client]:
    """What reaches the example as its clients do."""
    with embedded.http() as client:
        yield client


def test_somebody_signs_in_and_a_tool_is_called(embedded: Site, http: httpx2.Client) -> None:
    token = embedded.sign_in(http).access_token
    assert embedded.call_tool(http, token).status_code == 200
    assert embedded.call_tool(http, token + "x").status_code == 401
    for path in ("/introspect", "/healthz", "/readyz", "/metrics"):
        assert http.get(f"{embedded.issuer}{path}").status_code == 404, path


def test_users_grants_and_tokens_are_there_in_the_next_pod(embedded: Site, http: httpx2.Client) -> None:
    client = embedded.sign_in(http)
    embedded.kubernetes.kubectl("delete", "pod", "keystile-mcp-0", "--wait")
    embedded.kubernetes.kubectl("rollout", "status", _WORKLOAD, "--timeout=120s")
    embedded.wait_until_served()
    assert embedded.call_tool(http, client.access_token).status_code == 200
    assert embedded.refresh(http, client).status_code == 200
    assert embedded.call_tool(http, embedded.sign_in(http).access_token).status_code == 200


def test_helm_test_passes_without_a_token(embedded: Site) -> None:
    answer = embedded.kubernetes.run("helm", "test", "keystile", "--namespace", _NAMESPACE, "--logs", check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "they name every resource here" in answer.stdout
    assert "no token was asked for: auth.testClient is false" in answer.stdout


def test_nothing_gets_out_of_the_pod(embedded: Site) -> None:
    kubernetes = embedded.kubernetes
    (address,) = kubernetes.kubectl(
        "get", "pod", "prometheus", "--output=jsonpath={.status.podIP}", namespace="monitoring"
    ).split()
    program = f"""
import socket
try:
    socket.create_connection(("{address}", 9090), 3)
    print("open")
except OSError:
    print("shut")
"""
    assert kubernetes.run_pod("stray", program) == "open\n"
    assert kubernetes.kubectl("exec", _WORKLOAD, "--", "python", "-c", program) == "shut\n"
