"""What is not as the protocol wants it, over real HTTP on each wire: a clear error, and the server goes on."""

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import pytest

from keystile_common.http_protocol import MAX_HEAD_BYTES
from keystile_common.recurring_protocol import HttpProtocol
from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    modern_headers,
    open_session,
    resource_server,
    tool_call,
)

WIRES = ["2026-07-28", "2025-11-25"]


class Client:
    """A client of one wire, that sends whatever it is told."""

    def __init__(self, server: ResourceServer, headers: dict[str, str]) -> None:
        self.server = server
        self.headers = {"Content-Type": "application/json", **headers}

    async def post(self, body: bytes, **headers: str | None) -> httpx2.Response:
        """Send `body`; a header that is None is left out, underscores are hyphens."""
        changes = {name.replace("_", "-"): value for name, value in headers.items()}
        changed = {name.lower(): name for name in changes}
        kept = {name: value for name, value in self.headers.items() if name.lower() not in changed}
        given = {name: value for name, value in changes.items() if value is not None}
        return await self.server.http.post(self.server.url, headers={**kept, **given}, content=body)

    async def is_served(self) -> bool:
        """Whether the server still answers as it should."""
        answer = await self.post(json.dumps(tool_call("echo", {"text": "still there"})).encode())
        return answer.status_code == 200 and "still there" in answer.text


async def connect(server: ResourceServer, wire: str) -> Client:
    token = server.authorization_server.issue()
    if wire == "2026-07-28":
        return Client(server, modern_headers("echo", token))
    return Client(server, await open_session(server.http, server.url, token))


@pytest.fixture(params=WIRES)
async def client(request: pytest.FixtureRequest, server: ResourceServer) -> AsyncIterator[Client]:
    """A client of each wire, which must be served after whatever the test did."""
    found = await connect(server, request.param)
    yield found
    assert await found.is_served()


def call(**changes: Any) -> bytes:
    return json.dumps({**tool_call("echo", {"text": "x"}), **changes}).encode()


def message(method: str, **parameters: Any) -> bytes:
    meta = tool_call("echo", {})["params"]["_meta"]
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": {"_meta": meta, **parameters}}).encode()


@pytest.mark.parametrize(
    "body",
    [call()[:-1], call()[:40], b"", b"{", b"[", b'"', b"nul", b"\xff\xfe", b'{"a":"\xff"}', b"\x00", b"[" * 100_000],
)
async def test_what_is_not_json_is_a_parse_error(client: Client, body: bytes) -> None:
    answer = await client.post(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32700)


@pytest.mark.parametrize("body", [b"[" + call() + b"]", b"[" + call() + b"," + call() + b"]", b"[]", b"1", b"null"])
async def test_what_is_not_one_message_is_an_invalid_request(client: Client, body: bytes) -> None:
    answer = await client.post(body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32600)


@pytest.mark.parametrize(
    "changes",
    [{"jsonrpc": "1.0"}, {"jsonrpc": None}, {"id": {}}, {"id": [1]}, {"method": 5}, {"params": "x"}, {"method": None}],
)
async def test_a_message_with_a_part_of_another_kind_is_refused(client: Client, changes: dict[str, Any]) -> None:
    answer = await client.post(call(**changes))
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] in {-32600, -32602}


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""])
async def test_another_content_type_is_refused(client: Client, kind: str) -> None:
    answer = await client.post(call(), Content_Type=kind)
    assert answer.status_code in {400, 415}
    assert answer.text


@pytest.mark.parametrize("accept", ["text/html", "image/png"])
async def test_a_client_that_takes_no_json_is_refused(client: Client, accept: str) -> None:
    assert (await client.post(call(), Accept=accept)).status_code == 406


async def test_ten_megabytes_are_too_large(client: Client) -> None:
    answer = await client.post(call(padding="x" * 10_000_000))
    assert answer.status_code == 413
    assert "4194304 bytes" in answer.json()["error_description"]


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("echo", {}),
        ("echo", {"text": 5}),
        ("add", {"a": "x", "b": []}),
        ("long_running", {"seconds": 1e9}),
        ("long_running", {"steps": 0}),
        ("nobody", {}),
    ],
)
async def test_arguments_that_a_tool_does_not_take_are_a_tool_error(
    client: Client, tool: str, arguments: dict[str, Any]
) -> None:
    answer = await client.post(message("tools/call", name=tool, arguments=arguments), Mcp_Name=tool)
    assert '"isError":true' in answer.text or '"code":-32602' in answer.text
    assert "Traceback" not in answer.text


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "HEAD", "OPTIONS"])
async def test_other_http_methods_are_answered_without_a_stack(client: Client, method: str) -> None:
    if method == "GET" and "Mcp-Session-Id" in client.headers:
        return
    answer = await client.server.http.request(method, client.server.url, headers=client.headers)
    assert answer.status_code == 405


# Of one wire alone


@pytest.fixture
async def modern(server: ResourceServer) -> AsyncIterator[Client]:
    found = await connect(server, "2026-07-28")
    yield found
    assert await found.is_served()


@pytest.fixture
async def older(server: ResourceServer) -> AsyncIterator[Client]:
    found = await connect(server, "2025-11-25")
    yield found
    assert await found.is_served()


@pytest.mark.parametrize(
    "headers",
    [
        {"Mcp_Method": "tools/list"},
        {"Mcp_Method": "TOOLS/CALL"},
        {"Mcp_Method": None},
        {"Mcp_Method": ""},
        {"Mcp_Name": "add"},
        {"Mcp_Name": "Echo"},
        {"Mcp_Name": None},
        {"Mcp_Name": ""},
        {"Mcp_Name": "echo, add"},
        {"Mcp_Protocol_Version": "2099-01-01"},
    ],
)
async def test_headers_that_differ_from_the_body_are_a_mismatch(modern: Client, headers: dict[str, str | None]) -> None:
    answer = await modern.post(call(), **headers)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (400, -32020, 1)


async def test_white_space_around_a_header_is_no_part_of_it(modern: Client) -> None:
    token = modern.server.authorization_server.issue()
    request = head(modern.server, token, len(call())).replace(b"Mcp-Name: echo", b"Mcp-Name:   echo \t ")
    answer, _ = await drip(modern.server, request.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n") + call(), b"")
    assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_header_twice_is_a_mismatch(modern: Client) -> None:
    headers = [*modern.headers.items(), ("Mcp-Name", "echo")]
    answer = await modern.server.http.post(modern.server.url, headers=headers, content=call())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32020)


@pytest.mark.parametrize("version", ["2099-01-01", "1999-01-01", "draft"])
async def test_an_unknown_version_is_told_which_are_known(modern: Client, version: str) -> None:
    body = json.loads(call())
    body["params"]["_meta"]["io.modelcontextprotocol/protocolVersion"] = version
    answer = await modern.post(json.dumps(body).encode(), Mcp_Protocol_Version=version)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32022)
    assert "2026-07-28" in answer.json()["error"]["data"]["supported"]


@pytest.mark.parametrize(
    "method", ["nobody/knows", "initialize", "ping", "logging/setLevel", "resources/subscribe", "", "tools/Call"]
)
async def test_a_method_that_the_revision_does_not_have_is_not_found(modern: Client, method: str) -> None:
    answer = await modern.post(message(method), Mcp_Method=method, Mcp_Name=None)
    assert (answer.status_code, answer.json()["error"]["code"], answer.json()["id"]) == (404, -32601, 1)


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        {"io.modelcontextprotocol/protocolVersion": "2026-07-28"},
        {"io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": 5},
    ],
)
async def test_a_request_without_its_envelope_is_invalid(modern: Client, meta: Any) -> None:
    body = json.loads(call())
    body["params"]["_meta"] = meta
    answer = await modern.post(json.dumps(body).encode())
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, -32602)


@pytest.mark.parametrize("session_id", ["0" * 32, "x", "../../etc", "a" * 2000])
async def test_an_unknown_session_is_not_found(older: Client, session_id: str) -> None:
    answer = await older.post(message("ping"), Mcp_Session_Id=session_id)
    assert answer.status_code in {400, 404}
    assert answer.json()["error"]["message"]


async def test_without_a_session_only_initialize_is_served(older: Client) -> None:
    answer = await older.post(message("ping"), Mcp_Session_Id=None)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


async def test_another_version_than_the_sessions_is_refused(older: Client) -> None:
    for version in ("1999-01-01", "2099-01-01"):
        answer = await older.post(message("ping"), Mcp_Protocol_Version=version)
        assert answer.status_code == 400
        assert answer.json()["error"]["message"]


async def test_a_method_that_nobody_knows_is_not_found_in_a_session(older: Client) -> None:
    answer = await older.post(message("nobody/knows"))
    assert '"code":-32601' in answer.text


# Slow clients


class Impatient(HttpProtocol):
    """As served, with half a second instead of half a minute."""

    request_seconds = 0.5


@pytest.fixture
async def impatient(scripted: ScriptedAuthorizationServer) -> AsyncIterator[ResourceServer]:
    async with resource_server(scripted, http=Impatient) as server:
        yield server


async def drip(server: ResourceServer, first: bytes, drops: bytes) -> tuple[bytes, float]:
    """Send `first`, then `drops` byte by byte until the server has enough; its answer, and after how many seconds."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(server.origin.rpartition(":")[2]))
    started = time.monotonic()
    answer = asyncio.create_task(reader.read())
    try:
        writer.write(first)
        for drop in drops:
            if answer.done():
                break
            writer.write(bytes([drop]))
            await asyncio.sleep(0.05)
        return await asyncio.wait_for(answer, 5), time.monotonic() - started
    except ConnectionError:
        return b"", time.monotonic() - started
    finally:
        writer.close()


def head(server: ResourceServer, token: str, length: int) -> bytes:
    lines = [
        "Content-Type: application/json",
        *(f"{name}: {value}" for name, value in modern_headers("echo", token).items()),
    ]
    return "\r\n".join(
        [
            "POST /mcp HTTP/1.1",
            f"Host: {server.origin.removeprefix('http://')}",
            f"Content-Length: {length}",
            *lines,
            "",
            "",
        ]
    ).encode()


async def test_a_head_that_does_not_end_is_given_up(impatient: ResourceServer) -> None:
    answer, seconds = await drip(impatient, b"GET / HTTP/1.1\r\n", b"X-Slow: " + b"x" * 200)
    # Whoever still writes when the connection is closed may not see the answer.
    assert not answer or answer.startswith(b"HTTP/1.1 408 ")
    assert seconds < 2


async def test_a_connection_that_says_nothing_is_closed(impatient: ResourceServer) -> None:
    answer, seconds = await drip(impatient, b"", b"\r\n" * 100)
    assert b"200" not in answer
    assert seconds < 2


async def test_a_body_that_does_not_end_is_given_up(impatient: ResourceServer) -> None:
    token = impatient.authorization_server.issue()
    answer, seconds = await drip(impatient, head(impatient, token, 1000), b" " * 999)
    # Whoever still writes when the connection is closed may not see the answer.
    assert not answer or answer.startswith(b"HTTP/1.1 408 ")
    assert seconds < 2
    assert (await impatient.call(token)).status_code == 200


async def test_a_second_request_that_does_not_end_is_given_up_too(impatient: ResourceServer) -> None:
    first = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"
    answer, seconds = await drip(impatient, first + b"GET / HTTP/1.1\r\n", b"X-Slow: " + b"x" * 200)
    assert not answer or answer.startswith(b"HTTP/1.1 200 ")
    assert seconds < 2


async def test_a_request_that_was_refused_before_its_end_leaves_no_time_for_the_next(
    impatient: ResourceServer,
) -> None:
    body = b"GET / HTTP/1.1\r\n"
    unasked = b"POST /healthz HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{"
    answer, seconds = await drip(impatient, unasked, b"}" + body + b"X-Slow: " + b"x" * 200)
    assert not answer or answer.startswith(b"HTTP/1.1 4")
    assert seconds < 3


async def test_a_head_without_end_is_refused_before_it_fills_memory(server: ResourceServer) -> None:
    answer, seconds = await drip(server, b"GET / HTTP/1.1\r\nX-Long: " + b"x" * (MAX_HEAD_BYTES + 1), b"")
    assert not answer or answer.startswith(b"HTTP/1.1 431 ")
    assert seconds < 2


async def test_a_call_may_take_longer_than_a_request_may(impatient: ResourceServer) -> None:
    token = impatient.authorization_server.issue()
    answer = await impatient.call(token, "long_running", seconds=1.2, steps=1)
    assert "Done" in answer.text
    assert (await impatient.call(token)).status_code == 200


async def test_a_request_behind_a_long_one_on_the_same_connection_is_answered(impatient: ResourceServer) -> None:
    token = impatient.authorization_server.issue()
    long = json.dumps(tool_call("long_running", {"seconds": 0.8, "steps": 1})).encode()
    first = head(impatient, token, len(long)).replace(b"Mcp-Name: echo", b"Mcp-Name: long_running") + long
    short = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer, _ = await drip(impatient, first + short, b"")
    assert len(re.findall(rb"HTTP/1.1 200 ", answer)) == 2


async def test_what_is_not_http_is_refused(server: ResourceServer) -> None:
    for garbage in (b"\x16\x03\x01\x02\x00\x01\x00", b"SSH-2.0-x\r\n", b"\x00" * 100, b"GET\r\n\r\n"):
        answer, _ = await drip(server, garbage, b"\r\n\r\n")
        assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.0 400 ")) or not answer
