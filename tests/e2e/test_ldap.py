"""A directory in the cluster: people sign in with their passwords there, in a release that is one pod."""

import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2
import pytest

from tests.e2e.company import DOMAIN, Company
from tests.e2e.kubernetes import ROOT, Kubernetes
from tests.e2e.site import Site

_NAMESPACE = "directory"
_HOST = f"openldap.{_NAMESPACE}.svc"
_ISSUER_HOST = "directory" + DOMAIN
_IMAGE = "keystile-lab/openldap:2.6"
_ADA = "uid=ada,ou=people,dc=corp,dc=test"
_PASSWORD, _SERVICE_PASSWORD = "analytical-engine", "service-password"
_VALUES = """
topology: embedded
issuer: ISSUER
existingSecret: keystile
servers:
  mcp: {path: /mcp, user_scopes: {corp/staff: ["mcp:basic"]}}
auth:
  testClient: false
  identity:
    corp:
      kind: ldap
      urls: ["ldap://openldap.directory.svc:389"]
      start_tls: true
      ca: {configMap: corp-ca}
      bind_dn: uid=keystile,ou=people,dc=corp,dc=test
      bindPasswordKey: directory-password
      user_base: ou=people,dc=corp,dc=test
      group_base: ou=groups,dc=corp,dc=test
      recheck_seconds: 1
      egress:
        - {cidr: 10.244.0.0/16, ports: [1389]}
mcp:
  embedded:
    image: {repository: keystile-embedded, tag: dev}
network:
  ingress: {enabled: true, tlsSecret: keystile-tls}
  policies: {publicEgress: false}
"""


@pytest.fixture(scope="module")
def site(
    cluster: tuple[Kubernetes, int],
    company: Company,
    load: Callable[[str], None],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Site]:
    """The release and the directory, in a namespace of their own that goes afterwards."""
    kubernetes, port = replace(cluster[0], namespace=_NAMESPACE), cluster[1]
    if kubernetes.run("docker", "image", "inspect", _IMAGE, check=False).returncode != 0:
        pytest.skip(f"no image {_IMAGE}")
    for image in (_IMAGE, "keystile-embedded:dev"):
        load(image)
    kubernetes.run("kubectl", "delete", "namespace", _NAMESPACE, "--ignore-not-found", "--wait")
    kubernetes.run("kubectl", "create", "namespace", _NAMESPACE)
    company.put_certificate(kubernetes, "openldap-certificates", _HOST)
    company.put_certificate(kubernetes, "keystile-tls", _ISSUER_HOST)
    kubernetes.kubectl("apply", "--filename", str(ROOT / "tests" / "e2e" / "openldap.yaml"))
    kubernetes.kubectl("create", "configmap", "corp-ca", f"--from-file=ca.crt={company.ca_file}")
    master_key = kubernetes.run("openssl", "rand", "-base64", "32").stdout.strip()
    keys = (f"--from-literal=master-key={master_key}", f"--from-literal=directory-password={_SERVICE_PASSWORD}")
    kubernetes.kubectl("create", "secret", "generic", "keystile", *keys)
    issuer, values = f"https://{_ISSUER_HOST}:{port}", tmp_path_factory.mktemp("directory") / "values.yaml"
    values.write_text(_VALUES.replace("ISSUER", issuer))
    release = ("keystile", "charts/keystile", "--namespace", _NAMESPACE, "--values", str(values))
    kubernetes.run("helm", "install", *release, "--wait", "--timeout", "120s")
    kubernetes.kubectl("wait", "pod/openldap", "--for=condition=Ready", "--timeout=60s")
    made = Site(issuer, f"{issuer}/mcp", company.ca_file, _PASSWORD, kubernetes, {}, username="ada")
    made.wait_until_served()
    yield made
    kubernetes.run("kubectl", "delete", "namespace", _NAMESPACE, "--wait=false")


def test_somebody_signs_in_with_the_password_of_the_directory_by_start_tls(site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    assert site.call_tool(http, client.access_token).status_code == 200
    assert site.refresh(http, client).status_code == 200


def test_an_account_that_is_gone_from_the_directory_ends_at_the_next_refresh(site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    administrator = ("-x", "-H", "ldaps://localhost:1636", "-D", "cn=admin,dc=corp,dc=test", "-w", "admin-password-1")
    delete = ("env", "LDAPTLS_REQCERT=never", "ldapdelete", *administrator, _ADA)
    site.kubernetes.kubectl("exec", "openldap", "--", *delete)
    time.sleep(1.1)  # recheck_seconds above
    answer = site.refresh(http, client)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert site.call_tool(http, client.access_token).status_code == 401
