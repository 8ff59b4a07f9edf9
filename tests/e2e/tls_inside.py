"""What TLS between the pods needs: certificates in Secrets, and an ingress controller that checks them."""

import base64
import json
import ssl
import time
from dataclasses import dataclass, field
from typing import Any

from tests.e2e.kubernetes import NAMESPACE, Kubernetes, eventually
from tests.tls import Authority

COMPONENTS = {"auth": 3001, "mcp": 3232, "signed": 3232, "valkey": 6379}
"""Component of the release to the port of its pods."""
COMMON_NAME = f"keystile.{NAMESPACE}.svc"
_ANNOTATION = r"traefik\.ingress\.kubernetes\.io/service\.serverstransport"
VALUES = (
    "--set",
    "resource=",
    "--values",
    "tests/e2e/tls-inside.yaml",
    "--set-string",
    f"network.tls.serviceAnnotations.{_ANNOTATION}={NAMESPACE}-inside@kubernetescrd",
)
_KINDS = (
    "IngressRoute",
    "IngressRouteTCP",
    "IngressRouteUDP",
    "Middleware",
    "MiddlewareTCP",
    "ServersTransport",
    "ServersTransportTCP",
    "TLSOption",
    "TLSStore",
    "TraefikService",
)


@dataclass
class TlsInside:
    """The certificates of a release.

    Attributes:
        shown: component to the certificate that it has to show, PEM.
    """

    kubernetes: Kubernetes
    authority: Authority = field(default_factory=Authority)
    shown: dict[str, bytes] = field(default_factory=dict)

    def put_authority(self) -> None:
        """The authority's Secret, as cert-manager names its key."""
        self._apply(_secret("keystile-ca", "Opaque", {"ca.crt": self.authority.pem}))

    def renew(self) -> None:
        """A new pair in the Secret of every component."""
        for component in COMPONENTS:
            certificate, key = self.authority.pair(f"keystile-{component}.{NAMESPACE}.svc", COMMON_NAME)
            self._apply(
                _secret(f"keystile-{component}-tls", "kubernetes.io/tls", {"tls.crt": certificate, "tls.key": key})
            )
            self.shown[component] = certificate

    def pods(self) -> list[tuple[str, str]]:
        """Component and name of every pod that speaks TLS."""
        found = [
            (name.split("-")[1], name) for label in ("auth", "mcp", "valkey") for name in self.kubernetes.pods(label)
        ]
        assert {component for component, _ in found} == set(COMPONENTS), found
        return found

    def wait_until_shown(self) -> None:
        """Wait until a new connection to any pod is shown the certificate that its Secret has now."""
        # The kubelet looks at a pod's Secrets within a minute or two, and at once when the pod is changed.
        self.kubernetes.kubectl("annotate", "pods", "--all", "--overwrite", f"renewed={time.time()}")
        for component, pod in self.pods():
            self._wait_until_shown(component, pod)

    def _wait_until_shown(self, component: str, pod: str) -> None:
        wanted = self.shown[component].decode()
        eventually(f"{pod} shows its new certificate", lambda: self._shown(component, pod) in wanted, 120)

    def _shown(self, component: str, pod: str) -> str:
        with self.kubernetes.port_forward(pod, COMPONENTS[component]) as port:
            return ssl.get_server_certificate(("127.0.0.1", port), timeout=5).strip()

    def let_traefik_check(self, name: str = COMMON_NAME) -> None:
        """Have Traefik trust the authority, and expect this name of every pod."""
        spec = {"serverName": name, "rootCAs": [{"secret": "keystile-ca"}]}
        metadata = {"name": "inside", "namespace": NAMESPACE}
        transport = {
            "apiVersion": "traefik.io/v1alpha1",
            "kind": "ServersTransport",
            "metadata": metadata,
            "spec": spec,
        }
        self._apply(transport)

    def give_traefik_its_own_kinds(self) -> None:
        """Traefik's definitions without their schemas, the right to read them, and the provider that does."""
        definitions = [_definition(kind) for kind in _KINDS]
        self._apply({"apiVersion": "v1", "kind": "List", "items": [*definitions, *_rights()]})
        names = [f"crd/{each['metadata']['name']}" for each in definitions]
        self.kubernetes.run("kubectl", "wait", "--for=condition=Established", "--timeout=30s", *names)
        self.kubernetes.give_traefik("--providers.kubernetescrd")

    def _apply(self, document: dict[str, Any]) -> None:
        self.kubernetes.run("kubectl", "apply", "--filename", "-", given=json.dumps(document))


def _secret(name: str, kind: str, files: dict[str, bytes]) -> dict[str, Any]:
    data = {each: base64.b64encode(content).decode() for each, content in files.items()}
    metadata = {"name": name, "namespace": NAMESPACE}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": kind, "data": data}


def _definition(kind: str) -> dict[str, Any]:
    plural = kind.lower() + "s"
    schema = {"openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{plural}.traefik.io"},
        "spec": {
            "group": "traefik.io",
            "names": {"kind": kind, "listKind": f"{kind}List", "plural": plural, "singular": kind.lower()},
            "scope": "Namespaced",
            "versions": [{"name": "v1alpha1", "served": True, "storage": True, "schema": schema}],
        },
    }


def _rights() -> list[dict[str, Any]]:
    name, group = {"name": "traefik-own-kinds"}, "rbac.authorization.k8s.io"
    verbs = ["get", "list", "watch"]
    rules = [
        {"apiGroups": ["traefik.io"], "resources": ["*"], "verbs": verbs},
        {"apiGroups": [""], "resources": ["configmaps"], "verbs": verbs},
    ]
    account = {"kind": "ServiceAccount", "name": "traefik", "namespace": "traefik"}
    role = {"apiGroup": group, "kind": "ClusterRole", "name": name["name"]}
    kinds = {"apiVersion": f"{group}/v1", "metadata": name}
    return [
        {**kinds, "kind": "ClusterRole", "rules": rules},
        {**kinds, "kind": "ClusterRoleBinding", "roleRef": role, "subjects": [account]},
    ]
