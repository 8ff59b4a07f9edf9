"""`server-everything`, a server that others made in another language, behind `keystile-mcp --upstream`."""

import json
import os
import socket
import socketserver
import subprocess
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import httpx2
import mcp_types as types
import pytest
from mcp import Client, MCPError
from mcp.client.client import ConnectMode
from mcp.client.streamable_http import streamable_http_client

from tests import node
from tests.integration.mcp.resource_server import modern_headers, open_session, tool_call
from tests.made_run import free_ports
from tests.pair import Pair, running_pair

pytestmark = pytest.mark.node

# It speaks no revision that has no sessions; "auto" finds that out by itself.
WIRES: list[ConnectMode] = ["legacy", "auto"]
SCOPES = {"mcp:basic": "Use the tools", "mcp:operator": "Ask the user and the model, and see the environment"}
POLICY = {"get-env": ["mcp:operator"], "trigger-*-request": ["mcp:operator"]}
PING = {"jsonrpc": "2.0", "id": 2, "method": "ping"}


class Recorder(socketserver.ThreadingTCPServer):
    """Hands connections on to a port, and keeps every byte that is sent there."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.port = port
        self.sent = bytearray()


class _Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Recorder)
        with socket.create_connection(("127.0.0.1", self.server.port)) as inner:
            back = threading.Thread(target=self._pass, args=(inner, self.request, bytearray()), daemon=True)
            back.start()
            self._pass(self.request, inner, self.server.sent)
            back.join(timeout=5)

    @staticmethod
    def _pass(source: socket.socket, target: socket.socket, kept: bytearray) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                kept += data
                target.sendall(data)
        for each in (source, target):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


@contextmanager
def running_everything(packages: Path, output: Path) -> Iterator[int]:
    """Run the server in its Streamable HTTP mode while the block runs; its port."""
    [port] = free_ports(1)
    program = node.node()
    assert program is not None
    script = packages / "node_modules/@modelcontextprotocol/server-everything/dist/index.js"
    with output.open("w") as said:
        process = subprocess.Popen(
            [program, script, "streamableHttp"],
            env={**node.environment(), "PORT": str(port)},
            stdout=said,
            stderr=subprocess.STDOUT,
        )
    try:
        deadline = time.monotonic() + 60
        while "listening on port" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def recorder(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recorder]:
    output = tmp_path_factory.mktemp("everything") / "output"
    with running_everything(packages, output) as port, Recorder(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join(timeout=5)


@pytest.fixture(scope="module")
def pair(store_url: str, recorder: Recorder) -> Iterator[Pair]:
    url = f"http://127.0.0.1:{recorder.server_address[1]}/mcp"
    with running_pair(store_url, upstream={"url": url}, scopes=SCOPES, policy=POLICY) as running:
        yield running


@dataclass(frozen=True)
class Tokens:
    """Access tokens of two people for all scopes, and one for the least that is of use."""

    alice: str
    mallory: str
    basic: str


@pytest.fixture(scope="module")
def tokens(pair: Pair) -> Tokens:
    return Tokens(pair.access_token(), pair.access_token(), pair.access_token("mcp:basic"))


@asynccontextmanager
async def connected(pair: Pair, token: str, wire: ConnectMode, **callbacks: Any) -> AsyncIterator[Client]:
    async with (
        httpx2.AsyncClient(headers={"Authorization": f"Bearer {token}"}, timeout=20) as http,
        Client(streamable_http_client(pair.resource, http_client=http), mode=wire, **callbacks) as client,
    ):
        yield client


def text(result: types.CallToolResult) -> str:
    [content] = result.content
    assert isinstance(content, types.TextContent)
    return content.text


@pytest.mark.parametrize("wire", WIRES)
async def test_its_tools_are_listed_and_called(pair: Pair, tokens: Tokens, wire: ConnectMode) -> None:
    recorded = len(pair.calls())
    async with connected(pair, tokens.alice, wire) as client:
        tools = {tool.name for tool in (await client.list_tools()).tools}
        assert {"echo", "get-sum", "trigger-long-running-operation"} <= tools
        assert text(await client.call_tool("echo", {"message": "hello"})) == "Echo: hello"
        assert "5" in text(await client.call_tool("get-sum", {"a": 2, "b": 3}))
        assert (await client.call_tool("get-sum", {"a": "no number"})).is_error
        image = await client.call_tool("get-tiny-image", {})
        assert any(isinstance(part, types.ImageContent) for part in image.content)
    outcomes = [("echo", "success"), ("get-sum", "success"), ("get-sum", "failure"), ("get-tiny-image", "success")]
    assert pair.calls()[recorded:] == outcomes


@pytest.mark.parametrize("wire", WIRES)
async def test_progress_of_a_long_call_arrives_while_it_runs(pair: Pair, tokens: Tokens, wire: ConnectMode) -> None:
    arrived: list[tuple[float, float]] = []
    began = time.monotonic()

    async def note(progress: float, total: float | None, message: str | None) -> None:
        arrived.append((progress, time.monotonic() - began))

    async with connected(pair, tokens.alice, wire) as client:
        began = time.monotonic()
        result = await client.call_tool("trigger-long-running-operation", {"duration": 1.5, "steps": 3}, None, note)
        ended = time.monotonic() - began
    assert "completed" in text(result)
    assert [progress for progress, _ in arrived] == [1, 2, 3]
    assert arrived[0][1] < ended - 0.5


async def test_it_may_ask_the_model_and_the_user_of_its_caller(pair: Pair, tokens: Tokens) -> None:
    async def sample(_: Any, parameters: types.CreateMessageRequestParams) -> types.CreateMessageResult:
        return types.CreateMessageResult(
            role="assistant", content=types.TextContent(type="text", text="a model's words"), model="none"
        )

    async def elicit(_: Any, parameters: types.ElicitRequestParams) -> types.ElicitResult:
        return types.ElicitResult(action="decline")

    async with connected(pair, tokens.alice, "legacy", sampling_callback=sample, elicitation_callback=elicit) as client:
        for _ in range(50):  # it adds these tools once it knows what the client can do
            if "trigger-sampling-request" in {tool.name for tool in (await client.list_tools()).tools}:
                break
        sampled = await client.call_tool("trigger-sampling-request", {"prompt": "Say something"})
        assert "a model's words" in json.dumps([part.model_dump(mode="json") for part in sampled.content])
        elicited = await client.call_tool("trigger-elicitation-request", {})
        assert "declined" in json.dumps([part.model_dump(mode="json") for part in elicited.content])


async def test_its_tools_need_what_the_patterns_of_the_policy_say(pair: Pair, tokens: Tokens) -> None:
    async with connected(pair, tokens.basic, "legacy") as client:
        assert text(await client.call_tool("echo", {"message": "hello"})) == "Echo: hello"
        for tool in ("get-env", "trigger-sampling-request", "trigger-elicitation-request"):
            with pytest.raises((MCPError, httpx2.HTTPStatusError)):
                await client.call_tool(tool, {})
    assert pair.calls()[-1] == ("echo", "success")
    headers = {"Authorization": f"Bearer {tokens.basic}"}
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "get-env", "arguments": {}}}
    async with httpx2.AsyncClient(timeout=20) as http:
        answer = await http.post(pair.resource, headers=headers, json=call)
    assert answer.status_code == 403
    assert 'scope="mcp:basic mcp:operator"' in answer.headers["www-authenticate"]


async def test_a_session_of_another_user_is_not_found(pair: Pair, tokens: Tokens) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        headers = await open_session(http, pair.resource, tokens.alice)
        stolen = {**headers, "Authorization": f"Bearer {tokens.mallory}"}
        assert (await http.post(pair.resource, headers=stolen, json=PING)).status_code == 404
        assert (await http.get(pair.resource, headers=stolen)).status_code == 404
        assert (await http.delete(pair.resource, headers=stolen)).status_code == 404
        assert (await http.post(pair.resource, headers=headers, json=PING)).status_code == 200
        assert (await http.delete(pair.resource, headers=headers)).status_code == 200


async def test_a_stream_is_resumed_by_its_owner_after_the_last_event_and_by_nobody_else(
    pair: Pair, tokens: Tokens
) -> None:
    call = {
        "jsonrpc": "2.0",
        "id": 7,
        "method": "tools/call",
        "params": {
            "name": "trigger-long-running-operation",
            "arguments": {"duration": 1.5, "steps": 3},
            "_meta": {"progressToken": "p"},
        },
    }
    with anyio.fail_after(30):
        seen = await _resumed(pair, tokens, call)
    assert [each["params"]["progress"] for each in seen if "method" in each] == [2, 3]


async def _resumed(pair: Pair, tokens: Tokens, call: dict[str, Any]) -> list[dict[str, Any]]:
    """Begin a call, go away after its first message, come back; what was missed until then."""
    async with httpx2.AsyncClient(timeout=20) as http:
        headers = await open_session(http, pair.resource, tokens.alice)
        initialized = {"jsonrpc": "2.0", "method": "notifications/initialized"}
        assert (await http.post(pair.resource, headers=headers, json=initialized)).status_code == 202
        last = ""
        async with http.stream("POST", pair.resource, headers=headers, json=call) as response:
            async for line in response.aiter_lines():
                last = line.removeprefix("id: ") if line.startswith("id: ") else last
                if '"progress":1' in line:
                    break
        assert last
        # Its store of events repeats what it has by now, and does not go on with what comes later.
        await anyio.sleep(2.5)
        resumed = {**headers, "Last-Event-ID": last}
        stolen = {**resumed, "Authorization": f"Bearer {tokens.mallory}"}
        assert (await http.get(pair.resource, headers=stolen)).status_code == 404
        seen = []
        async with http.stream("GET", pair.resource, headers=resumed) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    seen.append(json.loads(line.removeprefix("data: ")))
                    if seen[-1].get("id") == call["id"]:
                        break
    return seen


async def test_a_revision_that_it_lacks_is_refused_in_its_own_words(pair: Pair, tokens: Tokens) -> None:
    async with httpx2.AsyncClient(timeout=20) as http:
        headers = modern_headers("echo", tokens.alice)
        answer = await http.post(pair.resource, headers=headers, json=tool_call("echo", {"message": "hello"}))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == -32000


async def test_no_token_of_a_client_ever_reaches_it(pair: Pair, tokens: Tokens, recorder: Recorder) -> None:
    async with connected(pair, tokens.alice, "legacy") as client:
        await client.call_tool("echo", {"message": "seen by the recorder"})
        environment = text(await client.call_tool("get-env", {}))
    sent = bytes(recorder.sent)
    assert b"seen by the recorder" in sent
    assert b"authorization" not in sent.lower()
    for prefix in ("kst_at_", "kst_rt_"):
        assert prefix.encode() not in sent
        assert prefix not in environment
    assert os.environ.get("KEYSTILE_MASTER_KEY", "none is set") not in environment
