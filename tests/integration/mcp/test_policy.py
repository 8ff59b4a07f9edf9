"""Scopes that tools ask for, and what a token without them gets."""

from collections.abc import AsyncIterator

import pytest

from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    resource_server,
    tool_call,
)


async def test_a_call_without_its_scope_names_every_scope_it_needs(server: ResourceServer) -> None:
    token = server.authorization_server.issue("other")
    response = await server.call(token, "long_running", seconds=0, steps=1)
    assert response.status_code == 403
    assert response.headers["www-authenticate"] == (
        'Bearer error="insufficient_scope", '
        'error_description="This needs mcp:basic mcp:jobs; the token lacks mcp:basic mcp:jobs", '
        f'resource_metadata="{server.origin}/.well-known/oauth-protected-resource/mcp", '
        'scope="mcp:basic mcp:jobs"'
    )


async def test_a_tool_of_its_own_scope_is_refused_and_others_are_not(server: ResourceServer) -> None:
    token = server.authorization_server.issue("mcp:basic")
    assert (await server.call(token, "echo")).status_code == 200
    assert (await server.call(token, "long_running", seconds=0, steps=1)).status_code == 403


async def test_the_body_decides_whatever_the_header_says(server: ResourceServer) -> None:
    token = server.authorization_server.issue("mcp:basic")
    response = await server.http.post(
        server.url, headers=modern_headers("echo", token), json=tool_call("long_running", {"seconds": 0})
    )
    assert response.status_code == 403


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_what_every_request_needs_is_asked_of_streams_and_session_ends_too(
    server: ResourceServer, method: str
) -> None:
    token = server.authorization_server.issue("other")
    response = await server.http.request(method, server.url, headers={"Authorization": f"Bearer {token}"})
    assert response.status_code == 403
    assert 'scope="mcp:basic"' in response.headers["www-authenticate"]


async def test_a_pattern_closes_every_tool_that_no_other_rule_opens(scripted: ScriptedAuthorizationServer) -> None:
    policy = {"*": ["mcp:jobs"], "echo": []}
    async with resource_server(scripted, policy=policy) as server:
        token = scripted.issue("mcp:basic")
        assert (await server.call(token, "echo")).status_code == 200
        assert (await server.call(token, "add", a=1, b=2)).status_code == 403


async def test_a_policy_for_a_tool_that_does_not_exist_is_said_at_the_start(
    scripted: ScriptedAuthorizationServer, capsys: pytest.CaptureFixture[str]
) -> None:
    async with resource_server(scripted, policy={"delete": ["mcp:jobs"], "echo": [], "x*": []}):
        pass
    [line] = [line for line in capsys.readouterr().out.splitlines() if "does not exist" in line]
    assert "tool=delete" in line.replace("'", "") or '"tool": "delete"' in line


async def test_a_batch_is_refused(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    response = await server.http.post(server.url, headers={"Authorization": f"Bearer {token}"}, json=[])
    assert response.status_code == 400
    assert response.json()["error"]["code"] == -32600


async def test_a_body_over_four_mebibytes_is_refused_unread(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    response = await server.call(token, "echo", text="x" * (4 * 1024 * 1024))
    assert response.status_code == 413


async def test_a_body_of_unknown_length_is_refused_where_it_grows_too_large(server: ResourceServer) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 1024 * 1024

    token = server.authorization_server.issue()
    response = await server.http.post(server.url, headers={"Authorization": f"Bearer {token}"}, content=chunks())
    assert response.status_code == 413
