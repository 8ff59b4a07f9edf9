"""Audit events on their way out of the cluster, by the collector beside each service."""

import json
import re
import time
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.e2e.kubernetes import Kubernetes, eventually
from tests.e2e.site import Site

_RECEIVER = "tests/e2e/otlp.yaml"
_IMAGE = "otel/opentelemetry-collector-contrib:0.160.0"


@pytest.fixture(scope="module")
def receiver(site: Site, load: Callable[[str], None], upgrade: Callable[..., None]) -> Iterator[Kubernetes]:
    """The cluster, with an OTLP receiver in the namespace monitoring that the release ships to."""
    load(_IMAGE)
    _start(site.kubernetes)
    upgrade(
        "--set",
        "observability.audit.collector.enabled=true",
        "--set",
        "observability.audit.collector.otlp_endpoint=http://otlp.monitoring.svc:4318",
    )
    site.kubernetes.wait_for_rollout("deployment/keystile-auth", "deployment/keystile-mcp")
    yield site.kubernetes
    site.kubernetes.run("kubectl", "delete", "--filename", _RECEIVER, "--wait=false")


def _start(kubernetes: Kubernetes) -> None:
    kubernetes.run("kubectl", "apply", "--filename", _RECEIVER)
    kubernetes.kubectl("wait", "pod/otlp", "--for=condition=Ready", "--timeout=60s", namespace="monitoring")


def _stop(kubernetes: Kubernetes) -> list[str]:
    """Take the receiver away; answers what it had received."""
    received = _received(kubernetes)
    kubernetes.kubectl("delete", "pod", "otlp", "--wait", "--grace-period=1", namespace="monitoring")
    return received


def _received(kubernetes: Kubernetes) -> list[str]:
    log = kubernetes.kubectl("logs", "otlp", "--tail=-1", namespace="monitoring")
    return re.findall(r"^Body: Str\((.*)\)$", log, re.MULTILINE)


def _written(kubernetes: Kubernetes) -> dict[str, list[str]]:
    """Pod to the audit events that it printed."""
    return {
        pod: [line for line in kubernetes.kubectl("logs", pod, "--tail=-1").splitlines() if '"audit":true' in line]
        for pod in kubernetes.pods("auth")
    }


def _wait_until_arrived(kubernetes: Kubernetes, before: list[str], seconds: float) -> list[str]:
    """Wait for every event that the pods printed; answers them as they arrived, `before` first."""

    def arrived() -> bool:
        written = {event for events in _written(kubernetes).values() for event in events}
        return written <= {*before, *_received(kubernetes)}

    eventually("the events have arrived", arrived, seconds)
    # What was sent twice counts by its first arrival.
    return list(dict.fromkeys([*before, *_received(kubernetes)]))


def _assert_in_order(kubernetes: Kubernetes, received: list[str]) -> int:
    written = _written(kubernetes)
    for pod, events in written.items():
        own = set(events)
        assert [event for event in received if event in own] == events, pod
        assert [json.loads(event)["sequence"] for event in events] == list(range(1, len(events) + 1))
    return sum(map(len, written.values()))


def test_every_event_arrives_in_order_though_receiver_and_collectors_are_away_for_a_while(
    receiver: Kubernetes, site: Site, http: httpx2.Client
) -> None:
    for _ in range(3):
        site.sign_in(http)
    _wait_until_arrived(receiver, [], 30)

    # The collectors are killed twice: with nobody to ship to, and while what was kept is being shipped.
    first = _stop(receiver)
    for _ in range(2):
        site.sign_in(http)
    _kill_collectors(receiver, site, http)
    for _ in range(2):
        site.sign_in(http)
    _start(receiver)
    _kill_collectors(receiver, site, http)
    site.sign_in(http)
    received = _wait_until_arrived(receiver, first, 120)
    count = _assert_in_order(receiver, received)
    site.figures["audit events received, in order"] = (
        f"{count}, with the receiver away and the collectors killed twice meanwhile"
    )


def _kill_collectors(kubernetes: Kubernetes, site: Site, http: httpx2.Client) -> None:
    before = kubernetes.restarts("auth")
    for pod in kubernetes.pods("auth"):
        kubernetes.kill(pod, "collector")
    eventually(
        "the collectors run again",
        lambda: all(count > before[pod] for pod, count in kubernetes.restarts("auth").items() if pod in before),
    )
    # A pod is not ready while its collector is not, and all of them were killed. The ingress controller learns of both
    # changes two seconds late at most: only an answer that stays counts.
    eventually("the pods are ready", lambda: set(kubernetes.pods("auth")) == set(before))
    eventually("the pods serve again", lambda: _keeps_serving(http, f"{site.issuer}/jwks"))


def _keeps_serving(http: httpx2.Client, url: str) -> bool:
    for _ in range(15):
        if http.get(url).status_code != httpx2.codes.OK:
            return False
        time.sleep(0.2)
    return True
