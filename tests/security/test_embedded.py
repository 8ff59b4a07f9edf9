"""One process with both services gives nothing away that two would not."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.auth_server import CALLBACK, Pkce
from tests.embedded import Embedded, running_embedded
from tests.integration.mcp.resource_server import modern_headers, tool_call

OTHER = "https://other.example.com/mcp"
OTHER_SECRET = "other-secret-" + "y" * 32
RESOURCES = {
    "other": {"uri": OTHER, "title": "Other tools", "scopes": {"mcp:basic": "Use them"}, "secret": OTHER_SECRET}
}
ORIGINS = ["https://app.example.com"]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    folder = tmp_path_factory.mktemp("embedded")
    with running_embedded(folder, resources=RESOURCES, allowed_origins=ORIGINS) as running:
        yield running


def call(embedded: Embedded, token: str | None, **more: Any) -> httpx2.Response:
    headers = {**modern_headers("echo", token), **more.pop("headers", {})}
    body = tool_call("echo", {"text": "hello"})
    return embedded.server.http.post(embedded.resource, headers=headers, json=body, **more)


def validations(embedded: Embedded, result: str) -> float:
    name = f'keystile_token_validations_total{{method="in_process",result="{result}"}}'
    lines = httpx2.get(embedded.metrics_url).text.splitlines()
    return next((float(line.split()[-1]) for line in lines if line.startswith(name)), 0.0)


def test_a_token_for_another_resource_is_refused_and_recorded(embedded: Embedded) -> None:
    token = embedded.access_token(resource=OTHER)
    assert embedded.server.introspect(token, ("other", OTHER_SECRET))["active"]
    before = validations(embedded, "wrong_audience")
    refused = call(embedded, token)
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]
    assert validations(embedded, "wrong_audience") == before + 1
    assert embedded.events("access.denied")[-1]["reason"] == "wrong_audience"


def test_the_own_resource_has_no_way_in_at_the_introspection_endpoint(embedded: Embedded) -> None:
    token = embedded.access_token()
    for secret in ("", "mcp", OTHER_SECRET):
        answer = embedded.server.http.post(
            f"{embedded.settings.issuer}/introspect", data={"token": token}, auth=("mcp", secret)
        )
        assert answer.status_code == 401, secret
    assert not embedded.server.introspect(token, ("other", OTHER_SECRET))["active"]


@pytest.mark.parametrize("kind", ["refresh token", "code", "junk", "another checksum", "a session's cookie"])
def test_what_is_no_access_token_is_none_here_either(embedded: Embedded, kind: str) -> None:
    server, pkce = embedded.server, Pkce()
    client, person = server.register(), server.person()
    token = embedded.access_token()
    candidates = {
        "refresh token": server.tokens(client.id, person, resource=embedded.resource)["refresh_token"],
        "code": server.code(client.id, pkce, person, resource=embedded.resource),
        "junk": "kst_at_" + "A" * 49,
        "another checksum": token[:-1] + ("A" if token[-1] != "A" else "B"),
        "a session's cookie": next(iter(person.browser.cookies.values())),
    }
    assert call(embedded, candidates[kind]).status_code == 401


def test_a_persons_cookie_opens_no_tool_and_reaches_none(embedded: Embedded) -> None:
    person = embedded.server.person()
    person.sign_in(person.get(f"{embedded.settings.issuer}/account"))
    answer = person.browser.post(embedded.resource, headers=modern_headers("echo", None), json=tool_call("echo", {}))
    assert answer.status_code == 401
    assert "set-cookie" not in call(embedded, embedded.access_token()).headers


def test_hostile_requests_meet_the_same_checks_as_in_two_processes(embedded: Embedded) -> None:
    http, issuer = embedded.server.http, embedded.settings.issuer
    client = embedded.server.register()
    valid = embedded.server.authorization_url(client.id, Pkce(), resource=embedded.resource)
    assert http.get(f"{valid}&client_id={client.id}").status_code == 400
    elsewhere = http.get(valid.replace(CALLBACK.split("//")[1].replace("/", "%2F").replace(":", "%3A"), "evil.example"))
    assert elsewhere.status_code == 400
    assert "location" not in elsewhere.headers
    assert http.post(f"{issuer}/token", content=b"x" * 100_000).status_code == 413
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    twice = http.post(f"{issuer}/token", content=b"grant_type=a&grant_type=b", headers=form)
    assert twice.json()["error"] == "invalid_request"
    assert http.get(f"{issuer}/token").status_code == 405
    assert http.post(f"{issuer}/introspect", data={"token": "x"}).status_code == 401
    assert http.get(f"{embedded.resource}?access_token=x").status_code == 400
    assert call(embedded, embedded.access_token(), headers={"Host": "evil.example"}).status_code == 421
    assert call(embedded, embedded.access_token(), headers={"Origin": "https://evil.example"}).status_code == 403
    assert call(embedded, embedded.access_token(), headers={"Origin": ORIGINS[0]}).status_code == 200


def test_a_path_that_only_resembles_the_mcp_endpoint_leads_nowhere(embedded: Embedded) -> None:
    token = embedded.access_token()
    for path in ("//mcp", "/mcp//", "/MCP", "/mcp/x", "/mcp;x", "/%2fmcp", "/static/../mcp"):
        url = f"{embedded.settings.issuer}{path}"
        answer = embedded.server.http.post(url, headers=modern_headers("echo", token), json=tool_call("echo", {}))
        assert answer.status_code in {404, 405} or str(answer.request.url) == embedded.resource, path


def test_no_secret_is_in_what_the_process_writes(embedded: Embedded) -> None:
    client = embedded.server.register()
    tokens = embedded.server.tokens(client.id, resource=embedded.resource)
    call(embedded, tokens["access_token"])
    written = embedded.log() + embedded.audit_file.read_text() + httpx2.get(embedded.metrics_url).text
    for secret in (tokens["access_token"], tokens["refresh_token"], OTHER_SECRET):
        assert secret not in written


# Python's own event loop, whose connections are Python's sockets; every one that is made is written down.
_WATCHED = """
import json, sys
sys.modules["uvloop"] = None

def watch(event, arguments):
    if event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        seen.write(json.dumps([event, repr(arguments[1])]) + "\\n")
    elif event in {"socket.getaddrinfo", "socket.gethostbyname"}:
        seen.write(json.dumps([event, repr(arguments[0])]) + "\\n")

with open("connections", "w", buffering=1) as seen:
    sys.addaudithook(watch)
    sys.argv = ["keystile-mcp", "--embedded"]
    from keystile_mcp.__main__ import main
    main()
"""


def connections(folder: Path) -> list[list[str]]:
    return [json.loads(line) for line in (folder / "connections").read_text().splitlines()]


def run_watched(folder: Path, *, metadata_documents: bool) -> list[list[str]]:
    """A whole life: start, registration, sign-in, consent, call, refresh, revocation, a foreign client, the end."""
    command = [sys.executable, "-c", _WATCHED]
    with running_embedded(folder, command=command, metadata_documents={"enabled": metadata_documents}) as embedded:
        server = embedded.server
        client = server.register()
        tokens = server.tokens(client.id, resource=embedded.resource)
        assert call(embedded, tokens["access_token"]).status_code == 200
        fresh = server.refresh(client.id, tokens["refresh_token"]).json()
        assert call(embedded, fresh["access_token"]).status_code == 200
        data = {"client_id": client.id, "token": fresh["refresh_token"]}
        assert server.http.post(f"{embedded.settings.issuer}/revoke", data=data).status_code == 200
        assert call(embedded, fresh["access_token"]).status_code == 401
        foreign = server.authorization_url("https://client.invalid/app.json", Pkce(), resource=embedded.resource)
        assert server.http.get(foreign).status_code == 400
    return connections(folder)


def test_without_metadata_documents_it_connects_to_nothing_but_its_store(tmp_path: Path) -> None:
    seen = run_watched(tmp_path, metadata_documents=False)
    assert seen
    assert [each for each in seen if "valkey.sock" not in each[1] and "127.0.0.1" not in each[1]] == []


def test_the_watch_sees_what_metadata_documents_ask_for(tmp_path: Path) -> None:
    seen = run_watched(tmp_path, metadata_documents=True)
    assert any("client.invalid" in target for _, target in seen)
