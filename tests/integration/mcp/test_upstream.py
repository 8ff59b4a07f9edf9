"""An MCP server that runs elsewhere, behind the bearer: `--upstream`."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import uvicorn
from aiohttp import web
from joserfc import jwt
from joserfc.jwk import ECKey
from mcp.client.client import ConnectMode
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from keystile_common.metrics import McpMetrics
from keystile_common.settings import SettingsError
from keystile_mcp.upstream import Upstream
from tests.integration.mcp import served
from tests.integration.mcp.resource_server import (
    MODERN,
    ResourceServer,
    ScriptedAuthorizationServer,
    _loopback,
    modern_headers,
    open_session,
    resource_server,
    tool_call,
)
from tests.unit.mcp.samples import make_settings

WIRES: list[ConnectMode] = [MODERN, "legacy", "auto"]

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ANSWER = {"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": "x"}]}}


@asynccontextmanager
async def sdk_upstream() -> AsyncIterator[str]:
    """A server of the SDK, with sessions, on a port of its own."""
    listener = _loopback()
    config = uvicorn.Config(
        served.make_asgi(), log_config=None, access_log=False, lifespan="on", timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        assert not task.done()
        await asyncio.sleep(0.005)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def upstream(handler: Handler) -> AsyncIterator[str]:
    """Whatever a test wants an upstream to do."""
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    listener = _loopback()
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def before(
    scripted: ScriptedAuthorizationServer, handler: Handler, **settings: Any
) -> AsyncIterator[ResourceServer]:
    """The resource server before an upstream of this handler."""
    async with upstream(handler) as url, resource_server(scripted, upstream={"url": url, **settings}) as server:
        yield server


@pytest.fixture
async def server(scripted: ScriptedAuthorizationServer) -> AsyncIterator[ResourceServer]:
    policy = {"remove_*": ["mcp:jobs"]}
    async with sdk_upstream() as url, resource_server(scripted, upstream={"url": url}, policy=policy) as running:
        yield running


@pytest.mark.parametrize("wire", WIRES)
async def test_its_tools_are_listed_and_called_on_every_wire(server: ResourceServer, wire: ConnectMode) -> None:
    async with server.client(server.authorization_server.issue(), wire) as client:
        assert {tool.name for tool in (await client.list_tools()).tools} == {"greet", "fail", "remove_all"}
        [content] = (await client.call_tool("greet", {"name": "Ann"})).content
        assert getattr(content, "text", None) == "Hello Ann, says nobody"
        assert (await client.call_tool("fail", {})).is_error
    events = [event for event in server.audit if event["type"] == "tool.called"]
    assert [(event["target"]["tool"], event["outcome"]) for event in events] == [
        ("greet", "success"),
        ("fail", "failure"),
    ]


async def test_its_tools_need_what_the_policy_says(server: ResourceServer) -> None:
    assert (await server.call(server.authorization_server.issue("mcp:basic"), "remove_all")).status_code == 403
    assert (await server.call(server.authorization_server.issue(), "remove_all")).status_code == 200
    assert (await server.call(None, "greet", name="Ann")).status_code == 401


async def test_a_session_is_of_the_user_and_client_that_opened_it(server: ResourceServer) -> None:
    issue = server.authorization_server.issue
    headers = await open_session(server.http, server.url, issue(sub="alice"))
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    for stranger in (issue(sub="mallory"), issue(sub="alice", client_id="another")):
        stolen = {**headers, "Authorization": f"Bearer {stranger}"}
        assert (await server.http.post(server.url, headers=stolen, json=ping)).status_code == 404
        assert (await server.http.delete(server.url, headers=stolen)).status_code == 404
    again = {**headers, "Authorization": f"Bearer {issue(sub='alice')}"}
    assert (await server.http.post(server.url, headers=again, json=ping)).status_code == 200
    assert (await server.http.delete(server.url, headers=again)).status_code == 200


@pytest.mark.parametrize("change", [lambda i: i.split(".")[0], lambda i: i + "x", lambda _: ".", lambda i: "x" + i])
async def test_a_session_id_that_was_changed_is_not_found(server: ResourceServer, change: Callable[[str], str]) -> None:
    headers = await open_session(server.http, server.url, server.authorization_server.issue())
    headers["Mcp-Session-Id"] = change(headers["Mcp-Session-Id"])
    answer = await server.http.post(server.url, headers=headers, json={"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert answer.status_code == 404
    assert answer.json()["error"]["message"] == "Session not found"


async def test_it_gets_what_mcp_needs_and_no_token_cookie_or_address(scripted: ScriptedAuthorizationServer) -> None:
    seen: list[dict[str, str]] = []

    async def note(request: web.Request) -> web.Response:
        seen.append({name.lower(): value for name, value in request.headers.items()})
        return web.json_response(ANSWER, headers={"Set-Cookie": "a=b", "Server": "x", "Mcp-Thing": "y", "X-Inner": "z"})

    async with before(scripted, note) as server:
        token = scripted.issue()
        headers = modern_headers("greet", token) | {
            "Cookie": "session=secret",
            "X-Forwarded-For": "10.0.0.1",
            "Forwarded": "for=10.0.0.1",
            "Keystile-Identity": "forged",
            "Mcp-Param-Region": "eu",
            "Origin": server.origin,
        }
        answer = await server.http.post(server.url, headers=headers, json=tool_call("greet", {}))
    assert answer.json() == ANSWER
    assert {"set-cookie", "x-inner"}.isdisjoint(answer.headers)
    assert answer.headers["mcp-thing"] == "y"
    [got] = seen
    assert set(got) == {
        "host", "accept", "accept-encoding", "content-type", "content-length", "user-agent",
        "mcp-protocol-version", "mcp-method", "mcp-name", "mcp-param-region",
    }  # fmt: skip
    assert got["mcp-param-region"] == "eu"
    assert token not in json.dumps(got)


async def test_it_is_shown_its_own_credentials(scripted: ScriptedAuthorizationServer, tmp_path: Path) -> None:
    seen: list[str | None] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(ANSWER)

    file = tmp_path / "token"
    file.write_text("from-a-file\n")
    async with before(scripted, note, bearer="fixed") as server:
        await server.call(scripted.issue())
    async with before(scripted, note, token_file=str(file)) as server:
        await server.call(scripted.issue())
    assert seen == ["Bearer fixed", "Bearer from-a-file"]


async def test_a_caller_is_named_in_a_signed_header_when_that_is_asked_for(
    scripted: ScriptedAuthorizationServer, tmp_path: Path
) -> None:
    key = ECKey.generate_key("P-256")
    file = tmp_path / "key.pem"
    file.write_bytes(key.as_pem(private=True))
    seen: list[str] = []

    async def note(request: web.Request) -> web.Response:
        seen.append(request.headers["Keystile-Identity"])
        return web.json_response(ANSWER)

    async with before(scripted, note, identity_key_file=str(file)) as server:
        await server.call(scripted.issue("mcp:basic", sub="alice", client_id="desk"))
        claims = jwt.decode(seen[0], key, algorithms=["ES256"]).claims
        assert claims["exp"] - claims["iat"] == 60
        del claims["exp"], claims["iat"]
        assert claims["aud"].endswith("/mcp")
        del claims["aud"]
        assert claims == {"iss": server.url, "sub": "alice", "client_id": "desk", "scope": "mcp:basic"}


async def test_a_key_that_vanishes_stops_requests_instead_of_sending_them_unsigned(
    scripted: ScriptedAuthorizationServer, tmp_path: Path
) -> None:
    async def never(_: web.Request) -> web.Response:
        raise AssertionError

    async with before(scripted, never, token_file=str(tmp_path / "missing")) as server:
        answer = await server.call(scripted.issue())
        assert answer.status_code == 502
        assert "credentials" in answer.json()["error"]["message"]
        assert server.metric("keystile_upstream_failures_total", kind="credentials") == 1


async def test_an_upstream_that_is_away_is_a_json_rpc_error_with_a_hint_when_to_retry(
    scripted: ScriptedAuthorizationServer,
) -> None:
    gone = _loopback()
    url = f"http://127.0.0.1:{gone.getsockname()[1]}/mcp"
    gone.close()
    async with resource_server(scripted, upstream={"url": url}) as server:
        answer = await server.call(scripted.issue())
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert answer.json() == {
            "jsonrpc": "2.0",
            "id": 1,
            "error": {
                "code": -32603,
                "message": "The MCP server behind this one cannot be reached; try again in 2 seconds",
                "data": {"retryAfterSeconds": 2},
            },
        }
        assert server.metric("keystile_upstream_failures_total", kind="connection") == 1
    events = [event for event in server.audit if event["type"] == "tool.called"]
    assert [event["outcome"] for event in events] == ["failure"]


@pytest.mark.parametrize("status", [301, 307, 401, 403, 407])
async def test_what_an_upstream_says_of_our_credentials_is_no_challenge_for_the_client(
    scripted: ScriptedAuthorizationServer, status: int
) -> None:
    async def refuse(_: web.Request) -> web.Response:
        headers = {
            "WWW-Authenticate": 'Bearer resource_metadata="https://evil.example"',
            "Location": "https://e.example",
        }
        return web.Response(status=status, headers=headers)

    async with before(scripted, refuse) as server:
        answer = await server.call(scripted.issue())
        assert answer.status_code == 502
        assert {"www-authenticate", "location"}.isdisjoint(answer.headers)
        assert str(status) in answer.json()["error"]["message"]


async def test_other_errors_of_the_upstream_are_the_clients_to_read(scripted: ScriptedAuthorizationServer) -> None:
    async def refuse(_: web.Request) -> web.Response:
        error = {"jsonrpc": "2.0", "id": 1, "error": {"code": -32022, "message": "Unsupported protocol version"}}
        return web.json_response(error, status=400)

    async with before(scripted, refuse) as server:
        answer = await server.call(scripted.issue())
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022)


async def test_a_stream_is_handed_on_event_by_event(scripted: ScriptedAuthorizationServer) -> None:
    go_on = asyncio.Event()

    async def stream(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n')
        await go_on.wait()
        await response.write(b"data: " + json.dumps(ANSWER).encode() + b"\n\n")
        return response

    async with before(scripted, stream) as server:
        headers = modern_headers("greet", scripted.issue())
        async with server.http.stream("POST", server.url, headers=headers, json=tool_call("greet", {})) as response:
            lines = response.aiter_lines()
            assert "notifications/message" in await anext(lines)
            go_on.set()
            rest = [line async for line in lines if line]
        assert json.loads(rest[0].removeprefix("data: ")) == ANSWER


async def test_a_client_that_goes_away_ends_the_request_upstream_too(scripted: ScriptedAuthorizationServer) -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def hang(_: web.Request) -> web.Response:
        began.set()
        try:
            await asyncio.sleep(60)
        finally:
            ended.set()
        return web.Response()

    async with before(scripted, hang) as server:
        call = asyncio.create_task(server.call(scripted.issue()))
        await asyncio.wait_for(began.wait(), 5)
        call.cancel()
        await asyncio.wait_for(ended.wait(), 5)
        for _ in range(100):
            if any(event["type"] == "tool.called" for event in server.audit):
                break
            await asyncio.sleep(0.02)
        [event] = [event for event in server.audit if event["type"] == "tool.called"]
        assert (event["outcome"], event["reason"]) == ("failure", "no_answer")


async def test_an_answer_that_is_broken_off_is_not_completed(scripted: ScriptedAuthorizationServer) -> None:
    async def cut(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        await response.write(b'data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}\n\n')
        assert request.transport is not None
        request.transport.abort()
        return response

    async with before(scripted, cut) as server:
        with pytest.raises(httpx2.RemoteProtocolError):
            await server.call(scripted.issue())
        assert server.metric("keystile_upstream_failures_total", kind="broken_off") == 1


async def test_a_slow_client_holds_the_upstream_back_instead_of_filling_memory(
    scripted: ScriptedAuthorizationServer,
) -> None:
    sent = 0

    async def pour(request: web.Request) -> web.StreamResponse:
        nonlocal sent
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        event = b"data: " + b"x" * 65536 + b"\n\n"
        for _ in range(1024):
            await response.write(event)
            sent += len(event)
        return response

    async with before(scripted, pour) as server:
        headers = modern_headers("greet", scripted.issue())
        async with server.http.stream("POST", server.url, headers=headers, json=tool_call("greet", {})) as response:
            chunks = response.aiter_raw()
            await anext(chunks)
            held = -1
            while held != sent:
                held = sent
                await asyncio.sleep(0.3)
            assert held < 32 * 1024 * 1024  # what the buffers of three connections take
            received = 0
            async for chunk in chunks:
                received += len(chunk)
        assert received > 60 * 1024 * 1024


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"upstream": {"url": "tools:8080"}}, "must be the URL of an MCP endpoint"),
        ({"upstream": {"url": "http://a:b@tools/mcp"}}, "without user or password"),
        ({"upstream": {"bearer": "x"}}, "needs url"),
        ({"upstream": {"url": "http://t/mcp", "bearer": "x", "token_file": "y"}}, "bearer or token_file, not both"),
        ({"upstream": {"url": "http://t/mcp"}, "app": "a:b"}, r"app and upstream\.url: give one of them"),
    ],
)
def test_settings_that_cannot_be_used_are_said_in_a_sentence(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        make_settings(**settings)


def test_a_key_for_identities_that_cannot_be_read_is_said_at_the_start() -> None:
    settings = make_settings(upstream={"url": "http://t/mcp", "identity_key_file": "/none"})
    with pytest.raises(SettingsError, match=r"upstream\.identity_key_file cannot be read"):
        Upstream(settings, McpMetrics(CollectorRegistry(), "test"))
