"""Likely mistakes: helm refuses the installation, or the new pod or its events say what to change.

tests/chart has more of the first kind, without a cluster.
"""

import base64
import json
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import httpx2
import pytest

from tests.e2e.company import NAMESPACE as ON_SITE
from tests.e2e.company import Company
from tests.e2e.kubernetes import Kubernetes, eventually
from tests.e2e.site import Site

AUTH = "deployment/keystile-auth"
_GOOD = {
    "issuer": "https://auth.example.com",
    "resource": "https://mcp.example.com/mcp",
    "existingSecret": "keystile",
}
_REFUSED = {
    "a typo": ({"isuer": "https://auth.example.com"}, "isuer"),
    "a typo deep down": ({"auth.settings.tokens.acess_token_seconds": "60"}, "acess_token_seconds"),
    "an issuer by http": ({"issuer": "http://auth.example.com"}, "issuer: http://auth.example.com must be https"),
    "no issuer": ({"issuer": ""}, "issuer: is required"),
    "no Secret": ({"existingSecret": ""}, "existingSecret: is required"),
    "no resource": ({"resource": ""}, "resource: is required"),
    "a resource without a path": ({"resource": "https://mcp.example.com"}, "https://mcp.example.com must have a path"),
    "a resource on a path of the authorization server": (
        {"resource": "https://auth.example.com/token"},
        "servers.mcp.resource: /token is a path of the authorization server",
    ),
    "a password in the store's URL": ({"auth.store.url": "redis://u:p@redis:6379"}, "auth.store.url: must be"),
    "an authority for a store without TLS": (
        {"auth.store.url": "redis://redis:6379", "auth.store.ca.configMap": "ca"},
        "auth.store.ca: is for a rediss:// store",
    ),
    "a word for a number": ({"auth.replicas": "two"}, "replicas"),
    "a policy with a scope that is not there": (
        {"resource": "", "servers.tools.path": "/tools", "servers.tools.required_scopes": "{mcp:admin}"},
        "servers.tools.required_scopes: mcp:admin is not among its scopes",
    ),
    "a secret among the values": (
        {"auth.identity.corp.kind": "oidc", "auth.identity.corp.client_secret": "x"},
        "client_secret",
    ),
    "scopes for an identity that is not there": (
        {"resource": "", "servers.tools.path": "/tools", "servers.tools.user_scopes.corp": "{mcp:basic}"},
        "servers.tools.user_scopes.corp: there is no identity corp",
    ),
    "several pods over the store in one of them": (
        {"topology": "embedded", "resource": "https://auth.example.com/mcp", "mcp.embedded.replicas": "2"},
        "mcp.embedded.replicas: several pods need a store elsewhere",
    ),
    "an identity where the authorization server is another's": (
        {"topology": "external", "auth.identity.local.kind": "local"},
        "auth.identity: is for Keystile's own authorization server",
    ),
    "a Gateway without a name": ({"network.gateway.enabled": "true"}, "network.gateway.parentRefs: name the Gateway"),
    "an unknown log level": ({"observability.log.level": "loud"}, "level"),
}


def _helm_install(kubernetes: Kubernetes, values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    settings = [f"--set={name}={value}" for name, value in {**_GOOD, **values}.items()]
    release = ("mistaken", "charts/keystile", "--namespace", kubernetes.namespace)
    return kubernetes.run("helm", "install", *release, *settings, check=False)


@pytest.mark.parametrize("mistake", _REFUSED)
def test_helm_refuses_a_mistake_and_names_the_value(mistake: str, site: Site) -> None:
    values, sentence = _REFUSED[mistake]
    answer = _helm_install(site.kubernetes, values)
    assert answer.returncode != 0
    assert sentence in answer.stderr
    status = site.kubernetes.run("helm", "status", "mistaken", "--namespace", "keystile", check=False)
    assert status.returncode != 0


def _said(kubernetes: Kubernetes, selector: str) -> str:
    """What the pods of auth that are not ready have in their logs and events."""
    said = []
    ready = kubernetes.pods("auth")
    for pod in kubernetes.objects("pods", f"app.kubernetes.io/component=auth,{selector}"):
        name = pod["metadata"]["name"]
        if name in ready:
            continue
        said.append(kubernetes.kubectl("events", "--for", f"pod/{name}"))
        # A pod that has not begun has no log.
        with suppress(AssertionError):
            said.append(kubernetes.kubectl("logs", name, "--tail=50"))
    return "\n".join(said)


_ON_SITE_STORE = {
    "auth.store.url": "rediss://redis.corp.test:6380/0",
    "auth.store.username": "keystile",
    "auth.store.passwordKey": "redis-password",
    "auth.store.ca.configMap": "corp-ca",
}
_MISTAKEN_AT_START = {
    "a Secret that is not there": ({"existingSecret": "keystyle"}, 'secret "keystyle" not found'),
    "a key that is not in the Secret": ({"auth.store.passwordKey": "password"}, "non-existent secret key: password"),
    "a store that is not there": (
        {"auth.store.url": "rediss://reddis.corp.test:6380"},
        "The store does not answer. Is it running, and is store.url right?",
    ),
    "a store by an address that is not in its certificate": (
        {"auth.store.url": "rediss://ADDRESS:6380"},
        "the store's certificate is refused: IP address mismatch",
    ),
    "another authority": (
        {"auth.store.ca.configMap": "kube-root-ca.crt"},
        "certificate in certificate chain; check store.ca_file and the host's name",
    ),
    "another user": (
        {"auth.store.username": "keystyle"},
        "the store refuses the login: check store.username and store.password",
    ),
    "another password": (
        {"auth.store.passwordKey": "master-key"},
        "the store refuses the login: check store.username and store.password",
    ),
}


@pytest.mark.parametrize("mistake", _MISTAKEN_AT_START)
def test_a_pod_that_cannot_start_says_what_to_change(mistake: str, site: Site, company: Company) -> None:
    values, sentence = _MISTAKEN_AT_START[mistake]
    kubernetes = replace(site.kubernetes, namespace=ON_SITE)
    images = {f"{each}.image.{key}": value for each in ("auth", "mcp") for key, value in _image(each).items()}
    few = {"auth.replicas": "1", "mcp.replicas": "0", "auth.settings.store.start_seconds": "1"}
    given = {**images, **few, **_ON_SITE_STORE, **values}
    answer = _helm_install(
        kubernetes, {name: value.replace("ADDRESS", company.redis_address) for name, value in given.items()}
    )
    said = "app.kubernetes.io/instance=mistaken"
    try:
        assert answer.returncode == 0, answer.stderr
        eventually(f"a pod says {sentence}", lambda: sentence in _said(kubernetes, said))
    finally:
        kubernetes.run("helm", "uninstall", "mistaken", "--namespace", ON_SITE, "--wait")
        eventually("its pods are gone", lambda: not kubernetes.objects("pods", said))


def _image(service: str) -> dict[str, str]:
    return {"repository": f"keystile-{service}", "tag": "dev"}


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


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("master-key", None, "references non-existent secret key: master-key"),
        ("master-key", "short", "must be 32 random bytes in base64"),
        (
            "master-key",
            base64.b64encode(secrets.token_bytes(32)).decode(),
            "master_key is not the one that the keys in the store",
        ),
        ("valkey-password", "another", "the store refuses the login: check store.username and store.password"),
    ],
    ids=["no master key", "a short master key", "a master key that is not the store's", "not the store's password"],
)
def test_a_mistaken_secret_is_named_and_the_old_pods_go_on(
    key: str, value: str | None, sentence: str, kubernetes: Kubernetes, site: Site, http: httpx2.Client
) -> None:
    encoded = None if value is None else base64.b64encode(value.encode()).decode()
    kubernetes.kubectl("patch", "secret", "keystile", "--patch", json.dumps({"data": {key: encoded}}))
    kubernetes.kubectl("rollout", "restart", AUTH)
    said = "app.kubernetes.io/instance=keystile"
    eventually(f"a pod says {sentence}", lambda: sentence in _said(kubernetes, said))
    client = site.sign_in(http)
    assert site.refresh(http, client).status_code == 200
