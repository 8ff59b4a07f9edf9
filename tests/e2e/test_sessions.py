"""Sessions of the revisions before 2026-07-28, which the pods of a server share: two pods are the default."""

from dataclasses import replace
from typing import Any

import httpx2
import pytest

from tests.e2e.kubernetes import eventually
from tests.e2e.named_pods import named_pods
from tests.e2e.site import SignedIn, Site

_REVISION = "2025-11-25"
_ADD_OTHER = ("exec", "--stdin", "deploy/keystile-auth", "--", "keystile", "users", "add", "other")


def _headers(client: SignedIn, session: str = "") -> dict[str, str]:
    headers = {
        "Authorization": f"Bearer {client.access_token}",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": _REVISION,
    }
    return headers | ({"Mcp-Session-Id": session} if session else {})


def _send(
    http: httpx2.Client, url: str, client: SignedIn, session: str, method: str, **parameters: Any
) -> httpx2.Response:
    document = {"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters}
    return http.post(url, headers=_headers(client, session), json=document)


def _open(http: httpx2.Client, url: str, client: SignedIn) -> str:
    """A new session; answers its id."""
    info = {"name": "e2e", "version": "1"}
    answer = _send(
        http, url, client, "", "initialize", protocolVersion=_REVISION, capabilities={}, clientInfo=info
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    return str(answer.headers["mcp-session-id"])


def _call(http: httpx2.Client, url: str, client: SignedIn, session: str, text: str) -> httpx2.Response:
    return _send(http, url, client, session, "tools/call", name="echo", arguments={"text": text})


@pytest.fixture(scope="module")
def other(site: Site) -> Site:
    """The same release, for another user."""
    password = "another password of some length"
    site.kubernetes.kubectl(*_ADD_OTHER, given=password)
    return replace(site, username="other", password=password)


def test_each_pod_serves_the_requests_of_one_session_and_no_other_user_finds_it(
    site: Site, other: Site, http: httpx2.Client
) -> None:
    stranger, client = other.sign_in(http), site.sign_in(http)
    with named_pods(site.kubernetes, "mcp", 3232) as pods, site.http(pods) as way:
        session = _open(way, site.resource, client)
        for text in ("one", "two", "three", "four"):
            answer = _call(way, site.resource, client, session, text)
            assert answer.status_code == 200
            assert text in answer.text
        assert len({pod for pod, _ in pods.visits}) == 2
        for _ in range(2):
            assert _call(way, site.resource, stranger, session, "stolen").status_code == 404
        assert _call(way, site.resource, client, session, "mine").status_code == 200


def test_a_client_of_such_a_session_is_served_through_the_ingress_controller(site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    session = _open(http, site.resource, client)
    for text in ("one", "two", "three", "four"):
        with site.http() as another_connection:
            assert text in _call(another_connection, site.resource, client, session, text).text


def test_a_session_whose_pod_was_killed_costs_one_404_and_one_initialise(site: Site, http: httpx2.Client) -> None:
    client = site.sign_in(http)
    with named_pods(site.kubernetes, "mcp", 3232) as pods, site.http(pods) as way:
        session = _open(way, site.resource, client)
        owner = pods.visits[-1][0]
    site.kubernetes.kubectl("delete", "pod", owner, "--force", "--grace-period=0")
    (survivor, *_) = [pod for pod in site.kubernetes.pods("mcp") if pod.startswith("keystile-mcp-") and pod != owner]
    with site.kubernetes.port_forward(survivor, 3232) as port:
        url, host = f"http://127.0.0.1:{port}/mcp", {"Host": httpx2.URL(site.resource).netloc.decode()}
        with httpx2.Client(timeout=20, headers=host) as http_to_survivor:
            assert site.refresh(http, client).status_code == 200

            def answered() -> int:
                # The container goes on for a moment after its pod is deleted.
                status = _call(http_to_survivor, url, client, session, "hello").status_code
                return 0 if status == 200 else status

            assert eventually("the session is not found", answered) == 404
            again = _open(http_to_survivor, url, client)
            assert _call(http_to_survivor, url, client, again, "hello").status_code == 200
    site.kubernetes.wait_for_rollout("deployment/keystile-mcp")


def test_the_sessions_user_reads_nothing_of_the_authorization_server(site: Site) -> None:
    def ask(user: str, password: str, *command: str) -> str:
        script = f'REDISCLI_AUTH=$(cat /var/run/secrets/valkey/{password}) valkey-cli --user {user} "$@" 2>&1'
        return site.kubernetes.kubectl("exec", "keystile-valkey-0", "--", "sh", "-c", script, "sh", *command).strip()

    assert ask("default", "password", "exists", "ks:signing-keys") == "1"
    for command in (("get", "ks:signing-keys"), ("set", "ks:x", "1"), ("del", "ks:signing-keys"), ("keys", "*")):
        assert ask("mcp", "sessions-password", *command).startswith("NOPERM"), command
    assert ask("mcp", "sessions-password", "set", "km:e2e", "1", "EX", "5") == "OK"
