"""TLS between the pods, with certificates that are renewed while they serve."""

import ssl
from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest

from tests.e2e.kubernetes import NAMESPACE, Kubernetes, eventually
from tests.e2e.site import Site
from tests.e2e.tls_inside import COMMON_NAME, COMPONENTS, TlsInside
from tests.e2e.traffic import traffic


def _signed(site: Site) -> str:
    return f"{site.issuer}/signed"


def test_tools_are_called_when_every_connection_inside_is_tls(
    tls_inside: TlsInside, site: Site, http: httpx2.Client
) -> None:
    for resource in (site.resource, _signed(site)):
        client = site.sign_in(http, resource=resource)
        assert site.call_tool(http, client.access_token, resource).status_code == 200
        assert site.refresh(http, client).status_code == 200
    for component, pod in tls_inside.pods():
        if component == "valkey":
            continue
        with site.kubernetes.port_forward(pod, COMPONENTS[component]) as plain, pytest.raises(httpx2.TransportError):
            httpx2.get(f"http://127.0.0.1:{plain}/readyz", timeout=5)


def test_helm_test_passes_with_tls_inside(tls_inside: TlsInside, site: Site) -> None:
    answer = site.kubernetes.run("helm", "test", "keystile", "--namespace", NAMESPACE, "--logs", check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "mcp answers the tool echo" in answer.stdout


def test_the_ingress_controller_checks_whose_certificate_it_is(
    tls_inside: TlsInside, site: Site, http: httpx2.Client
) -> None:
    known = f"{site.issuer}/.well-known/oauth-authorization-server"
    tls_inside.let_traefik_check("another.keystile.svc")
    try:
        eventually("a certificate without this name is refused", lambda: http.get(known).status_code in {500, 502})
    finally:
        tls_inside.let_traefik_check()
    site.wait_until_served()


def test_renewed_certificates_are_shown_without_a_restart_and_no_request_fails(
    tls_inside: TlsInside, site: Site, http: httpx2.Client
) -> None:
    kubernetes, pods = site.kubernetes, tls_inside.pods()
    signed = site.sign_in(http, resource=_signed(site))
    tls_inside.wait_until_shown()
    with traffic(site) as tally:
        tls_inside.renew()
        tls_inside.wait_until_shown()
    site.figures["traffic during renewal of all certificates inside"] = str(tally)
    assert not tally.failures, "\n".join(tally.failures)
    assert tls_inside.pods() == pods
    assert sum(sum(kubernetes.restarts(each).values()) for each in ("auth", "mcp")) == 0
    assert site.refresh(http, signed).status_code == 200
    assert site.call_tool(http, signed.access_token, _signed(site)).status_code == 200


def test_keys_are_rotated_by_the_cron_job_over_tls(
    tls_inside: TlsInside, site: Site, http: httpx2.Client, age_keys: Callable[[int], None]
) -> None:
    kubernetes, client = site.kubernetes, site.sign_in(http, resource=_signed(site))
    signing = _signing(kubernetes)
    age_keys(31 * 24 * 3600)
    kubernetes.kubectl("delete", "job", "keys-by-cron", "--ignore-not-found")
    kubernetes.kubectl("create", "job", "--from=cronjob/keystile-keys", "keys-by-cron")
    kubernetes.kubectl("wait", "job/keys-by-cron", "--for=condition=Complete", "--timeout=60s")
    assert _signing(kubernetes) != signing
    assert site.refresh(http, client).status_code == 200
    assert site.call_tool(http, client.access_token, _signed(site)).status_code == 200


class _ThroughPortal(httpx2.BaseTransport):
    """Sends every request to one pod of auth, as a front proxy would, and says who is asking."""

    def __init__(self, port: int, tls: ssl.SSLContext, person: str) -> None:
        self._port = port
        self._person = person
        self._connections = httpx2.HTTPTransport(verify=tls)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        request.headers["Host"] = request.url.netloc.decode()
        request.headers["X-Remote-User"] = self._person
        request.extensions = {**request.extensions, "sni_hostname": COMMON_NAME}
        request.url = request.url.copy_with(host="127.0.0.1", port=self._port)
        return self._connections.handle_request(request)

    def close(self) -> None:
        self._connections.close()


@pytest.mark.parametrize(("name", "status"), [("portal.example.com", 200), ("another.example.com", 403), (None, 403)])
def test_a_front_proxy_says_who_it_is_over_mutual_tls_alone(
    tls_inside: TlsInside, site: Site, tmp_path: Path, name: str | None, status: int
) -> None:
    authority, pod = tls_inside.authority, site.kubernetes.pods("auth")[0]
    context = authority.showing(authority.client_pair(name), tmp_path) if name else authority.trusting
    with site.kubernetes.port_forward(pod, COMPONENTS["auth"]) as port:
        portal = _ThroughPortal(port, context, "ada")
        with httpx2.Client(transport=portal, headers={"Accept": "text/html"}, follow_redirects=True) as browser:
            answer = browser.get(f"{site.issuer}/account")
    assert answer.status_code == status, answer.text
    assert ("portal/ada" in answer.text) == (status == 200)


def _signing(kubernetes: Kubernetes) -> str:
    """The id of the key that signs."""
    lines = kubernetes.kubectl("exec", "deploy/keystile-auth", "--", "keystile", "keys", "list").splitlines()
    (current,) = [line.split()[0] for line in lines if " current " in line]
    return current
