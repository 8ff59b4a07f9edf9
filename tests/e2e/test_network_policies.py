"""What the chart's NetworkPolicies name passes; all else is refused, where the cluster's network enforces them."""

import json
from collections.abc import Callable

from tests.e2e.kubernetes import NAMESPACE, Kubernetes
from tests.e2e.site import Site

_SERVICE = f"keystile-{{}}.{NAMESPACE}.svc:{{}}".format
AUTH, AUTH_METRICS = _SERVICE("auth", 3001), _SERVICE("auth", 9464)
MCP, MCP_METRICS = _SERVICE("mcp", 3232), _SERVICE("mcp", 9465)
VALKEY, API_SERVER, TRAEFIK = _SERVICE("valkey", 6379), "kubernetes.default.svc:443", "traefik.traefik.svc:443"

# Prints which of its targets could be connected to.
_PROBE = """
import json, socket
opened = []
for target in TARGETS:
    host, port = target.rsplit(":", 1)
    address = socket.getaddrinfo(host, int(port), socket.AF_INET)[0][4]
    try:
        socket.create_connection(address, 2).close()
        opened.append(target)
    except OSError:
        pass
print(json.dumps(opened))
"""


def _probe(targets: tuple[str, ...]) -> str:
    return f"TARGETS = {targets!r}\n{_PROBE}"


def _from_stranger(kubernetes: Kubernetes, *targets: str, namespace: str = NAMESPACE) -> set[str]:
    return set(json.loads(kubernetes.run_pod("stray", _probe(targets), namespace=namespace)))


def _from_workload(kubernetes: Kubernetes, workload: str, *targets: str) -> set[str]:
    return set(json.loads(kubernetes.kubectl("exec", workload, "--", "python3", "-c", _probe(targets))))


def test_a_stranger_in_the_namespace_reaches_nothing(site: Site) -> None:
    assert _from_stranger(site.kubernetes, VALKEY, AUTH, AUTH_METRICS, MCP, MCP_METRICS) == set()


def test_prometheus_reaches_the_metrics_and_nothing_else(site: Site) -> None:
    targets = (VALKEY, AUTH, AUTH_METRICS, MCP, MCP_METRICS)
    assert _from_stranger(site.kubernetes, *targets, namespace="monitoring") == {AUTH_METRICS, MCP_METRICS}


def test_an_mcp_server_reaches_auth_the_store_of_its_sessions_and_nothing_else(
    site: Site, upgrade: Callable[..., None]
) -> None:
    upgrade("--set", "resource=", "--set", "servers.mcp.path=/mcp", "--set", "servers.single.path=/single",
            "--set", "servers.single.replicas=1")  # fmt: skip
    # The API server is on this node, and what a pod sends to its own node no policy can refuse.
    targets = (VALKEY, AUTH, AUTH_METRICS, TRAEFIK)
    assert _from_workload(site.kubernetes, "deployment/keystile-mcp", *targets) == {AUTH, VALKEY}
    # One pod alone has nobody to share sessions with.
    assert _from_workload(site.kubernetes, "deployment/keystile-single", *targets) == {AUTH}


def test_sessions_are_handed_over_between_pods_of_one_server_alone(site: Site) -> None:
    kubernetes = site.kubernetes
    one, two = (pod for pod in kubernetes.objects("pods", "keystile/server=mcp") if pod["status"]["podIP"])
    address = one["status"]["podIP"]
    handover, http = f"{address}:3233", f"{address}:3232"
    assert _from_workload(kubernetes, f"pod/{two['metadata']['name']}", handover) == {handover}
    for workload in ("deployment/keystile-single", "deployment/keystile-auth"):
        assert _from_workload(kubernetes, workload, handover) == set()
    assert _from_stranger(kubernetes, handover) == set()
    # What the ingress controller's namespace reaches, a route to this port would not lead to.
    assert _from_stranger(kubernetes, handover, http, namespace="traefik") == {http}
    (service,) = kubernetes.objects("services", "keystile/server=mcp")
    assert 3233 not in {port.get("targetPort", port["port"]) for port in service["spec"]["ports"]}


def test_auth_reaches_its_store_and_the_clusters_keys_and_no_mcp_server(site: Site) -> None:
    targets = (VALKEY, MCP, MCP_METRICS, API_SERVER, TRAEFIK)
    assert _from_workload(site.kubernetes, "deployment/keystile-auth", *targets) == {VALKEY, API_SERVER}
