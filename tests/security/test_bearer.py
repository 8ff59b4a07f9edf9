"""Hostile requests at the MCP endpoint."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from keystile_common import opaque
from tests.integration.mcp.resource_server import (
    ResourceServer,
    authorization_server,
    modern_headers,
    opaque_token,
    open_session,
    resource_server,
    tool_call,
)


@pytest.fixture
async def server() -> AsyncIterator[ResourceServer]:
    async with authorization_server() as scripted, resource_server(scripted) as running:
        yield running


def challenge_of(response: Any) -> str:
    return str(response.headers["www-authenticate"])


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://other.example/mcp"},
        {"aud": None},
        {"aud": []},
        {"iss": "https://other.example"},
        {"nbf": time.time() + 3600},
        {"exp": time.time() - 1},
    ],
)
async def test_a_token_for_elsewhere_or_another_time_is_refused(server: ResourceServer, claims: dict[str, Any]) -> None:
    token = server.authorization_server.issue(**claims)
    for _ in range(2):
        response = await server.call(token)
        assert response.status_code == 401
        assert 'error="invalid_token"' in challenge_of(response)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD", "PATCH"])
async def test_no_method_gets_by_without_a_token(server: ResourceServer, method: str) -> None:
    for path in ("/mcp", "/mcp/"):
        response = await server.http.request(method, server.origin + path)
        assert response.status_code == 401


async def test_a_session_is_no_token(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    session = (await open_session(server.http, server.url, token))["Mcp-Session-Id"]
    for method in ("GET", "POST", "DELETE"):
        answer = await server.http.request(method, server.url, headers={"Mcp-Session-Id": session})
        assert answer.status_code == 401


@pytest.mark.parametrize("with_header", [True, False])
@pytest.mark.parametrize("name", ["access_token", "access%5Ftoken", "x=1&access_token"])
async def test_a_token_in_the_query_is_refused_even_beside_a_good_header(
    server: ResourceServer, name: str, with_header: bool
) -> None:
    token = server.authorization_server.issue()
    headers = modern_headers("echo", token if with_header else None)
    response = await server.http.post(f"{server.url}?{name}={token}", headers=headers, json=tool_call("echo", {}))
    assert response.status_code == 400
    assert 'error="invalid_request"' in challenge_of(response)
    assert not server.authorization_server.requests


async def test_a_token_in_the_body_is_no_token(server: ResourceServer) -> None:
    response = await server.http.post(server.url, data={"access_token": server.authorization_server.issue()})
    assert response.status_code == 401


async def test_two_authorization_headers_are_refused(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    headers = [("Authorization", f"Bearer {token}"), ("Authorization", f"Bearer {token}")]
    response = await server.http.post(server.url, headers=headers, json={})
    assert response.status_code == 400
    assert 'error="invalid_request"' in challenge_of(response)


@pytest.mark.parametrize(
    ("value", "status"),
    [
        ("", 401),
        ("Basic dXNlcjpzZWNyZXQ=", 401),
        ("DPoP abc", 401),
        ("Bearer", 400),
        ("Bearer  two-spaces", 400),
        ("Bearer a b", 400),
        ("Bearer a,b", 400),
        ('Bearer "abc"', 400),
        ("Bearer a=b", 400),
        ("Bearer\tabc", 401),
        ("Bearer \u00e9", 400),
        ("Bearer abc, Bearer def", 400),
        ("Bearer undefined", 401),
        ("Bearer " + "a" * 8193, 401),
        ("Bearer " + "a" * 8192, 401),
    ],
)
async def test_what_is_no_bearer_token_is_refused(server: ResourceServer, value: str, status: int) -> None:
    headers = {b"Authorization": value.encode("latin-1")}
    response = await server.http.post(server.url, headers=headers, json={})
    assert response.status_code == status
    assert challenge_of(response).startswith("Bearer ")


async def test_headers_without_measure_are_refused(server: ResourceServer) -> None:
    response = await server.http.post(server.url, headers={"Authorization": "Bearer " + "a" * 20_000}, json={})
    assert response.status_code == 431


async def test_every_prefix_of_a_token_is_refused_without_asking(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    prefixes = [token[:length] for length in range(len("kst_"), len(token))]
    responses = await asyncio.gather(*(server.call(prefix) for prefix in prefixes))
    assert {response.status_code for response in responses} == {401}
    assert not server.authorization_server.requests


async def test_a_refresh_token_is_refused_without_asking(server: ResourceServer) -> None:
    text = opaque_token().replace("kst_at_", "kst_rt_")[:-6]
    response = await server.call(text + opaque.checksum(text))
    assert response.status_code == 401
    assert not server.authorization_server.requests


async def test_a_token_of_another_make_is_asked_about(server: ResourceServer) -> None:
    token = server.authorization_server.issue(token="eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.")
    assert (await server.call(token)).status_code == 200


async def test_a_revoked_token_is_refused_when_its_answer_runs_out() -> None:
    async with (
        authorization_server() as scripted,
        resource_server(scripted, introspection={"cache_seconds": 0.3}) as server,
    ):
        token = scripted.issue()
        assert (await server.call(token)).status_code == 200
        scripted.revoke(token)
        await asyncio.sleep(0.4)
        assert (await server.call(token)).status_code == 401


async def test_a_hundred_unknown_tokens_at_once_disturb_no_known_one(server: ResourceServer) -> None:
    good = server.authorization_server.issue()
    assert (await server.call(good)).status_code == 200
    junk = [server.call(opaque_token()) for _ in range(100)]
    *refused, accepted = await asyncio.gather(*junk, server.call(good))
    assert {response.status_code for response in refused} == {401}
    assert accepted.status_code == 200


FORWARDED = {
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/evil",
    "X-Forwarded-For": "203.0.113.9",
    "X-Forwarded-User": "root",
    "X_Forwarded_User": "root",
    "X-Forwarded-Uri": "/.well-known/oauth-protected-resource",
    "X-Original-Url": "/healthz",
    "Forwarded": "host=evil.example;proto=https;for=203.0.113.9",
}


@pytest.mark.parametrize("host", [None, "evil.example"])
async def test_forged_headers_change_neither_metadata_nor_challenge(server: ResourceServer, host: str | None) -> None:
    forged = FORWARDED if host is None else {**FORWARDED, "Host": host}
    for path in ("/", "/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"):
        plain = await server.http.get(server.origin + path)
        assert (await server.http.get(server.origin + path, headers=forged)).json() == plain.json()
    challenge = challenge_of(await server.http.post(server.url, json={}))
    response = await server.http.post(server.url, headers=forged, json={})
    assert response.status_code == 401
    assert challenge_of(response) == challenge


async def test_the_audit_log_believes_no_forwarded_address(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    headers = {**modern_headers("echo", token), **FORWARDED}
    await server.http.post(server.url, headers=headers, json=tool_call("echo", {}))
    assert [event["actor"]["ip"] for event in server.audit] == ["127.0.0.1"]
    assert server.audit[0]["actor"]["sub"] == "alice"


@pytest.mark.parametrize("protocol", ["2026-07-28", None])
@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Host", "evil.example", 421),
        ("Host", "evil.example:{port}", 421),
        ("Host", "127.0.0.1.evil.example:{port}", 421),
        ("Origin", "http://evil.example", 403),
        ("Origin", "http://evil.example:{port}", 403),
        ("Origin", "http://127.0.0.1.evil.example:{port}", 403),
        ("Origin", "null", 403),
    ],
)
async def test_a_page_whose_name_was_rebound_gets_nothing(
    server: ResourceServer, header: str, value: str, status: int, protocol: str | None
) -> None:
    headers = modern_headers("echo", server.authorization_server.issue())
    headers[header] = value.format(port=urlsplit(server.url).port)
    if protocol is None:
        del headers["Mcp-Protocol-Version"]
    response = await server.http.post(server.url, headers=headers, json=tool_call("echo", {}))
    assert response.status_code == status


@pytest.mark.parametrize("name", ["localhost", "127.0.0.1"])
async def test_a_local_server_answers_to_its_local_names(server: ResourceServer, name: str) -> None:
    headers = modern_headers("echo", server.authorization_server.issue())
    headers["Host"] = f"{name}:{urlsplit(server.url).port}"
    response = await server.http.post(server.url, headers=headers, json=tool_call("echo", {}))
    assert response.status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":',
        b'{"jsonrpc":"2.0","id":1,"method":"tools/call"}',
        '{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"long_running"}}'.encode("utf-16"),
        b'{"id":' + b"9" * 10_000 + b"}",
    ],
)
async def test_a_body_that_is_no_message_is_400_and_the_server_goes_on(server: ResourceServer, body: bytes) -> None:
    token = server.authorization_server.issue("mcp:basic")
    headers = {**modern_headers("echo", token), "Content-Type": "application/json"}
    response = await server.http.post(server.url, headers=headers, content=body)
    assert response.status_code == 400
    assert (await server.call(token)).status_code == 200


async def test_requests_that_are_no_http_or_stop_short_leave_the_server_serving(server: ResourceServer) -> None:
    address = ("127.0.0.1", urlsplit(server.url).port)
    token = server.authorization_server.issue()
    for text in (
        "GET /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer a\r\n b\r\n\r\n",
        f"POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 99\r\n\r\nhalf",
        f"POST /mcp HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: -1\r\n\r\n",
        "\0" * 100,
    ):
        connection = socket.create_connection(address)
        connection.sendall(text.encode())
        await asyncio.sleep(0.02)
        connection.close()
    assert (await server.call(token)).status_code == 200
