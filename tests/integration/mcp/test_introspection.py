"""What the resource server does when the authorization server answers, misbehaves or is away."""

import asyncio
import base64
import time
from urllib.parse import unquote_plus

import pytest
from aiohttp import web
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider

from keystile_common.traces import Tracing
from tests.integration.mcp.resource_server import (
    CLIENT_SECRET,
    Behaviour,
    ResourceServer,
    ScriptedAuthorizationServer,
    authorization_server,
    modern_headers,
    resource_server,
    tool_call,
)


def answers(status: int = 200, text: str = "", **headers: str) -> Behaviour:
    async def behave(_: web.Request, __: str) -> web.StreamResponse:
        return web.Response(status=status, text=text, headers=headers, content_type="application/json")

    return behave


async def hang(_: web.Request, __: str) -> web.StreamResponse:
    await asyncio.sleep(30)
    raise AssertionError


async def trickle(request: web.Request, _: str) -> web.StreamResponse:
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b" ")
        await asyncio.sleep(0.1)


async def hang_up(request: web.Request, _: str) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


TROUBLES = {
    "store away": answers(503, '{"error":"temporarily_unavailable"}', **{"Retry-After": "2"}),
    "server error": answers(500, "<html>"),
    "our credentials refused": answers(401, '{"error":"invalid_client"}'),
    "forbidden": answers(403, '{"active":false}'),
    "redirect": answers(302, '{"active":false}', Location="/elsewhere"),
    "not JSON": answers(200, "active"),
    "a list": answers(200, "[]"),
    "nothing": answers(200, "{}"),
    "active in words": answers(200, '{"active":"true","exp":99999999999}'),
    "active as a number": answers(200, '{"active":1}'),
    "nested past all sense": answers(200, "[" * 60_000),
    "giant": answers(200, '{"active":false,"x":"' + "x" * 70_000 + '"}'),
    "no exp": answers(200, '{"active":true,"client_id":"c"}'),
    "silence": hang,
    "trickle": trickle,
    "hang up": hang_up,
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_trouble_at_the_authorization_server_is_503_and_never_401(server: ResourceServer, trouble: str) -> None:
    server.authorization_server.behaviour = TROUBLES[trouble]
    started = time.monotonic()
    response = await server.call(server.authorization_server.issue())
    assert response.status_code == 503
    assert time.monotonic() - started < 2
    assert response.headers["retry-after"] == "2"
    assert "www-authenticate" not in response.headers
    assert server.metric("keystile_token_validations_total", method="introspection", result="unavailable") == 1


async def test_an_authorization_server_that_is_gone_is_503_and_back_is_200() -> None:
    async with authorization_server() as scripted:
        running = resource_server(scripted)
        server = await running.__aenter__()
        token = scripted.issue()
    try:
        assert (await server.call(token)).status_code == 503
    finally:
        await running.__aexit__(None, None, None)


async def test_a_question_that_was_cut_off_is_asked_once_more(server: ResourceServer) -> None:
    scripted = server.authorization_server
    cut_off = 0

    async def hang_up_at_first(request: web.Request, token: str) -> web.StreamResponse:
        nonlocal cut_off
        cut_off += 1
        return await hang_up(request, token) if cut_off == 1 else scripted.answer(token)

    scripted.behaviour = hang_up_at_first
    assert (await server.call(scripted.issue())).status_code == 200
    scripted.behaviour, before = hang_up, len(scripted.requests)
    assert (await server.call(scripted.issue())).status_code == 503
    assert len(scripted.requests) - before == 2


async def test_trouble_is_not_remembered(server: ResourceServer) -> None:
    scripted = server.authorization_server
    token = scripted.issue()
    scripted.behaviour = TROUBLES["store away"]
    assert (await server.call(token)).status_code == 503
    scripted.behaviour = None
    assert (await server.call(token)).status_code == 200


async def test_a_token_that_was_seen_before_outlives_an_outage(server: ResourceServer) -> None:
    scripted = server.authorization_server
    token = scripted.issue()
    assert (await server.call(token)).status_code == 200
    scripted.behaviour = hang
    assert (await server.call(token)).status_code == 200


async def test_the_question_is_asked_as_rfc_7662_and_6749_say(server: ResourceServer) -> None:
    scripted = server.authorization_server
    token = scripted.issue()
    await server.call(token)
    [request] = scripted.requests
    assert dict(await request.post()) == {"token": token, "token_type_hint": "access_token"}
    scheme, _, value = request.headers["Authorization"].partition(" ")
    name, _, secret = base64.b64decode(value).decode().partition(":")
    assert (scheme, unquote_plus(name), unquote_plus(secret)) == ("Basic", "resource server", CLIENT_SECRET)
    assert request.headers["Accept"] == "application/json"


async def test_two_hundred_calls_with_one_unknown_token_ask_once(server: ResourceServer) -> None:
    scripted = server.authorization_server
    token = scripted.issue()

    async def slow(_: web.Request, token: str) -> web.StreamResponse:
        await asyncio.sleep(0.2)
        return scripted.answer(token)

    scripted.behaviour = slow
    responses = await asyncio.gather(*(server.call(token) for _ in range(200)))
    assert {response.status_code for response in responses} == {200}
    assert len(scripted.requests) == 1


async def test_a_leader_that_goes_away_does_not_fail_those_who_wait(server: ResourceServer) -> None:
    scripted = server.authorization_server
    token = scripted.issue()
    asked, go_on = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request, token: str) -> web.StreamResponse:
        asked.set()
        await go_on.wait()
        return scripted.answer(token)

    scripted.behaviour = slow
    leader = asyncio.create_task(server.call(token))
    await asked.wait()
    others = [asyncio.create_task(server.call(token)) for _ in range(5)]
    await asyncio.sleep(0.05)
    leader.cancel()
    await asyncio.sleep(0.05)
    go_on.set()
    assert {response.status_code for response in await asyncio.gather(*others)} == {200}
    assert len(scripted.requests) == 1


async def test_one_trace_goes_from_the_client_through_to_the_authorization_server(
    scripted: ScriptedAuthorizationServer,
) -> None:
    provider = TracerProvider()
    tracing = Tracing(provider.get_tracer("test"), provider.shutdown)
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with resource_server(scripted, tracing) as server:
        token = scripted.issue()
        headers = {**modern_headers("echo", token), "traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        response = await server.http.post(server.url, headers=headers, json=tool_call("echo", {}))
        assert response.status_code == 200
        [event] = server.audit
    tracing.close()
    [request] = scripted.requests
    assert request.headers["traceparent"].split("-")[1] == trace_id
    assert event["trace_id"] == trace_id
    assert not trace.get_current_span().get_span_context().is_valid
