"""The users' own server behind the bearer: `--app`, and `protect` around any ASGI application."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mcp.client.client import ConnectMode
from prometheus_client import CollectorRegistry

from keystile_common.audit import AuditLog
from keystile_common.metrics import McpMetrics
from keystile_mcp import protect
from keystile_mcp.settings import McpSettings
from tests.integration.mcp import served
from tests.integration.mcp.providers import GENERIC, provider_issuer
from tests.integration.mcp.resource_server import (
    MODERN,
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    resource_server,
    serving,
    tool_call,
)
from tests.integration.mcp.transmitter import event, push, pushing, user

HERE = "tests.integration.mcp.served"
SCOPES = {"mcp:basic": "Basic", "mcp:jobs": "Jobs"}
WIRES: list[ConnectMode] = [MODERN, "legacy"]
ROOT = Path(__file__).parents[3]


@pytest.fixture(params=["mcp", "low_level", "asgi"])
async def server(
    request: pytest.FixtureRequest, scripted: ScriptedAuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[ResourceServer]:
    # An application serves once.
    monkeypatch.setattr(served, "asgi", served.make_asgi())
    policy = {"remove_*": ["mcp:jobs"]}
    async with resource_server(scripted, app=f"{HERE}:{request.param}", policy=policy, scopes=SCOPES) as running:
        yield running


@pytest.mark.parametrize("wire", WIRES)
async def test_its_tools_are_called_by_whoever_the_token_names(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(sub="bob"), wire) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"greet", "fail", "remove_all"}
        [content] = (await client.call_tool("greet", {"name": "Ann"})).content
    assert getattr(content, "text", None) == "Hello Ann, says bob"


async def test_without_a_token_nothing_of_it_is_reached(server: ResourceServer) -> None:
    assert (await server.call(None, "greet", name="Ann")).status_code == 401


async def test_its_tools_need_what_the_policy_says(server: ResourceServer) -> None:
    answer = await server.call(server.authorization_server.issue("mcp:basic"), "remove_all")
    assert answer.status_code == 403
    assert 'scope="mcp:basic mcp:jobs"' in answer.headers["www-authenticate"]
    assert (await server.call(server.authorization_server.issue(), "remove_all")).status_code == 200


@pytest.mark.parametrize("wire", WIRES)
async def test_each_call_is_recorded_by_how_it_ended(server: ResourceServer, wire: ConnectMode) -> None:
    token = server.authorization_server.issue()
    async with server.client(token, wire) as client:
        await client.list_tools()
        await client.call_tool("greet", {"name": "Ann"})
        assert (await client.call_tool("fail", {})).is_error
    events = [event for event in server.audit if event["type"] == "tool.called"]
    assert [(event["target"]["tool"], event["outcome"], event["reason"]) for event in events] == [
        ("greet", "success", None),
        ("fail", "failure", "tool_error"),
    ]
    assert server.metric("keystile_mcp_tool_calls_total", tool="greet", outcome="success") == 1
    assert server.metric("keystile_mcp_tool_calls_total", tool="fail", outcome="failure") == 1


async def test_a_tool_that_no_list_has_shown_is_counted_as_unknown(server: ResourceServer) -> None:
    await server.call(server.authorization_server.issue(), "made-up")
    assert server.metric("keystile_mcp_tool_calls_total", tool="unknown", outcome="failure") == 1


@pytest.mark.parametrize("wire", WIRES)
async def test_a_list_shows_what_the_caller_could_be_granted(server: ResourceServer, wire: ConnectMode) -> None:
    token = server.authorization_server.issue("mcp:basic", grantable_scope="mcp:basic")
    async with server.client(token, wire) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"greet", "fail"}


async def test_a_foreign_origin_is_forbidden(server: ResourceServer) -> None:
    headers = modern_headers("greet", server.authorization_server.issue()) | {"Origin": "https://evil.example"}
    answer = await server.http.post(server.url, headers=headers, json=tool_call("greet", {"name": "Ann"}))
    assert answer.status_code == 403


@pytest.mark.parametrize(
    "body",
    [
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","method":"tools/list","params":{"name":"remove_all"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/list","Method":"tools/call","params":{"name":"remove_all"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet","name":"remove_all"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet","Name":"remove_all"}}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"greet"},"param\u017f":{"name":"remove_all"}}',
        '{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":NaN}}',
    ],
)
async def test_a_message_that_two_parsers_could_read_differently_is_refused(
    scripted: ScriptedAuthorizationServer, body: str
) -> None:
    app = protect_settings(served.make_asgi())
    async with serving(scripted, app, scopes=SCOPES, policy={"remove_*": ["mcp:jobs"]}) as server:
        token = scripted.issue("mcp:basic")
        answer = await server.http.post(server.url, headers=modern_headers("greet", token), content=body.encode())
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32700)


def protect_settings(app: Any, **more: Any) -> Any:
    def make(chosen: McpSettings, _: McpMetrics, __: AuditLog) -> Any:
        return protect(app, chosen, **more)

    return make


async def test_protect_takes_pushed_events_without_a_token_where_an_issuer_may_push() -> None:
    async with provider_issuer("") as issuer:
        for settings, status in ((pushing(issuer, introspected=True), 202), (issuer.settings(GENERIC), 401)):
            async with serving(issuer, protect_settings(served.make_asgi()), **settings) as server:
                answer = await push(server, event(issuer, user(issuer)), Authorization="")
                assert answer.status_code == status
                assert (await push(server, b"e" * 10_000, Authorization="")).status_code == 413


async def test_protect_asks_for_a_token_at_every_path_that_is_not_public(
    scripted: ScriptedAuthorizationServer,
) -> None:
    registry = CollectorRegistry()
    app = protect_settings(served.make_asgi(), public=["/healthz"], registry=registry)
    served.state.clear()
    served.seen_headers.clear()
    async with serving(scripted, app) as server:
        assert served.state == ["started"]
        assert (await server.call(None, "greet", name="Ann")).status_code == 401
        assert (await server.call(scripted.issue(), "greet", name="Ann")).status_code == 200
        assert (await server.http.get(f"{server.origin}/healthz")).text == "ok"
        page = f"{server.origin}/whoami"
        refused = await server.http.get(page)
        assert refused.status_code == 401
        assert f'resource_metadata="{server.origin}/.well-known/' in refused.headers["www-authenticate"]
        token = scripted.issue(sub="bob")
        assert (await server.http.get(page, headers={"Authorization": f"Bearer {token}"})).json() == {"sub": "bob"}
        weak = scripted.issue("other")
        assert (await server.http.get(page, headers={"Authorization": f"Bearer {weak}"})).status_code == 403
        metadata = await server.http.get(f"{server.origin}/.well-known/oauth-protected-resource/mcp")
        assert metadata.json()["resource"] == server.url
        missing = await server.http.get(f"{server.origin}/healthz/", headers={"Authorization": f"Bearer {token}"})
        assert missing.status_code in {307, 404}
        assert (await server.http.get(f"{server.origin}/healthz/")).status_code == 401
    assert served.state == ["started", "stopped"]
    assert not any("authorization" in headers for headers in served.seen_headers)
    assert registry.get_sample_value("keystile_mcp_requests_total", {"method": "tools/call", "outcome": "success"}) == 1


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    needed = {
        "KEYSTILE_RESOURCE": "http://127.0.0.1:1/mcp",
        "KEYSTILE_AUTHORIZATION_SERVER": "http://127.0.0.1:2",
        "KEYSTILE_INTROSPECTION__CLIENT_ID": "x",
        "KEYSTILE_INTROSPECTION__CLIENT_SECRET": "x",
        "KEYSTILE_LISTEN__PORT": "0",
        "KEYSTILE_METRICS__PORT": "0",
    }
    command = [sys.executable, "-m", "keystile_mcp", *arguments]
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **needed, **environ},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("served", "must be module:name, such as mypackage.server:mcp"),
        ("no_such_module:mcp", "there is no module no_such_module in"),
        (f"{HERE}.deeper:mcp", f"there is no module {HERE}.deeper in"),
        (f"{HERE}:mpc", f"the module {HERE} has no mpc"),
        (f"{HERE}:not_an_app", "is int; it must be the SDK's MCPServer or Server, or an ASGI application"),
    ],
)
def test_an_app_that_cannot_be_had_is_said_in_a_sentence(name: str, sentence: str) -> None:
    for answer in (run("--app", name), run(KEYSTILE_APP=name)):
        assert answer.returncode == 2
        assert sentence in answer.stderr
        assert "Traceback" not in answer.stderr


def test_an_app_whose_start_fails_stops_the_server_with_its_reason() -> None:
    answer = run("--app", f"{HERE}:broken")
    assert answer.returncode != 0
    assert "no database" in answer.stderr + answer.stdout


def test_a_module_that_lacks_another_says_which(tmp_path: Path) -> None:
    (tmp_path / "lacking.py").write_text("import module_that_nobody_has\n")
    answer = run("--app", "lacking:mcp", PYTHONPATH=str(tmp_path))
    assert answer.returncode == 2
    assert "lacking needs a module that is not installed: module_that_nobody_has" in answer.stderr


async def test_the_example_keeps_notes_of_each_user_and_asks_for_a_scope_by_tool(
    scripted: ScriptedAuthorizationServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ROOT / "examples/notes"
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    async with resource_server(scripted, **yaml.safe_load((folder / "keystile.yaml").read_text())) as server:
        alice = scripted.issue("notes:read notes:write", sub="alice")
        async with server.client(alice) as client:
            assert (await client.call_tool("add_note", {"text": "milk"})).structured_content == {"result": 1}
            assert (await client.call_tool("list_notes", {})).structured_content == {"result": ["milk"]}
        async with server.client(scripted.issue("notes:read", sub="bob")) as client:
            assert (await client.call_tool("list_notes", {})).structured_content == {"result": []}
        refused = await server.call(alice, "delete_notes")
        assert (refused.status_code, 'scope="notes:read notes:delete"' in refused.headers["www-authenticate"]) == (
            403,
            True,
        )
