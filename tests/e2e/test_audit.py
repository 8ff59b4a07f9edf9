"""Audit events on their way out of the cluster, by the collector beside each service."""

import json
import re
from collections.abc import Callable, Iterator

import httpx2
import pytest

from tests.e2e.kubernetes import Kubernetes, eventually
from tests.e2e.site import Site

_RECEIVER = "tests/e2e/otlp.yaml"
_IMAGE = "otel/opentelemetry-collector-contrib:0.160.0"


@pytest.fixture
def receiver(site: Site, load: Callable[[str], None]) -> Iterator[Kubernetes]:
    """The cluster, with an OTLP receiver in the namespace monitoring."""
    load(_IMAGE)
    _start(site.kubernetes)
    yield site.kubernetes
    site.kubernetes.run("kubectl", "delete", "--filename", _RECEIVER, "--wait=false")


def _start(kubernetes: Kubernetes) -> None:
    kubernetes.run("kubectl", "apply", "--filename", _RECEIVER)
    kubernetes.kubectl("wait", "pod/otlp", "--for=condition=Ready", "--timeout=60s", namespace="monitoring")


def _received(kubernetes: Kubernetes) -> list[str]:
    log = kubernetes.kubectl("logs", "otlp", "--tail=-1", namespace="monitoring")
    return re.findall(r"^Body: Str\((.*)\)$", log, re.MULTILINE)


def _written(kubernetes: Kubernetes) -> dict[str, list[str]]:
    """Pod to the audit events that it printed."""
    return {
        pod: [line for line in kubernetes.kubectl("logs", pod, "--tail=-1").splitlines() if '"audit":true' in line]
        for pod in kubernetes.pods("auth")
    }


def test_every_event_arrives_in_order_though_the_receiver_is_away_for_a_while(
    receiver: Kubernetes, site: Site, http: httpx2.Client, upgrade: Callable[..., None]
) -> None:
    upgrade(
        "--set",
        "observability.audit.collector.enabled=true",
        "--set",
        "observability.audit.collector.otlp_endpoint=http://otlp.monitoring.svc:4318",
    )
    receiver.wait_for_rollout("deployment/keystile-auth", "deployment/keystile-mcp")
    for _ in range(3):
        site.sign_in(http)

    def arrived(before: list[str]) -> bool:
        return {event for events in _written(receiver).values() for event in events} <= {*before, *_received(receiver)}

    eventually("the events have arrived", lambda: arrived([]), 30)
    first = _received(receiver)
    receiver.kubectl("delete", "pod", "otlp", "--wait", "--grace-period=1", namespace="monitoring")
    for _ in range(3):
        site.sign_in(http)
    _start(receiver)
    eventually("the events of meanwhile have arrived", lambda: arrived(first), 120)

    # What was sent twice counts by its first arrival.
    received = list(dict.fromkeys([*first, *_received(receiver)]))
    written = _written(receiver)
    for pod, events in written.items():
        own = set(events)
        assert [event for event in received if event in own] == events, pod
        assert [json.loads(event)["sequence"] for event in events] == list(range(1, len(events) + 1))
    site.figures["audit events received, in order"] = str(sum(map(len, written.values())))
