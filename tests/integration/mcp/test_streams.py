"""Streams end with the token they were opened with."""

import asyncio
import time
from typing import Any

import httpx2
import pytest

from tests.integration.mcp.resource_server import (
    MODERN,
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    open_session,
    resource_server,
    tool_call,
)


async def read_to_end(
    server: ResourceServer, method: str, headers: dict[str, str], message: dict[str, Any] | None
) -> tuple[str, float]:
    """The whole text of a stream, and how long it stayed open in seconds."""
    started = time.monotonic()
    async with server.http.stream(method, server.url, headers=headers, json=message) as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        text = "".join([part async for part in response.aiter_text()])
    return text, time.monotonic() - started


def long_call(seconds: float) -> dict[str, Any]:
    message = tool_call("long_running", {"seconds": seconds, "steps": 20})
    message["params"]["_meta"]["progressToken"] = "p"
    return message


async def test_a_listening_stream_of_a_session_ends_when_its_token_does(server: ResourceServer) -> None:
    token = server.authorization_server.issue(exp=time.time() + 1.5)
    _, open_for = await read_to_end(server, "GET", await open_session(server.http, server.url, token), None)
    assert 0.5 < open_for < 2.5


async def test_a_streaming_call_of_a_session_ends_when_its_token_does(server: ResourceServer) -> None:
    token = server.authorization_server.issue(exp=time.time() + 1.5)
    headers = await open_session(server.http, server.url, token)
    text, open_for = await read_to_end(server, "POST", headers, long_call(10))
    assert "Step 1 of 20" in text
    assert open_for < 2.5


async def test_a_streaming_call_without_a_session_ends_when_its_token_does(server: ResourceServer) -> None:
    token = server.authorization_server.issue(exp=time.time() + 1.5)
    text, open_for = await read_to_end(server, "POST", modern_headers("long_running", token), long_call(10))
    assert "Step 1 of 20" in text
    assert "Done" not in text
    assert open_for < 2.5
    # The tool is told that its client has gone.
    for _ in range(100):
        if server.audit:
            break
        await asyncio.sleep(0.01)
    assert server.audit[0]["type"] == "tool.called"
    assert server.audit[0]["outcome"] == "failure"


async def test_a_stream_ends_within_the_cache_time_of_its_tokens_revocation(
    scripted: ScriptedAuthorizationServer,
) -> None:
    async with resource_server(scripted, introspection={"cache_seconds": 1}) as server:
        token = scripted.issue()
        reading = asyncio.create_task(
            read_to_end(server, "GET", await open_session(server.http, server.url, token), None)
        )
        await asyncio.sleep(1.5)
        assert not reading.done()
        scripted.revoke(token)
        async with asyncio.timeout(6):
            await reading


async def test_a_token_that_ends_needs_nobodys_word_for_it(server: ResourceServer) -> None:
    scripted = server.authorization_server
    headers = await open_session(server.http, server.url, scripted.issue(exp=time.time() + 4))
    asked = len(scripted.requests)
    _, open_for = await read_to_end(server, "GET", headers, None)
    assert open_for < 4.5
    assert len(scripted.requests) == asked


async def test_a_stream_ends_when_nobody_can_say_any_more_that_its_token_is_good(
    scripted: ScriptedAuthorizationServer,
) -> None:
    async def hang(*_: object) -> Any:
        await asyncio.sleep(30)

    async with resource_server(scripted, introspection={"cache_seconds": 1}) as server:
        headers = await open_session(server.http, server.url, scripted.issue())
        scripted.behaviour = hang
        _, open_for = await read_to_end(server, "GET", headers, None)
        assert open_for < 1 + 6


async def test_a_stream_with_a_good_token_is_read_to_its_end(scripted: ScriptedAuthorizationServer) -> None:
    async with resource_server(scripted, introspection={"cache_seconds": 0}) as server:
        token = scripted.issue()
        text, _ = await read_to_end(server, "POST", modern_headers("long_running", token), long_call(2.5))
        assert "Done" in text
        # Once at the start, and then every second; once more where the machine was too busy for its 2.5 seconds.
        assert len(scripted.requests) in {3, 4}


async def test_the_server_goes_on_after_a_client_that_left_in_the_middle(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    with pytest.raises(httpx2.ReadTimeout):
        await server.http.post(
            server.url, headers=modern_headers("long_running", token), json=long_call(30), timeout=0.3
        )
    async with server.client(token, MODERN) as client:
        assert not (await client.call_tool("echo", {"text": "still here"})).is_error
