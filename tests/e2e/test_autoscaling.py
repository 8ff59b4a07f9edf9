"""A HorizontalPodAutoscaler, where the cluster has metrics for it.

METRICS_API names a manifest that brings the API metrics.k8s.io; metrics-server's, with --kubelet-insecure-tls, will do.
"""

import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.e2e.kubernetes import Kubernetes, eventually
from tests.e2e.site import Site


@pytest.fixture
def measured(site: Site) -> Kubernetes:
    """The cluster, which says what its pods use."""
    manifest = os.environ.get("METRICS_API")
    if not manifest:
        pytest.skip("no metrics in this cluster; METRICS_API names a manifest that brings them")
    kubernetes = site.kubernetes
    kubernetes.run("kubectl", "apply", "--filename", manifest)
    answers = ("kubectl", "get", "--raw", "/apis/metrics.k8s.io/v1beta1/namespaces/keystile/pods")
    eventually("pods are measured", lambda: '"usage"' in kubernetes.run(*answers, check=False).stdout, 120)
    return kubernetes


def _status(kubernetes: Kubernetes) -> dict[str, Any]:
    (autoscaler,) = kubernetes.objects("horizontalpodautoscalers", "app.kubernetes.io/component=auth")
    return dict(autoscaler.get("status", {}))


def test_auth_gets_another_pod_while_it_has_much_to_do(
    measured: Kubernetes, site: Site, upgrade: Callable[..., None]
) -> None:
    scaled = ("enabled=true", "minReplicas=2", "maxReplicas=3", "targetCPU=10")
    upgrade(*(word for each in scaled for word in ("--set", f"auth.autoscaling.{each}")))
    stop = threading.Event()

    def sign_in() -> None:
        with site.http() as http:
            client_id = site.register(http)
            while not stop.is_set():
                site.sign_in(http, client_id)

    thread = threading.Thread(target=sign_in)
    thread.start()
    try:
        eventually("the autoscaler wants three", lambda: _status(measured).get("desiredReplicas") == 3, 150)
    finally:
        stop.set()
        thread.join()
    eventually("three pods serve", lambda: len(measured.pods("auth")) == 3, 60)
    upgrade("--set", "auth.replicas=2")
    measured.wait_for_rollout("deployment/keystile-auth")
