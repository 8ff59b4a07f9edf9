"""What operators see: audit events and metrics, and no secret in either."""

import asyncio
import time

import pytest
from prometheus_client import generate_latest

from keystile_common import audit
from tests.integration.mcp.resource_server import (
    CLIENT_SECRET,
    MODERN,
    ResourceServer,
    opaque_token,
)


async def test_a_tool_call_is_an_audit_event_and_a_metric(server: ResourceServer) -> None:
    async with server.client(server.authorization_server.issue(), "legacy") as client:
        await client.call_tool("echo", {"text": "hello"})
    [event] = server.audit
    assert event["type"] == "tool.called"
    assert event["outcome"] == "success"
    assert event["actor"] == {"sub": "alice", "client_id": "client-1", "ip": "127.0.0.1"}
    assert event["target"] == {"resource": server.url, "tool": "echo"}
    assert server.metric("keystile_mcp_tool_calls_total", tool="echo", outcome="success") == 1
    assert server.metric("keystile_mcp_requests_total", method="tools/call", outcome="success") == 1
    assert server.metric("keystile_mcp_requests_total", method="initialize", outcome="success") == 1


async def test_a_tool_that_fails_is_a_failure(server: ResourceServer) -> None:
    async with server.client(server.authorization_server.issue(), MODERN) as client:
        assert (await client.call_tool("add", {"a": "no number", "b": 1})).is_error
    assert server.audit[0]["outcome"] == "failure"
    assert server.audit[0]["reason"] == "tool_error"
    assert server.metric("keystile_mcp_tool_calls_total", tool="add", outcome="failure") == 1


async def test_no_client_can_make_up_the_name_of_a_tool_or_method(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    await server.call(token, "rm -rf")
    message = {"jsonrpc": "2.0", "id": 1, "method": "made/up"}
    await server.http.post(server.url, headers={"Authorization": f"Bearer {token}"}, json=message)
    metrics = generate_latest(server.registry).decode()
    assert "rm -rf" not in metrics + server.audit_text.getvalue()
    assert "made/up" not in metrics
    assert server.metric("keystile_mcp_tool_calls_total", tool="unknown", outcome="failure") == 1
    assert server.metric("keystile_mcp_requests_total", method="unknown", outcome="failure") == 1


async def test_a_refused_token_is_an_audit_event_and_a_request_without_one_is_not(server: ResourceServer) -> None:
    await server.call(None)
    assert server.audit == []
    await server.call(opaque_token())
    [event] = server.audit
    assert (event["type"], event["outcome"], event["reason"]) == ("access.denied", "denied", "inactive")
    assert event["actor"] == {"sub": None, "client_id": None, "ip": "127.0.0.1"}
    assert server.metric("keystile_token_validations_total", method="introspection", result="missing") == 1
    assert server.metric("keystile_token_validations_total", method="introspection", result="inactive") == 1


async def test_a_refused_scope_is_an_audit_event_that_names_user_and_tool(server: ResourceServer) -> None:
    await server.call(server.authorization_server.issue("mcp:basic"), "long_running", seconds=0)
    [event] = server.audit
    assert (event["type"], event["reason"]) == ("access.denied", "insufficient_scope")
    assert event["actor"]["sub"] == "alice"
    assert event["target"]["tool"] == "long_running"
    assert server.metric("keystile_mcp_tool_calls_total", tool="long_running", outcome="denied") == 1
    assert server.metric("keystile_mcp_requests_total", method="tools/call", outcome="denied") == 1


async def test_a_flood_of_invalid_tokens_leaves_a_bounded_number_of_audit_events(server: ResourceServer) -> None:
    started = time.monotonic()
    await asyncio.gather(*(server.call("kst_at_junk") for _ in range(200)))
    assert server.metric("keystile_token_validations_total", method="introspection", result="malformed") == 200
    assert 50 <= len(server.audit) <= 51 + 10 * (time.monotonic() - started)
    assert not server.authorization_server.requests


async def test_the_audit_chain_holds(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    for _ in range(3):
        await server.call(token)
    assert audit.verify(server.audit_text.getvalue().splitlines()) == (3, [])


async def test_no_secret_gets_into_audit_metrics_or_log(
    server: ResourceServer, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    scripted = server.authorization_server
    good, revoked = scripted.issue(), opaque_token()
    await server.call(good)
    await server.call(revoked)
    await server.http.get(f"{server.url}?access_token={revoked}")
    async with server.client(good, "legacy") as client:
        await client.call_tool("who_am_i", {})
    seen = server.audit_text.getvalue() + generate_latest(server.registry).decode()
    seen += caplog.text + "".join(capsys.readouterr())
    for secret in (good, revoked, CLIENT_SECRET):
        assert secret not in seen
