"""Another issuer pushes security events (RFC 8935): what it revokes is refused at once, by every replica."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import redis.asyncio
from prometheus_client import generate_latest

from keystile_common.security_events import ACCOUNT_DISABLED, SESSION_REVOKED, TOKEN_REVOKED, VERIFICATION
from keystile_mcp.pushed_event_store import RETAINED
from keystile_mcp.session_store import prefix_of
from tests.integration.mcp.providers import GENERIC, KEYCLOAK, RESOURCE, ProviderIssuer, provider_issuer
from tests.integration.mcp.resource_server import ResourceServer, modern_headers, resource_server, tool_call
from tests.integration.mcp.test_shared_sessions import shared
from tests.integration.mcp.transmitter import BEARER, event, push, pushed, pushing, user
from tests.stores import Site, cluster, sentinel, valkey

CHART_VALKEY = Path(__file__).parents[3] / "charts" / "keystile" / "templates" / "valkey" / "_files.tpl"
STREAM = f"{prefix_of(RESOURCE)}:pushed"


@pytest.fixture
async def issuer() -> AsyncIterator[ProviderIssuer]:
    async with provider_issuer("") as running:
        running.resource = RESOURCE
        yield running


async def until(check: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def refused_within(server: ResourceServer, token: str, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while (status := (await server.call(token)).status_code) != 401:
        assert status in {200, 503}, status
        assert time.monotonic() < deadline, "the token was still accepted"
        await asyncio.sleep(0.02)


async def statuses(server: ResourceServer, *tokens: str) -> list[int]:
    return [(await server.call(each)).status_code for each in tokens]


# What a push does


async def test_a_kept_answer_is_forgotten_and_those_of_others_are_not(issuer: ProviderIssuer) -> None:
    async with resource_server(issuer, **pushing(issuer, introspected=True)) as server:
        alice, bob = issuer.issue(aud=RESOURCE), issuer.issue(aud=RESOURCE, sub="bob")
        assert await statuses(server, alice, bob, alice, bob) == [200, 200, 200, 200]
        issuer.revoke(alice)
        assert await statuses(server, alice) == [200]  # nobody has said so yet
        answer = await push(server, event(issuer, user(issuer)))
        assert (answer.status_code, answer.content) == (202, b"")
        assert await statuses(server, alice, bob) == [401, 200]
        assert len(issuer.requests) == 3
        assert server.metric("keystile_revocation_propagation_seconds_count") == 1
        assert pushed(server, "applied") == 1
        # A process alone hears of nothing but pushes, so it is never deaf.
        assert "keystile_revocation_feed_up{" not in generate_latest(server.registry).decode()


@pytest.mark.parametrize("kind", [SESSION_REVOKED, ACCOUNT_DISABLED])
async def test_a_person_s_signed_tokens_are_refused_but_for_later_ones(issuer: ProviderIssuer, kind: str) -> None:
    async with resource_server(issuer, **pushing(issuer)) as server:
        token, later = issuer.access_token(GENERIC), issuer.access_token(GENERIC, iat=int(time.time()) + 3)
        bob = issuer.access_token(GENERIC, sub="bob")
        assert await statuses(server, token, later, bob) == [200, 200, 200]
        assert (await push(server, event(issuer, user(issuer), kind))).status_code == 202
        assert await statuses(server, token, later, bob) == [401, 200, 200]


async def test_one_token_or_one_session_is_refused_alone(issuer: ProviderIssuer) -> None:
    async with (
        provider_issuer(KEYCLOAK.path) as keycloak,
        resource_server(keycloak, **pushing(keycloak, KEYCLOAK)) as server,
    ):
        one, of_session, other = (
            keycloak.access_token(KEYCLOAK, **changes)
            for changes in ({"jti": "j1", "sid": "s1"}, {"jti": "j2", "sid": "s2"}, {"jti": "j3", "sid": "s3"})
        )
        assert await statuses(server, one, of_session, other) == [200, 200, 200]
        subject = {"format": "jwt_id", "iss": keycloak.issuer, "jti": "j1"}
        assert (await push(server, event(keycloak, subject, TOKEN_REVOKED))).status_code == 202
        assert await statuses(server, one, of_session, other) == [401, 200, 200]
        session = {"format": "complex", "session": {"format": "opaque", "id": "s2"}}
        assert (await push(server, event(keycloak, session))).status_code == 202
        assert await statuses(server, one, of_session, other) == [401, 401, 200]


async def test_an_open_stream_ends(issuer: ProviderIssuer) -> None:
    async with resource_server(issuer, **pushing(issuer)) as server, httpx2.AsyncClient(timeout=20) as http:
        token = issuer.access_token(GENERIC)
        message = tool_call("long_running", {"seconds": 15, "steps": 60})
        message["params"]["_meta"]["progressToken"] = "p"
        headers = {"Host": "tools.example.com", **modern_headers("long_running", token)}
        async with http.stream("POST", server.url, headers=headers, json=message) as response:
            assert response.status_code == 200
            parts = response.aiter_text()
            await anext(parts)
            began = time.monotonic()
            assert (await push(server, event(issuer, user(issuer)))).status_code == 202
            async for _ in parts:
                pass
            assert time.monotonic() - began < 4


async def test_what_is_no_revocation_here_is_accepted_and_counted(issuer: ProviderIssuer) -> None:
    async with resource_server(issuer, **pushing(issuer)) as server:
        token = issuer.access_token(GENERIC)
        assert await statuses(server, token) == [200]
        for result, text in {
            "verification": event(issuer, {"format": "opaque", "id": "stream"}, VERIFICATION),
            "unknown_event": event(issuer, user(issuer), "https://example.com/event-type/other"),
            "unknown_subject": event(issuer, {"format": "email", "email": "alice@example.com"}),
        }.items():
            assert (await push(server, text)).status_code == 202
            assert pushed(server, result) == 1
        assert await statuses(server, token) == [200]


async def test_events_for_another_audience_signed_as_somebody_else_are_taken_where_the_settings_say_so(
    issuer: ProviderIssuer,
) -> None:
    async with provider_issuer("") as events:
        settings = pushing(
            issuer, issuer=events.issuer, jwks_url=f"{events.issuer}/keys", audience="https://receiver.example"
        )
        async with resource_server(issuer, **settings) as server:
            token = issuer.access_token(GENERIC)
            assert await statuses(server, token) == [200]
            assert (await push(server, event(issuer, user(issuer)))).json()["err"] == "invalid_issuer"
            assert (await push(server, event(events, user(events)))).json()["err"] == "invalid_audience"
            assert await statuses(server, token) == [200]
            told = event(events, user(events), aud="https://receiver.example")
            assert (await push(server, told)).status_code == 202
            assert await statuses(server, token) == [401]


async def test_there_is_no_such_endpoint_where_no_issuer_pushes(issuer: ProviderIssuer) -> None:
    async with resource_server(issuer, **issuer.settings(GENERIC)) as server:
        assert (await push(server, event(issuer, user(issuer)))).status_code == 404


async def test_an_issuer_whose_keys_cannot_be_had_is_to_send_its_event_again(issuer: ProviderIssuer) -> None:
    settings = pushing(issuer, jwks_url="http://127.0.0.1:9/keys")
    async with resource_server(issuer, **settings) as server:
        answer = await push(server, event(issuer, user(issuer)))
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert pushed(server, "unavailable") == 1


# Several replicas


@asynccontextmanager
async def replicas(
    issuer: ProviderIssuer, url: str, count: int = 2, **push: Any
) -> AsyncIterator[list[ResourceServer]]:
    introspected, store = push.pop("introspected", False), push.pop("store", {"url": url})
    async with AsyncExitStack() as stack:
        servers = []
        for _ in range(count):
            settings = pushing(issuer, introspected=introspected, bearer=BEARER, **push)
            settings = {**shared(url, **settings), "store": store}
            servers.append(await stack.enter_async_context(resource_server(issuer, **settings)))
        for each in servers:
            await until(lambda each=each: hears(each, issuer))
        yield servers


def hears(server: ResourceServer, issuer: ProviderIssuer) -> bool:
    return server.metric("keystile_revocation_feed_up", issuer=issuer.issuer) == 1


async def test_a_push_to_one_replica_holds_at_all_of_them_and_at_later_ones(
    issuer: ProviderIssuer, store_url: str
) -> None:
    async with replicas(issuer, store_url, 3) as servers:
        token = issuer.access_token(GENERIC)
        assert [await statuses(each, token) for each in servers] == [[200]] * 3
        told = event(issuer, user(issuer))
        assert (await push(servers[0], told)).status_code == 202
        for each in servers:
            await refused_within(each, token, 2)
            assert each.metric("keystile_revocation_propagation_seconds_count") == 1
        for each in servers:
            assert (await push(each, told)).status_code == 202
        assert [pushed(each, "replayed") for each in servers] == [1, 1, 1]
        assert [each.metric("keystile_revocation_events_total", result="applied") for each in servers] == [1, 1, 1]
        async with replicas(issuer, store_url, 1) as (later,):
            assert await statuses(later, token) == [401]
            assert later.metric("keystile_revocation_propagation_seconds_count") == 0


async def test_a_cluster_and_a_store_with_sentinels_carry_it_too(issuer: ProviderIssuer) -> None:
    for shape in (cluster, sentinel):
        with tempfile.TemporaryDirectory(prefix="ks-") as folder, shape(Site(Path(folder))) as stores:
            for node in stores.servers:
                node.ask("ACL", "SETUSER", "keystile", "~km:*")
            async with replicas(issuer, "redis://127.0.0.1", store=stores.settings) as servers:
                token = issuer.access_token(GENERIC)
                assert [await statuses(each, token) for each in servers] == [[200]] * 2
                assert (await push(servers[0], event(issuer, user(issuer)))).status_code == 202
                for each in servers:
                    await refused_within(each, token, 3)


async def test_the_rights_that_the_chart_gives_are_enough(issuer: ProviderIssuer, tmp_path: Path) -> None:
    (rights,) = re.findall(r"user mcp on .*?#\$sessions (.*)$", CHART_VALKEY.read_text(), re.MULTILINE)
    with valkey(tmp_path) as server:
        server.ask("ACL", "SETUSER", "mcp", "on", f">{BEARER}", *rights.split())
        own = {"url": server.url, "username": "mcp", "password": BEARER}
        async with replicas(issuer, server.url, store=own) as servers:
            token = issuer.access_token(GENERIC)
            assert [await statuses(each, token) for each in servers] == [[200]] * 2
            assert (await push(servers[0], event(issuer, user(issuer)))).status_code == 202
            for each in servers:
                await refused_within(each, token, 2)
        server.ask("ACL", "SETUSER", "mcp", "-xread")
        async with resource_server(issuer, **{**shared(server.url, **pushing(issuer)), "store": own}) as without:
            await until(lambda: not hears(without, issuer))


async def test_a_trimmed_or_lost_stream_makes_them_ask_everything_anew(issuer: ProviderIssuer, store_url: str) -> None:
    async with replicas(issuer, store_url, introspected=True) as servers, redis.asyncio.from_url(store_url) as store:
        token = issuer.issue(aud=RESOURCE)
        for lose in (_delete, _trim):
            assert [await statuses(each, token) for each in servers] == [[200]] * 2
            before, asked = [_beginnings(each) for each in servers], len(issuer.requests)
            await lose(store)
            await until(lambda before=before: all(_beginnings(s) > b for s, b in zip(servers, before, strict=True)))
            assert [await statuses(each, token) for each in servers] == [[200]] * 2
            assert len(issuer.requests) == asked + 2
        issuer.revoke(token)
        assert (await push(servers[1], event(issuer, user(issuer)))).status_code == 202
        for each in servers:
            await refused_within(each, token, 2)


def _beginnings(server: ResourceServer) -> float:
    return server.metric("keystile_revocation_events_total", result="beginning")


async def _delete(store: Any) -> None:
    await store.delete(STREAM)


async def _trim(store: Any) -> None:
    pipeline = store.pipeline()
    for _ in range(RETAINED + 200):
        pipeline.xadd(STREAM, {"revoked": "[]"}, maxlen=RETAINED)
    await pipeline.execute()


async def test_an_entry_that_cannot_be_read_makes_them_ask_everything_anew(
    issuer: ProviderIssuer, store_url: str
) -> None:
    async with (
        replicas(issuer, store_url, 1, introspected=True) as (server,),
        redis.asyncio.from_url(store_url) as store,
    ):
        token = issuer.issue(aud=RESOURCE)
        entries: list[dict[Any, Any]] = [
            {"revoked": "{"},
            {"revoked": "[1]"},
            {"other": ""},
            {"revoked": '[["i","new","x",1]]'},
        ]
        for strange in entries:
            assert await statuses(server, token) == [200]
            asked = len(issuer.requests)
            await store.xadd(STREAM, strange)
            await asyncio.sleep(0.5)
            assert await statuses(server, token) == [200]
            assert len(issuer.requests) == asked + 1
        await store.delete(STREAM)


async def test_while_the_store_is_away_nothing_is_kept_long_and_pushes_are_to_come_again(
    issuer: ProviderIssuer, tmp_path: Path
) -> None:
    with valkey(tmp_path) as server:
        async with replicas(issuer, server.url, introspected=True) as servers:
            one, two = servers
            token = issuer.issue(aud=RESOURCE)
            told = event(issuer, user(issuer))
            assert [await statuses(each, token) for each in servers] == [[200]] * 2
            with server.killed():
                issuer.revoke(token)
                assert (await push(one, told)).status_code == 503
                assert await statuses(one, token) == [401]  # here it holds all the same
                await refused_within(two, token, 7)
                await until(lambda: not hears(one, issuer) and not hears(two, issuer))
            await until(lambda: hears(one, issuer) and hears(two, issuer))
            assert (await push(two, told)).status_code == 202
            assert pushed(two, "applied") == 1
            kept = issuer.issue(aud=RESOURCE, sub="bob")
            asked = len(issuer.requests)
            assert await statuses(one, kept, kept) == [200, 200]
            assert len(issuer.requests) == asked + 1
