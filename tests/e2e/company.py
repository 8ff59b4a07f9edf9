"""What a company has on its own site, beside the cluster: an authority, a store, a document host, and their names."""

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trustme
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests import assistant
from tests.e2e.kubernetes import Kubernetes

DOMAIN = ".corp.test"
NAMESPACE = "on-site"
CLIENT_ID = f"https://documents{DOMAIN}/client.json"
STRANGER_ID = f"https://stranger{DOMAIN}/stranger.json"
"""The same document host by a name that the release's settings do not have."""
REDIS_PASSWORD = "acl-password"
_NETWORK = "kind"
_ACL = ["--user", "keystile", "on", f">{REDIS_PASSWORD}", "~ks:*", "+@all", "-@dangerous", "+info"]
_TLS = ["--port", "0", "--tls-port", "6380", "--tls-auth-clients", "no", "--tls-ca-cert-file", "/tls/ca.pem"]
_DOCUMENT_HOST = """
import functools, http.server, ssl
handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory="/documents")
server = http.server.ThreadingHTTPServer(("", 443), handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/tls/server.pem", "/tls/server.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
print("ready", flush=True)
server.serve_forever()
"""


@dataclass(frozen=True)
class Company:
    """A company's site.

    Attributes:
        ca_file: the certificate of its authority.
        networks: where its hosts have their addresses, as CIDR.
        redis_address: that of the store, which its certificate does not name.
        documents: the container that clients' documents are in.
    """

    authority: trustme.CA
    ca_file: Path
    networks: tuple[str, ...]
    redis_address: str
    documents: DockerContainer

    def put_certificate(self, kubernetes: Kubernetes, secret: str, *names: str) -> None:
        """Make a Secret with a certificate for these names, its key, and the authority's certificate."""
        certificate = self.authority.issue_cert(*names)
        chain = b"".join(blob.bytes() for blob in certificate.cert_chain_pems)
        data = {"tls.crt": chain, "tls.key": certificate.private_key_pem.bytes(), "ca.crt": self.ca_file.read_bytes()}
        manifest = {
            "apiVersion": "v1",
            "kind": "Secret",
            "type": "kubernetes.io/tls",
            "metadata": {"name": secret},
            "stringData": {name: value.decode() for name, value in data.items()},
        }
        kubernetes.kubectl("apply", "--filename", "-", given=json.dumps(manifest))

    def fetched(self, path: str) -> bool:
        """Whether the document host was asked for a path."""
        return any(f"GET {path} " in log.decode() for log in self.documents.get_logs())


@contextmanager
def running_company(kubernetes: Kubernetes, folder: Path) -> Iterator[Company]:
    """Run the site while the block runs, and put what a release there needs into its namespace."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    redis = _container("redis:7", authority, "redis").with_command(
        ["redis-server", *_TLS, "--tls-cert-file", "/tls/server.pem", "--tls-key-file", "/tls/server.key", *_ACL,
         "--user", "default", "off"]
    )  # fmt: skip
    documents = _container("keystile-mcp:dev", authority, "documents", "stranger")
    documents.with_kwargs(entrypoint=["python3", "-c", _DOCUMENT_HOST])
    for url in (CLIENT_ID, STRANGER_ID):
        documents.with_copy_into_container(_document(url), f"/documents/{url.rpartition('/')[2]}", 0o644)
    redis.waiting_for(LogMessageWaitStrategy("Ready to accept connections"))
    documents.waiting_for(LogMessageWaitStrategy("ready"))
    with ExitStack() as stack:
        for container in (redis, documents):
            stack.enter_context(container)
        stack.enter_context(names_lead_here(DOMAIN))
        company = Company(authority, folder / "ca.crt", _networks(kubernetes), _address(kubernetes, redis), documents)
        _prepare_namespace(kubernetes, company)
        yield company


def _container(image: str, authority: trustme.CA, *names: str) -> DockerContainer:
    """A container beside the cluster's node, with a certificate for the names that pods reach it by."""
    certificate = authority.issue_cert(*(name + DOMAIN for name in names))
    network = Network()
    network.name = _NETWORK  # that of the cluster's node, which is there
    container = DockerContainer(image).with_network(network).with_network_aliases(*(name + DOMAIN for name in names))
    for name, content in {
        "server.pem": b"".join(blob.bytes() for blob in certificate.cert_chain_pems),
        "server.key": certificate.private_key_pem.bytes(),
        "ca.pem": authority.cert_pem.bytes(),
    }.items():
        # Readable for the service's own user; the container lives as long as the tests.
        container.with_copy_into_container(content, f"/tls/{name}", 0o644)
    return container


def _document(url: str) -> bytes:
    document = {
        "client_id": url,
        "client_name": "On-site assistant",
        "redirect_uris": [assistant.CALLBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
    }
    return json.dumps(document).encode()


def _networks(kubernetes: Kubernetes) -> tuple[str, ...]:
    (network,) = json.loads(kubernetes.run("docker", "network", "inspect", _NETWORK).stdout)
    return tuple(each["Subnet"] for each in network["IPAM"]["Config"])


def _address(kubernetes: Kubernetes, container: DockerContainer) -> str:
    template = f"{{{{.NetworkSettings.Networks.{_NETWORK}.IPAddress}}}}"
    identity = container.get_wrapped_container().id
    return kubernetes.run("docker", "inspect", "--format", template, str(identity)).stdout.strip()


@contextmanager
def names_lead_here(ending: str) -> Iterator[None]:
    """Names with this ending lead to this machine, for this process: to the ingress controller, or a forwarded port."""
    ask = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        return ask("127.0.0.1" if name and name.endswith(ending) else host, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", getaddrinfo)
        yield


def _prepare_namespace(kubernetes: Kubernetes, company: Company) -> None:
    kubernetes.run("kubectl", "delete", "namespace", NAMESPACE, "--ignore-not-found", "--wait")
    kubernetes.run("kubectl", "create", "namespace", NAMESPACE)
    kubernetes.run("kubectl", "label", "namespace", NAMESPACE, "pod-security.kubernetes.io/enforce=restricted")
    company.put_certificate(kubernetes, "keystile-tls", *(name + DOMAIN for name in ("auth", "tools", "notes")))
    master_key = kubernetes.run("openssl", "rand", "-base64", "32").stdout.strip()
    keys = (f"--from-literal=master-key={master_key}", f"--from-literal=redis-password={REDIS_PASSWORD}")
    kubernetes.kubectl("create", "secret", "generic", "keystile", *keys)
    kubernetes.kubectl("create", "configmap", "corp-ca", f"--from-file=ca.crt={company.ca_file}")
