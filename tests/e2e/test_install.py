"""What an operator sees first."""

from http.cookies import SimpleCookie

import httpx2

from tests.e2e.kubernetes import NAMESPACE
from tests.e2e.site import Site
from tests.person import form

COMPONENTS = {"auth": 2, "mcp": 2, "valkey": 1}


def test_every_pod_is_ready_within_a_minute_under_restricted_pod_security(site: Site) -> None:
    namespace = site.kubernetes.run("kubectl", "get", "namespace", NAMESPACE, "--output", "jsonpath={.metadata.labels}")
    assert '"pod-security.kubernetes.io/enforce":"restricted"' in namespace.stdout
    assert site.ready_seconds <= 60
    for component, count in COMPONENTS.items():
        assert len(site.kubernetes.pods(component)) >= count


def test_the_first_tool_call_comes_within_two_minutes_of_the_installation(site: Site) -> None:
    assert site.first_call_seconds <= 120


def test_no_pod_was_started_twice(site: Site) -> None:
    restarts = {pod: count for each in COMPONENTS for pod, count in site.kubernetes.restarts(each).items()}
    assert set(restarts.values()) == {0}, restarts


def test_helm_test_passes(site: Site) -> None:
    answer = site.kubernetes.run("helm", "test", "keystile", "--namespace", NAMESPACE, "--logs", check=False)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "mcp answers the tool echo" in answer.stdout


def test_cookies_are_bound_to_the_host_and_to_https(site: Site) -> None:
    with site.person() as person:
        login = person.get(f"{site.issuer}/account")
        # Unlike `submit` this does not follow the redirect, which is what sets the session.
        signed_in = person.browser.post(
            form(login, "/login").action,
            data={**form(login, "/login").fields, "username": "demo", "password": site.password},
        )
    cookies = [
        cookie
        for answer in (*login.history, login, signed_in)
        for header in answer.headers.get_list("set-cookie")
        for cookie in SimpleCookie(header).values()
    ]
    assert cookies
    for cookie in cookies:
        assert cookie.key.startswith("__Host-"), cookie.key
        assert cookie["secure"]
        assert cookie["httponly"]
        assert cookie["path"] == "/"
        assert not cookie["domain"]


def test_the_clients_address_is_known_behind_the_ingress_controller(site: Site, http: httpx2.Client) -> None:
    client_id = site.register(http, "Whose address is in the audit log")
    events = site.kubernetes.kubectl(
        "logs", "--selector", "app.kubernetes.io/component=auth", "--tail=-1", "--prefix=false"
    )
    line = next(line for line in events.splitlines() if client_id in line and '"audit":true' in line)
    assert '"ip":"10.244.' not in line, line


def test_what_is_not_for_clients_does_not_leave_the_cluster(site: Site, http: httpx2.Client) -> None:
    for path in ("/introspect", "/healthz", "/readyz", "/metrics"):
        assert http.get(f"{site.issuer}{path}").status_code == 404, path
