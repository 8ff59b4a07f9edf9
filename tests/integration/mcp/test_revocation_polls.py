"""What an MCP server makes of an authorization server whose answers to polls are wrong."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey

from keystile_common.security_events import SESSION_REVOKED, TOKEN_REVOKED, VERIFICATION
from keystile_mcp import revocations
from tests.integration.mcp.resource_server import ResourceServer, ScriptedAuthorizationServer, resource_server

KEY = ECKey.generate_key("P-256", auto_kid=True)


class Feed:
    """Answers polls with `answer`, once, and then makes them wait."""

    def __init__(self) -> None:
        self.issuer = ""
        self.audience = ""
        self.acknowledged: list[Any] = []
        self.preferred: list[str] = []
        self.answers: asyncio.Queue[web.Response] = asyncio.Queue()

    def event(self, jti: str, events: dict[str, Any], subject: dict[str, Any], **claims: Any) -> str:
        now = time.time()
        values = {"iss": self.issuer, "aud": self.audience, "iat": int(now), "toe": now, "jti": jti}
        payload = json.dumps(values | {"sub_id": subject, "events": events} | claims)
        return jws.serialize_compact({"alg": "ES256", "typ": "secevent+jwt", "kid": KEY.kid}, payload, KEY, ["ES256"])

    def beginning(self) -> str:
        return self.event("1-0.beginning.x", {VERIFICATION: {}}, {"format": "opaque", "id": "mcp"})

    def say(self, *sets: str, **more: Any) -> None:
        self.answers.put_nowait(web.json_response({"sets": {str(n): each for n, each in enumerate(sets)}, **more}))

    async def poll(self, request: web.Request) -> web.StreamResponse:
        self.acknowledged.append((await request.json())["ack"])
        self.preferred.append(request.headers["Prefer"])
        try:
            async with asyncio.timeout(1):
                return await self.answers.get()
        except TimeoutError:
            return web.json_response({"sets": {}})

    async def keys(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"keys": [KEY.as_dict(private=False)]})


@asynccontextmanager
async def feeding() -> AsyncIterator[tuple[Feed, str]]:
    feed, application = Feed(), web.Application()
    application.router.add_post("/events/poll", feed.poll)
    application.router.add_get("/jwks", feed.keys)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    assert runner.addresses
    try:
        yield feed, f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def feed_and_server(scripted: ScriptedAuthorizationServer) -> AsyncIterator[tuple[Feed, ResourceServer]]:
    async with feeding() as (feed, origin):
        feed.issuer = scripted.issuer
        settings: dict[str, Any] = {"revocations": {"url": f"{origin}/events/poll"}, "jwks": {"url": f"{origin}/jwks"}}
        async with resource_server(scripted, **settings) as server:
            feed.audience = scripted.resource
            feed.say(feed.beginning())
            await until(lambda: hears(server))
            yield feed, server


def hears(server: ResourceServer) -> bool:
    return server.metric("keystile_revocation_feed_up", issuer=server.authorization_server.issuer) == 1


async def until(check: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


def questions(server: ResourceServer) -> int:
    return len(server.authorization_server.requests)


async def test_it_begins_at_the_beginning_and_goes_on_from_what_it_has(
    feed_and_server: tuple[Feed, ResourceServer],
) -> None:
    feed, _ = feed_and_server
    await until(lambda: len(feed.acknowledged) > 1)
    assert feed.acknowledged[0] == ["0-0"]
    assert feed.acknowledged[-1] == ["1-0.beginning.x"]
    assert set(feed.preferred) == {"wait=2"}


async def test_an_answer_that_comes_after_its_token_s_revocation_is_not_kept(
    feed_and_server: tuple[Feed, ResourceServer],
) -> None:
    feed, server = feed_and_server
    asked, may_answer = asyncio.Event(), asyncio.Event()

    async def slow(_: web.Request, token: str) -> web.StreamResponse:
        answer = server.authorization_server.answer(token)
        asked.set()
        await may_answer.wait()
        return answer

    token = server.authorization_server.issue(jti="late")
    server.authorization_server.behaviour = slow
    call = asyncio.create_task(server.call(token))
    await asked.wait()
    feed.say(feed.event("2-0", {TOKEN_REVOKED: {}}, {"format": "jwt_id", "iss": feed.issuer, "jti": "late"}))
    await until(lambda: server.metric("keystile_revocation_events_total", result="applied") == 1)
    server.authorization_server.revoke(token)
    may_answer.set()
    assert (await call).status_code == 200  # it was good when it was asked about
    server.authorization_server.behaviour = None
    assert (await server.call(token)).status_code == 401


async def test_a_revoked_grant_is_known_by_the_id_in_an_opaque_token(
    feed_and_server: tuple[Feed, ResourceServer],
) -> None:
    feed, server = feed_and_server
    token, other = server.authorization_server.issue(), server.authorization_server.issue()
    assert [(await server.call(each)).status_code for each in (token, other)] == [200, 200]
    before = questions(server)
    session = {"format": "opaque", "id": token[7:23]}
    feed.say(feed.event("2-0", {SESSION_REVOKED: {}}, {"format": "complex", "session": session}))
    await until(lambda: server.metric("keystile_revocation_events_total", result="applied") == 1)
    server.authorization_server.revoke(token)
    assert [(await server.call(each)).status_code for each in (token, other)] == [401, 200]
    assert questions(server) == before + 1


def wrong_answers(feed: Feed) -> list[web.Response]:
    """Each of them tells nothing that may be believed."""
    subject = {"format": "jwt_id", "iss": feed.issuer, "jti": "x"}
    told = feed.event("3-0", {TOKEN_REVOKED: {}}, subject)
    events = [
        feed.event("3-0", {TOKEN_REVOKED: {}}, subject, aud="https://other.example"),
        feed.event("3-0", {TOKEN_REVOKED: {}}, subject, iss="https://evil.example"),
        feed.event("3-0", {TOKEN_REVOKED: {}}, {"format": "email", "email": "a@example.com"}),
        told[:-8] + "AAAAAAAA",
        "no event",
    ]
    return [
        web.Response(text="{", content_type="application/json"),
        web.Response(text="[" * 3000, content_type="application/json"),
        web.json_response([]),
        web.json_response({"sets": []}),
        web.json_response({"sets": {"1": 2}}),
        web.json_response({}),
        web.json_response({"sets": {}, "padding": "x" * 1_100_000}),
        web.Response(status=500),
        web.Response(status=302, headers={"Location": "http://127.0.0.1:9/"}),
        *(web.json_response({"sets": {"3-0": each}}) for each in events),
    ]


async def test_wrong_answers_move_nothing_and_right_ones_after_them_do(
    feed_and_server: tuple[Feed, ResourceServer],
) -> None:
    feed, server = feed_and_server
    for answer in wrong_answers(feed):
        before = len(feed.acknowledged)
        feed.answers.put_nowait(answer)
        await until(lambda before=before: len(feed.acknowledged) >= before + 2)
        assert feed.acknowledged[-1] == ["1-0.beginning.x"]
        feed.say()  # what is right ends the pauses
        await until(feed.answers.empty)
    assert server.metric("keystile_revocation_events_total", result="refused") == 5
    assert server.metric("keystile_revocation_events_total", result="applied") == 0
    feed.say(feed.event("4-0", {TOKEN_REVOKED: {}}, {"format": "jwt_id", "iss": feed.issuer, "jti": "x"}))
    await until(lambda: feed.acknowledged[-1] == ["4-0"])


async def test_a_mistake_of_ours_ends_no_poll(
    feed_and_server: tuple[Feed, ResourceServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    feed, server = feed_and_server
    subject = {"format": "jwt_id", "iss": feed.issuer, "jti": "x"}

    def mistaken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(revocations, "read", mistaken)
        before = len(feed.acknowledged)
        feed.say(feed.event("6-0", {TOKEN_REVOKED: {}}, subject))
        await until(lambda: len(feed.acknowledged) >= before + 2)
    assert feed.acknowledged[-1] == ["1-0.beginning.x"]
    feed.say(feed.event("7-0", {TOKEN_REVOKED: {}}, subject))
    await until(lambda: feed.acknowledged[-1] == ["7-0"])
    assert server.metric("keystile_revocation_events_total", result="applied") == 1


async def test_more_that_is_to_come_is_fetched_before_anything_is_believed_for_longer(
    scripted: ScriptedAuthorizationServer,
) -> None:
    async with feeding() as (feed, origin):
        feed.issuer = scripted.issuer
        settings: dict[str, Any] = {"revocations": {"url": f"{origin}/events/poll"}, "jwks": {"url": f"{origin}/jwks"}}
        async with resource_server(scripted, **settings) as server:
            feed.audience = scripted.resource
            feed.say(feed.beginning(), moreAvailable=True)
            await until(lambda: len(feed.acknowledged) == 2)
            assert not hears(server)
            feed.say(feed.event("5-0", {"https://example.com/other": {}}, {"format": "opaque", "id": "x"}))
            await until(lambda: hears(server))
            await until(lambda: feed.acknowledged[-1] == ["5-0"])
            assert server.metric("keystile_revocation_propagation_seconds_count") == 0


async def test_whoever_is_refused_asks_seldom(scripted: ScriptedAuthorizationServer) -> None:
    async with feeding() as (feed, origin):
        settings: dict[str, Any] = {"revocations": {"url": f"{origin}/events/poll"}, "jwks": {"url": f"{origin}/jwks"}}
        async with resource_server(scripted, **settings) as server:
            feed.answers.put_nowait(web.Response(status=401))
            await asyncio.sleep(3)
            assert len(feed.acknowledged) == 1
            assert not hears(server)
            assert server.metric("keystile_revocation_feed_up", issuer=scripted.issuer) == 0
