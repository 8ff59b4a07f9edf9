"""Servers of every kind in one release: servers.yaml."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from tests.e2e.kubernetes import NAMESPACE, ROOT, eventually
from tests.e2e.site import Site

_IMAGE = "keystile-notes:dev"


@pytest.fixture(scope="module")
def servers(
    site: Site, load: Callable[[str], None], upgrade: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The release with all of them, and the server that one of them stands before."""
    kubernetes = site.kubernetes
    build = ("docker", "build", "--quiet", "--build-arg", "KEYSTILE_MCP=keystile-mcp:dev", "--tag", _IMAGE)
    kubernetes.run(*build, "examples/notes")
    load(_IMAGE)
    kubernetes.run("kubectl", "apply", "--filename", "tests/e2e/upstream.yaml")
    # What the example says of its server stands, but for its host.
    example = tmp_path_factory.mktemp("notes") / "values.yaml"
    text = (ROOT / "examples" / "notes" / "values.yaml").read_text()
    example.write_text(text.replace("    host: notes.example.com\n", ""))
    upgrade("--set", "resource=", "--values", str(example), "--values", "tests/e2e/servers.yaml")
    # A pod of before does not know the other servers.
    kubernetes.wait_for_rollout("deployment/keystile-auth")
    kubernetes.kubectl("wait", "pod/upstream", "--for=condition=Ready", "--timeout=60s")
    site.wait_until_served(*(_at(site, name) for name in ("signed", "notes", "before")))
    yield site
    kubernetes.run("kubectl", "delete", "--filename", "tests/e2e/upstream.yaml", "--wait=false")


def _at(site: Site, name: str) -> str:
    return f"{site.issuer}/{name}"


def _claims(token: str) -> dict[str, Any]:
    payload = token.split(".")[1]
    return dict(json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4))))


def test_a_server_refuses_a_token_of_another(servers: Site, http: httpx2.Client) -> None:
    signed = _at(servers, "signed")
    for own, other in ((servers.resource, signed), (signed, servers.resource)):
        token = servers.sign_in(http, resource=own).access_token
        assert servers.call_tool(http, token, own).status_code == 200
        refusal = servers.call_tool(http, token, other)
        assert refusal.status_code == 401
        assert 'error="invalid_token"' in refusal.headers["www-authenticate"]


def test_a_server_that_checks_jwts_serves_while_the_authorization_server_is_away(
    servers: Site, http: httpx2.Client
) -> None:
    signed, kubernetes = _at(servers, "signed"), servers.kubernetes
    before, other = servers.sign_in(http, resource=signed), servers.sign_in(http)
    assert _claims(before.access_token)["aud"] == signed
    assert other.access_token.count(".") != 2
    kubernetes.kubectl("scale", "deployment/keystile-auth", "--replicas=0")
    try:
        eventually("no pod of auth is left", lambda: not kubernetes.pods("auth"))
        assert servers.call_tool(http, before.access_token, signed).status_code == 200
        assert servers.call_tool(http, before.access_token + "x", signed).status_code == 401
    finally:
        kubernetes.kubectl("scale", "deployment/keystile-auth", "--replicas=2")
        kubernetes.wait_for_rollout("deployment/keystile-auth")


def test_a_tool_of_the_example_needs_the_scope_that_its_policy_names(servers: Site, http: httpx2.Client) -> None:
    notes, add = _at(servers, "notes"), ("add_note", {"text": "milk"})
    reader = servers.sign_in(http, resource=notes, scope="notes:read").access_token
    assert '"result":[]' in servers.call_tool(http, reader, notes, "list_notes", {}).text
    refusal = servers.call_tool(http, reader, notes, *add)
    assert refusal.status_code == 403
    assert 'error="insufficient_scope"' in refusal.headers["www-authenticate"]
    assert "notes:write" in refusal.headers["www-authenticate"]
    writer = servers.sign_in(http, resource=notes, scope="notes:read notes:write").access_token
    assert '"result":1' in servers.call_tool(http, writer, notes, *add).text


def test_the_server_behind_sees_the_pods_own_token_and_never_the_clients(servers: Site, http: httpx2.Client) -> None:
    before = _at(servers, "before")
    client = servers.sign_in(http, resource=before)
    answer = servers.call_tool(http, client.access_token, before)
    assert answer.status_code == 200
    assert '"result":"hello"' in answer.text
    log = servers.kubernetes.kubectl("logs", "upstream", "--tail=-1")
    assert client.access_token not in log
    shown = [dict(json.loads(line))["authorization"] for line in log.splitlines() if line.startswith("[[")]
    assert shown
    for claims in (_claims(each.removeprefix("Bearer ")) for each in shown):
        assert claims["aud"] == ["upstream"]
        assert claims["sub"] == f"system:serviceaccount:{NAMESPACE}:keystile-before"
