"""Tools through the MCP SDK's own client, on each wire that is served."""

import pytest
from mcp.client.client import ConnectMode

from tests.integration.mcp.resource_server import (
    MODERN,
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    open_session,
    resource_server,
    tool_call,
)

WIRES: list[ConnectMode] = [MODERN, "legacy", "auto"]


@pytest.mark.parametrize("wire", WIRES)
async def test_a_client_lists_and_calls_tools(server: ResourceServer, wire: ConnectMode) -> None:
    token = server.authorization_server.issue()
    async with server.client(token, wire) as client:
        tools = [tool.name for tool in (await client.list_tools()).tools]
        assert {"echo", "add", "who_am_i", "long_running"} <= set(tools)
        echoed = await client.call_tool("echo", {"text": "hello"})
        assert echoed.structured_content == {"result": "hello"}
        summed = await client.call_tool("add", {"a": 2, "b": 0.5})
        assert summed.structured_content == {"result": 2.5}


@pytest.mark.parametrize("wire", WIRES)
async def test_a_tool_knows_the_caller_and_not_the_token(server: ResourceServer, wire: ConnectMode) -> None:
    token = server.authorization_server.issue(sub="bob", client_id="client-7")
    async with server.client(token, wire) as client:
        result = await client.call_tool("who_am_i", {})
    assert result.structured_content == {
        "subject": "bob",
        "client_id": "client-7",
        "issuer": server.authorization_server.issuer,
        "scopes": ["mcp:basic", "mcp:jobs"],
    }


@pytest.mark.parametrize("wire", WIRES)
async def test_a_long_call_reports_its_progress(server: ResourceServer, wire: ConnectMode) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def note(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with server.client(server.authorization_server.issue(), wire) as client:
        result = await client.call_tool("long_running", {"seconds": 0.05, "steps": 3}, progress_callback=note)
    assert not result.is_error
    assert seen == [(1, 3, "Step 1 of 3"), (2, 3, "Step 2 of 3"), (3, 3, "Step 3 of 3")]


async def test_a_session_of_another_user_is_not_found(server: ResourceServer) -> None:
    alice, mallory = (server.authorization_server.issue(sub=name) for name in ("alice", "mallory"))
    headers = await open_session(server.http, server.url, alice)
    assert server.metric("keystile_mcp_sessions") == 1
    stolen = {**headers, "Authorization": f"Bearer {mallory}"}
    answer = await server.http.post(server.url, headers=stolen, json={"jsonrpc": "2.0", "id": 2, "method": "ping"})
    assert answer.status_code == 404


async def test_each_revision_has_its_methods_and_an_unknown_one_is_told_so(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    headers = modern_headers("echo", token)
    for method in ("GET", "DELETE"):
        assert (await server.http.request(method, server.url, headers=headers)).status_code == 405
    message = tool_call("echo", {})
    message["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = "2099-01-01"
    unknown = await server.http.post(
        server.url, headers={**headers, "Mcp-Protocol-Version": "2099-01-01"}, json=message
    )
    assert unknown.status_code == 400
    assert unknown.json()["error"]["code"] == -32022
    session = await open_session(server.http, server.url, token)
    assert (await server.http.delete(server.url, headers=session)).status_code == 200
    assert (await server.http.delete(server.url, headers=session)).status_code == 404


async def test_a_call_that_streams_nothing_is_answered_in_json(server: ResourceServer) -> None:
    response = await server.call(server.authorization_server.issue())
    assert response.headers["content-type"] == "application/json"


async def test_the_endpoint_answers_with_a_slash_at_its_end_too(server: ResourceServer) -> None:
    response = await server.http.post(server.url + "/", json={})
    assert response.status_code == 401
    assert "location" not in response.headers


@pytest.mark.parametrize("wire", WIRES)
async def test_without_sessions_each_request_is_served_alone_whatever_the_wire(
    scripted: ScriptedAuthorizationServer, wire: ConnectMode
) -> None:
    async with resource_server(scripted, sessions="none") as server:
        async with server.client(scripted.issue(), wire) as client:
            assert (await client.call_tool("echo", {"text": "hello"})).structured_content == {"result": "hello"}
            seen: list[float] = []

            async def note(progress: float, total: float | None, message: str | None) -> None:
                seen.append(progress)

            await client.call_tool("long_running", {"seconds": 0.05, "steps": 3}, progress_callback=note)
        assert seen == [1, 2, 3]
        assert server.metric("keystile_mcp_sessions") == 0
