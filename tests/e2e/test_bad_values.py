"""Mistakes that only a cluster can show: the pod or its events say what to change, and the old pods go on serving.

Those that show before anything is installed are in tests/chart.
"""

import base64
import json
import secrets
from collections.abc import Iterator
from contextlib import suppress

import httpx2
import pytest

from tests.e2e.kubernetes import Kubernetes, eventually
from tests.e2e.site import Site

AUTH = "deployment/keystile-auth"


@pytest.fixture
def kubernetes(site: Site) -> Iterator[Kubernetes]:
    """The cluster; the Secret is as it was afterwards, and the pods are those of before."""
    kubernetes = site.kubernetes
    secret = json.loads(kubernetes.kubectl("get", "secret", "keystile", "--output", "json"))
    yield kubernetes
    patch = [{"op": "replace", "path": "/data", "value": secret["data"]}]
    kubernetes.kubectl("patch", "secret", "keystile", "--type=json", "--patch", json.dumps(patch))
    kubernetes.kubectl("rollout", "undo", AUTH)
    kubernetes.wait_for_rollout(AUTH)


def _said_by_new_pod(kubernetes: Kubernetes) -> str:
    """What the pods of auth that are not ready have in their logs and events."""
    said = []
    ready = kubernetes.pods("auth")
    for pod in kubernetes.objects("pods", "app.kubernetes.io/component=auth"):
        name = pod["metadata"]["name"]
        if name in ready:
            continue
        said.append(kubernetes.kubectl("events", "--for", f"pod/{name}"))
        # A pod that has not begun has no log.
        with suppress(AssertionError):
            said.append(kubernetes.kubectl("logs", name, "--tail=50"))
    return "\n".join(said)


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (None, "references non-existent secret key: master-key"),
        ("short", "must be 32 random bytes in base64"),
        (base64.b64encode(secrets.token_bytes(32)).decode(), "master_key is not the one that the keys in the store"),
    ],
    ids=["missing", "too short", "not the store's"],
)
def test_a_mistaken_master_key_is_named_and_the_old_pods_go_on(
    value: str | None, sentence: str, kubernetes: Kubernetes, site: Site, http: httpx2.Client
) -> None:
    encoded = None if value is None else base64.b64encode(value.encode()).decode()
    kubernetes.kubectl("patch", "secret", "keystile", "--patch", json.dumps({"data": {"master-key": encoded}}))
    kubernetes.kubectl("rollout", "restart", AUTH)
    eventually(f"a pod says {sentence}", lambda: sentence in _said_by_new_pod(kubernetes))
    client = site.sign_in(http)
    assert site.refresh(http, client).status_code == 200
