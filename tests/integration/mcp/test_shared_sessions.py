"""Sessions of the older revisions over several replicas (`sessions: shared`)."""

import asyncio
import base64
import json
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from keystile_mcp import handover
from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    _loopback,
    modern_headers,
    open_session,
    post_patiently,
    resource_server,
    tool_call,
)
from tests.integration.mcp.test_request_state import ask, second_round
from tests.stores import Server, valkey

RESOURCE = "https://tools.example.com/mcp"
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


def free_port() -> int:
    listener = _loopback()
    port: int = listener.getsockname()[1]
    listener.close()
    return port


def shared(store_url: str, **more: Any) -> dict[str, Any]:
    # All replicas of a test are in one process, which may be slow to answer itself.
    handover = {"port": free_port(), "connect_timeout_seconds": 5}
    return {"sessions": "shared", "store": {"url": store_url}, "handover": handover, **more}


@dataclass
class Replicas:
    """Several of one resource server, as behind a Service."""

    servers: list[ResourceServer]
    authorization_server: ScriptedAuthorizationServer

    def url(self, number: int) -> str:
        return self.servers[number].url


@asynccontextmanager
async def replicas(
    scripted: ScriptedAuthorizationServer, store_url: str, count: int = 2, **settings: Any
) -> AsyncIterator[Replicas]:
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(count):
            values = shared(store_url, **settings)
            servers.append(await stack.enter_async_context(resource_server(scripted, resource=RESOURCE, **values)))
        yield Replicas(servers, scripted)


@pytest.fixture
async def pair(scripted: ScriptedAuthorizationServer, store_url: str) -> AsyncIterator[Replicas]:
    async with replicas(scripted, store_url) as running:
        yield running


def call(number: int, tool: str = "echo", **arguments: Any) -> dict[str, Any]:
    parameters = {"name": tool, "arguments": arguments or {"text": f"text {number}"}}
    return {"jsonrpc": "2.0", "id": number, "method": "tools/call", "params": parameters}


def result_of(answer: httpx2.Response, request_id: int) -> Any:
    for line in answer.text.splitlines():
        message = json.loads(line.removeprefix("data:")) if line.startswith("data:") and len(line) > 7 else {}
        if message.get("id") == request_id:
            return message["result"]["structuredContent"]["result"]
    raise AssertionError(answer.text)


async def test_any_replica_takes_a_request_of_any_session(pair: Replicas) -> None:
    one, two = pair.servers
    headers = await open_session(one.http, one.url, pair.authorization_server.issue())
    for number, server in enumerate((one, two, two, one), 10):
        answer = await server.http.post(server.url, headers=headers, json=call(number))
        assert result_of(answer, number) == f"text {number}"
    assert two.metric("keystile_mcp_session_handovers_total", result="answered") == 2
    assert (one.metric("keystile_mcp_sessions"), two.metric("keystile_mcp_sessions")) == (1, 0)
    assert (await two.http.delete(two.url, headers=headers)).status_code == 200
    for server in (one, two):
        assert (await server.http.post(server.url, headers=headers, json=PING)).status_code == 404


async def test_a_tool_knows_the_caller_at_the_replica_that_serves_it(pair: Replicas) -> None:
    one, two = pair.servers
    token = pair.authorization_server.issue(sub="bob", client_id="desk")
    headers = await open_session(one.http, one.url, token)
    answer = await two.http.post(two.url, headers=headers, json=call(3, "who_am_i", x=1))
    assert "bob" in answer.text
    assert token not in answer.text


async def test_a_session_of_another_user_is_not_found_at_any_replica(pair: Replicas) -> None:
    issue = pair.authorization_server.issue
    headers = await open_session(pair.servers[0].http, pair.url(0), issue(sub="alice"))
    for stranger in (issue(sub="mallory"), issue(sub="alice", client_id="another")):
        for server in pair.servers:
            stolen = {**headers, "Authorization": f"Bearer {stranger}"}
            for method in ("POST", "GET", "DELETE"):
                answer = await server.http.request(method, server.url, headers=stolen, json=PING)
                assert answer.status_code == 404
    assert (await pair.servers[1].http.post(pair.url(1), headers=headers, json=PING)).status_code == 200


async def test_a_scope_that_a_call_lacks_is_asked_for_before_it_is_handed_over(pair: Replicas) -> None:
    one, two = pair.servers
    headers = await open_session(one.http, one.url, pair.authorization_server.issue("mcp:basic"))
    answer = await two.http.post(two.url, headers=headers, json=call(1, "long_running", seconds=0))
    assert answer.status_code == 403
    assert not two.metric("keystile_mcp_session_handovers_total", result="answered")


async def test_the_session_id_of_a_request_without_sessions_is_ignored(pair: Replicas) -> None:
    token = pair.authorization_server.issue()
    headers = modern_headers("echo", token) | {"Mcp-Session-Id": "x"}
    answer = await pair.servers[0].http.post(pair.url(0), headers=headers, json=tool_call("echo", {}))
    assert answer.status_code == 200


async def test_a_call_under_way_reports_its_progress_through_another_replica(pair: Replicas) -> None:
    one, two = pair.servers
    headers = await open_session(one.http, one.url, pair.authorization_server.issue())
    message = call(5, "long_running", seconds=0.1, steps=3)
    message["params"]["_meta"] = {"progressToken": "p"}
    async with two.http.stream("POST", two.url, headers=headers, json=message) as response:
        lines = [line async for line in response.aiter_lines() if line.startswith("data:") and "progress" in line]
    assert [json.loads(line[5:])["params"]["progress"] for line in lines] == [1, 2, 3]


async def test_a_stream_that_broke_is_resumed_at_any_replica_from_the_last_event_seen(pair: Replicas) -> None:
    one, two = pair.servers
    headers = await open_session(one.http, one.url, pair.authorization_server.issue())
    await one.http.post(one.url, headers=headers, json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    message = call(7, "long_running", seconds=0.6, steps=3)
    message["params"]["_meta"] = {"progressToken": "p"}
    last = None
    async with two.http.stream("POST", two.url, headers=headers, json=message) as response:
        async for line in response.aiter_lines():
            if line.startswith("id:"):
                last = line[3:].strip()
            if line.startswith("data:") and '"progress":1' in line.replace(" ", "").replace("1.0", "1"):
                break
    assert last is not None
    rest: list[Any] = []
    resume = {**headers, "Last-Event-ID": last, "Accept": "text/event-stream"}
    async with two.http.stream("GET", two.url, headers=resume) as response:
        assert response.status_code == 200
        async for line in response.aiter_lines():
            if line.startswith("data:") and len(line) > 7:
                rest.append(json.loads(line[5:]))
                if "result" in rest[-1]:
                    break
    assert [each.get("id") for each in rest][-1] == 7
    assert all(each["params"]["progress"] > 1 for each in rest[:-1])


async def test_events_of_another_session_are_never_repeated(pair: Replicas) -> None:
    one, two = pair.servers
    issue = pair.authorization_server.issue
    alice = await open_session(one.http, one.url, issue(sub="alice"))
    mallory = await open_session(two.http, two.url, issue(sub="mallory"))
    said = await one.http.post(one.url, headers=alice, json=call(1, text="a secret of alice"))
    ids = [line[3:].strip() for line in said.text.splitlines() if line.startswith("id:")]
    # The same numbers of requests, and the very ids that alice saw.
    for event_id in [*ids, "0-0", "x", "-", "9" * 50, "1-1"]:
        resume = {**mallory, "Last-Event-ID": event_id, "Accept": "text/event-stream"}
        heard = ""
        try:
            async with asyncio.timeout(0.3), two.http.stream("GET", two.url, headers=resume) as response:
                async for line in response.aiter_lines():
                    heard += line
        except TimeoutError:
            pass
        assert "secret" not in heard


async def test_a_dead_replica_costs_its_clients_one_new_session(
    scripted: ScriptedAuthorizationServer, store_url: str
) -> None:
    async with replicas(scripted, store_url, count=1) as survivors:
        survivor = survivors.servers[0]
        token = scripted.issue()
        gone = f"127.0.0.1:{free_port()}"
        headers = await open_session(survivor.http, survivor.url, token)
        client = redis.asyncio.Redis.from_url(store_url, decode_responses=True)
        async with client:
            [key] = [key async for key in client.scan_iter(f"km:*{{{headers['Mcp-Session-Id']}}}")]
            residence = json.loads(str(await client.get(key))) | {"address": gone}
            orphan = key.replace(headers["Mcp-Session-Id"], "orphan")
            await client.set(orphan, json.dumps(residence))
            answer = await survivor.http.post(survivor.url, headers={**headers, "Mcp-Session-Id": "orphan"}, json=PING)
            assert answer.status_code == 404
            assert await client.get(orphan) is None
        assert survivor.metric("keystile_mcp_session_handovers_total", result="gone") == 1
        assert (await open_session(survivor.http, survivor.url, token))["Mcp-Session-Id"]


async def test_a_replica_that_is_slow_keeps_its_sessions_and_one_that_is_silent_does_not(
    scripted: ScriptedAuthorizationServer, store_url: str
) -> None:
    # Connections to it are neither taken nor refused: its queue is full.
    deaf = _loopback()
    deaf.listen(0)
    address = f"127.0.0.1:{deaf.getsockname()[1]}"
    callers = [socket.socket() for _ in range(4)]
    for caller in callers:
        caller.setblocking(False)
        caller.connect_ex(deaf.getsockname())
    slow = {"handover": {"port": free_port(), "connect_timeout_seconds": 0.3}}
    async with replicas(scripted, store_url, count=1, **slow) as running:
        server = running.servers[0]
        headers = await open_session(server.http, server.url, scripted.issue())
        async with redis.asyncio.Redis.from_url(store_url, decode_responses=True) as client:
            [key] = [key async for key in client.scan_iter(f"km:*{{{headers['Mcp-Session-Id']}}}")]
            residence = json.loads(str(await client.get(key))) | {"address": address}
            await client.set(key.replace(headers["Mcp-Session-Id"], "elsewhere"), json.dumps(residence))
            alive = f"{key.split(':{')[0]}:alive:{address}"
            await client.set(alive, "1")
            headers["Mcp-Session-Id"] = "elsewhere"
            slow_answer = await server.http.post(server.url, headers=headers, json=PING)
            assert (slow_answer.status_code, slow_answer.headers["retry-after"]) == (503, "2")
            await client.delete(alive)
            assert (await server.http.post(server.url, headers=headers, json=PING)).status_code == 404
    for each in (deaf, *callers):
        each.close()


async def test_sessions_of_a_replica_that_stops_are_gone_at_once(
    scripted: ScriptedAuthorizationServer, store_url: str
) -> None:
    async with replicas(scripted, store_url, count=1) as survivors:
        async with replicas(scripted, store_url, count=1) as stopping:
            headers = await open_session(stopping.servers[0].http, stopping.url(0), scripted.issue())
            server = survivors.servers[0]
            assert (await server.http.post(server.url, headers=headers, json=PING)).status_code == 200
        assert (await server.http.post(server.url, headers=headers, json=PING)).status_code == 404
        assert not server.metric("keystile_mcp_session_handovers_total", result="gone")


async def test_a_session_of_another_resource_is_not_found(
    scripted: ScriptedAuthorizationServer, store_url: str
) -> None:
    async with resource_server(scripted, **shared(store_url)) as one:
        headers = await open_session(one.http, one.url, scripted.issue(aud=one.url))
        async with resource_server(scripted, **shared(store_url)) as other:
            token = scripted.issue(aud=other.url)
            answer = await other.http.post(
                other.url, headers={**headers, "Authorization": f"Bearer {token}"}, json=PING
            )
            assert answer.status_code == 404


async def test_without_its_store_a_session_cannot_be_opened_and_a_call_without_sessions_goes_on(
    scripted: ScriptedAuthorizationServer, tmp_path: Path
) -> None:
    with valkey(tmp_path) as store:
        await _without_store(scripted, store)


async def _without_store(scripted: ScriptedAuthorizationServer, store: Server) -> None:
    async with replicas(scripted, store.url, count=1) as running:
        server = running.servers[0]
        token = scripted.issue()
        headers = await open_session(server.http, server.url, token)
        store.stop()
        started = time.monotonic()
        with pytest.raises(AssertionError):
            await open_session(server.http, server.url, token)
        unknown = await server.http.post(server.url, headers={**headers, "Mcp-Session-Id": "other"}, json=PING)
        assert time.monotonic() - started < 4
        assert (unknown.status_code, unknown.headers["retry-after"]) == (503, "2")
        assert (await server.call(token)).status_code == 200
        # A session that lives here goes on.
        assert (await server.http.post(server.url, headers=headers, json=PING)).status_code == 200
        assert server.metric("keystile_mcp_sessions") == 1


class TestTakeover:
    """The port that replicas reach each other by."""

    @pytest.fixture
    async def address(self, pair: Replicas, store_url: str) -> str:
        client = redis.asyncio.Redis.from_url(store_url, decode_responses=True)
        headers = await open_session(pair.servers[0].http, pair.url(0), pair.authorization_server.issue(sub="alice"))
        self.session = headers["Mcp-Session-Id"]
        async with client:
            [key] = [key async for key in client.scan_iter(f"km:*{{{self.session}}}")]
            self.key = base64.b64decode(str(await client.get(key.split("{")[0] + "key")))
            self.peer = str(json.loads(str(await client.get(key)))["address"])
        return self.peer

    async def post(self, claims: dict[str, Any] | None, key: bytes, body: bytes = b"", **headers: str) -> int:
        sent = {"Mcp-Session-Id": self.session, "Content-Type": "application/json", **headers}
        sent["Accept"] = "application/json, text/event-stream"
        if claims is not None:
            sent[handover.HEADER] = handover._seal(claims, key)
        async with httpx2.AsyncClient() as http:
            return (await http.post(f"http://{self.peer}/", headers=sent, content=body)).status_code

    def claims(self, body: bytes, **changes: Any) -> dict[str, Any]:
        caller = {"client_id": "client-1", "scopes": ["mcp:basic"], "subject": "alice", "claims": {}}
        said = {"time": time.time(), "method": "POST", "path": "/mcp", "session": self.session, "caller": caller}
        return {**said, "body": handover._digest(body), **changes}

    async def test_only_what_a_replica_has_signed_just_now_for_this_request_is_served(self, address: str) -> None:
        body = json.dumps(PING).encode()
        assert address
        good = self.claims(body)
        # Signed, so let through to the SDK, which asks for the whole principal.
        assert await self.post(good, self.key, body) == 404
        refused = [
            (None, self.key, body),
            (good, b"another key" * 3, body),
            (good, b"", body),
            (good, self.key, body + b" "),
            (self.claims(body, time=time.time() - 60), self.key, body),
            (self.claims(body, time=time.time() + 60), self.key, body),
            (self.claims(body, method="DELETE"), self.key, body),
            (self.claims(body, session="another"), self.key, body),
        ]
        for claims, key, sent in refused:
            assert await self.post(claims, key, sent) == 403, claims
        assert await self.post(None, self.key, body, **{handover.HEADER: "x"}) == 403
        assert await self.post(None, self.key, body, Authorization="Bearer x") == 403

    async def test_a_request_for_a_session_that_is_not_here_goes_no_further(self, address: str) -> None:
        assert address
        body = json.dumps(PING).encode()
        self.session = "elsewhere"
        assert await self.post(self.claims(body), self.key, body) == 404


async def test_a_thousand_sessions_on_two_replicas_never_get_each_others_answers(pair: Replicas) -> None:
    """Each with its own user, its calls spread over both replicas."""

    async def one(http: httpx2.AsyncClient, number: int) -> None:
        token = pair.authorization_server.issue(sub=f"user {number}")
        headers = await open_session(http, pair.url(number % 2), token)
        for turn in range(2):
            asked = number * 10 + turn
            server = pair.servers[(number + turn) % 2]
            answer = await post_patiently(http, server.url, headers, call(asked))
            assert result_of(answer, asked) == f"text {asked}"

    async with httpx2.AsyncClient(timeout=30, headers={"Host": "tools.example.com"}) as http:
        # All of them stay open; in one process with both servers no more than a few can begin at once.
        for start in range(0, 1000, 10):
            await asyncio.gather(*(one(http, number) for number in range(start, start + 10)))
    assert sum(server.metric("keystile_mcp_sessions") for server in pair.servers) == 1000


async def test_the_sdks_own_client_works_through_whichever_replica(pair: Replicas) -> None:
    token = pair.authorization_server.issue()

    async def alternate(request: httpx2.Request) -> None:
        alternate.count += 1  # type: ignore[attr-defined]
        server = pair.servers[alternate.count % 2]  # type: ignore[attr-defined]
        request.url = request.url.copy_with(port=httpx2.URL(server.url).port)
        request.headers["host"] = "tools.example.com"

    alternate.count = 0  # type: ignore[attr-defined]
    headers = {"Authorization": f"Bearer {token}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=10, event_hooks={"request": [alternate]}) as http,
        Client(streamable_http_client(pair.url(0), http_client=http), mode="legacy") as client,
    ):
        for number in range(6):
            result = await client.call_tool("echo", {"text": str(number)})
            assert result.structured_content == {"result": str(number)}


async def test_a_replica_takes_the_request_state_that_another_has_sealed(pair: Replicas) -> None:
    one, two = pair.servers
    token = pair.authorization_server.issue()
    state, answers = await ask(one, token)
    answered = await second_round(two, token, state, answers)
    assert answered["result"]["content"][0]["text"] == "soup for 1"
