"""Clients that go away before their answer, or cancel it: nothing of them stays behind."""

import asyncio
import gc
import json
from collections import Counter
from pathlib import Path
from typing import Any

from tests.integration.mcp.resource_server import (
    ResourceServer,
    modern_headers,
    open_session,
    tool_call,
)

TIMES = 100
WATCHED = ("mcp.server", "mcp.shared", "keystile_mcp", "starlette", "uvicorn", "sse_starlette")


def objects() -> Counter[str]:
    """How many objects there are of each class that serving makes."""
    gc.collect()
    found: Counter[str] = Counter()
    for each in gc.get_objects():
        kind = type(each)
        if str(kind.__module__).startswith(WATCHED):
            found[f"{kind.__module__}.{kind.__qualname__}"] += 1
    return found


def sockets() -> int:
    """How many file descriptors this process has, or 0 where that cannot be told."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.is_dir() else 0


async def settled(tasks: int, descriptors: int) -> bool:
    """Whether tasks and descriptors come down to what they were."""
    for _ in range(200):
        if len(asyncio.all_tasks()) <= tasks and sockets() <= descriptors:
            return True
        await asyncio.sleep(0.05)
    return False


async def begin(server: ResourceServer, headers: dict[str, str], message: dict[str, Any]) -> asyncio.StreamWriter:
    """Send a call, on a connection of its own, and wait for the first of its answer."""
    host = server.origin.removeprefix("http://")
    reader, writer = await asyncio.open_connection("127.0.0.1", int(host.rpartition(":")[2]))
    body = json.dumps(message).encode()
    lines = [f"{name}: {value}" for name, value in headers.items()]
    head = ["POST /mcp HTTP/1.1", f"Host: {host}", "Content-Type: application/json", f"Content-Length: {len(body)}"]
    writer.write("\r\n".join([*head, *lines, "", ""]).encode() + body)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    return writer


def long_call(seconds: float, request_id: int = 1) -> dict[str, Any]:
    message = tool_call("long_running", {"seconds": seconds, "steps": 100})
    message["params"]["_meta"]["progressToken"] = "p"
    return {**message, "id": request_id}


async def leave(server: ResourceServer, headers: dict[str, str], message: dict[str, Any]) -> None:
    """Begin a call and go away, without a word."""
    writer = await begin(server, headers, message)
    writer.transport.abort()


async def test_a_hundred_clients_that_leave_their_calls_leave_nothing(server: ResourceServer) -> None:
    headers = modern_headers("long_running", server.authorization_server.issue())
    await leave(server, headers, long_call(30))
    await asyncio.sleep(0.3)
    tasks, descriptors, before = len(asyncio.all_tasks()), sockets(), objects()
    # They report first after 0.3 s, and would end after 30: they are cancelled.
    await asyncio.gather(*(leave(server, headers, long_call(30, number)) for number in range(TIMES)))
    assert await settled(tasks, descriptors)
    assert not {kind: count for kind, count in (objects() - before).items() if count >= TIMES / 10}
    events = [event for event in server.audit if event["type"] == "tool.called"]
    assert len(events) == TIMES + 1
    assert {(event["outcome"], event["reason"]) for event in events} == {("failure", "no_answer")}


async def test_a_hundred_clients_that_leave_a_subscription_leave_nothing(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    headers = {**modern_headers("", token), "Mcp-Method": "subscriptions/listen"}
    del headers["Mcp-Name"]
    message = tool_call("", {})
    message["method"] = "subscriptions/listen"
    message["params"] = {
        "_meta": message["params"]["_meta"],
        "notifications": {"resourceSubscriptions": ["demo://notes/7"]},
    }
    await leave(server, headers, message)
    await asyncio.sleep(0.3)
    tasks, descriptors, before = len(asyncio.all_tasks()), sockets(), objects()
    for _ in range(TIMES):
        await leave(server, headers, message)
    assert await settled(tasks, descriptors)
    assert not {kind: count for kind, count in (objects() - before).items() if count >= TIMES / 10}
    assert (await server.call(token, "touch_note", number=7)).status_code == 200


async def test_a_hundred_sessions_whose_clients_left_a_call_end_with_nothing(server: ResourceServer) -> None:
    token = server.authorization_server.issue()

    async def visit() -> None:
        headers = await open_session(server.http, server.url, token)
        subscription = {"jsonrpc": "2.0", "id": 9, "method": "resources/subscribe", "params": {"uri": "demo://notes/7"}}
        assert (await server.http.post(server.url, headers=headers, json=subscription)).status_code == 200
        # To leave is not to cancel in these revisions; the call ends with the session.
        await leave(server, headers, long_call(300))
        assert (await server.http.delete(server.url, headers=headers)).status_code == 200

    await visit()
    await asyncio.sleep(0.3)
    tasks, descriptors, before = len(asyncio.all_tasks()), sockets(), objects()
    for _ in range(TIMES):
        await visit()
    assert await settled(tasks, descriptors)
    assert server.metric("keystile_mcp_sessions") == 0
    assert not {kind: count for kind, count in (objects() - before).items() if count >= TIMES / 10}
    assert (await server.call(token, "touch_note", number=7)).status_code == 200


async def test_a_call_in_a_session_goes_on_without_its_client_and_then_ends(server: ResourceServer) -> None:
    headers = await open_session(server.http, server.url, server.authorization_server.issue())
    tasks, descriptors = len(asyncio.all_tasks()), sockets()
    for number in range(10):
        await leave(server, headers, long_call(0.5, number + 10))
    assert await settled(tasks, descriptors)
    ping = {"jsonrpc": "2.0", "id": 99, "method": "ping"}
    assert (await server.http.post(server.url, headers=headers, json=ping)).status_code == 200


async def test_a_call_that_is_cancelled_in_its_session_stops(server: ResourceServer) -> None:
    headers = await open_session(server.http, server.url, server.authorization_server.issue())
    tasks, descriptors = len(asyncio.all_tasks()), sockets()
    writer = await begin(server, headers, long_call(300, 5))
    cancel = {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5, "reason": "enough"}}
    assert (await server.http.post(server.url, headers=headers, json=cancel)).status_code == 202
    assert await settled(tasks + 1, descriptors + 2)
    writer.close()
    assert await settled(tasks, descriptors)
    ping = {"jsonrpc": "2.0", "id": 99, "method": "ping"}
    assert (await server.http.post(server.url, headers=headers, json=ping)).status_code == 200
