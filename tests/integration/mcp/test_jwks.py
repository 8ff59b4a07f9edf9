"""Access tokens that are JWTs: checked with the issuer's keys, which are fetched seldom and kept while it is away."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from keystile_common.metrics import McpMetrics
from keystile_mcp import discovery, jwks
from tests.integration.mcp.resource_server import ResourceServer
from tests.integration.mcp.signing_issuer import SigningIssuer, jwks_resource_server, new_key, signing_issuer
from tests.unit.mcp.samples import make_settings

REFRESHES = "keystile_jwks_refreshes_total"
WELL_KNOWN = "/.well-known/oauth-authorization-server"


@pytest.fixture
async def issuer() -> AsyncIterator[SigningIssuer]:
    async with signing_issuer() as issuer:
        yield issuer


@pytest.fixture
async def server(issuer: SigningIssuer) -> AsyncIterator[ResourceServer]:
    async with jwks_resource_server(issuer) as server:
        yield server


def validations(server: ResourceServer, result: str) -> float:
    return server.metric("keystile_token_validations_total", method="jwks", result=result)


def refreshes(server: ResourceServer, outcome: str) -> float:
    return server.metric(REFRESHES, outcome=outcome)


async def test_a_signed_token_is_let_through_and_nobody_is_asked_about_it(
    server: ResourceServer, issuer: SigningIssuer
) -> None:
    token = issuer.sign()
    for _ in range(3):
        assert (await server.call(token)).status_code == 200
    assert issuer.requests == []
    assert issuer.fetches == [WELL_KNOWN, "/jwks"]
    assert validations(server, "valid") == 3
    assert refreshes(server, "success") == 1
    assert server.audit[0]["actor"]["sub"] == "alice"
    assert server.audit[0]["actor"]["client_id"] == "client-1"


async def test_the_policy_is_that_of_introspected_tokens(server: ResourceServer, issuer: SigningIssuer) -> None:
    answer = await server.call(issuer.sign(scope="mcp:basic"), "long_running", seconds=0)
    assert answer.status_code == 403
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert (await server.call(issuer.sign(scope=None))).status_code == 403


async def test_a_list_shows_what_a_signed_token_says_could_be_granted(
    server: ResourceServer, issuer: SigningIssuer
) -> None:
    async with server.client(issuer.sign(scope="mcp:basic", grantable_scope="mcp:basic")) as client:
        assert "long_running" not in {tool.name for tool in (await client.list_tools()).tools}
    async with server.client(issuer.sign(scope="mcp:basic")) as client:
        assert "long_running" in {tool.name for tool in (await client.list_tools()).tools}


async def test_any_of_several_audiences_and_either_spelling_of_a_resource_will_do(
    server: ResourceServer, issuer: SigningIssuer
) -> None:
    assert (await server.call(issuer.sign(aud=["https://other.example", server.url]))).status_code == 200
    assert (await server.call(issuer.sign(aud=server.url + "/"))).status_code == 200


async def test_the_key_set_s_address_can_be_given(issuer: SigningIssuer) -> None:
    async with jwks_resource_server(issuer, jwks={"url": f"{issuer.issuer}/jwks"}) as server:
        assert (await server.call(issuer.sign())).status_code == 200
        assert issuer.fetches == ["/jwks"]


async def test_a_hundred_requests_at_once_fetch_the_keys_once(server: ResourceServer, issuer: SigningIssuer) -> None:
    answers = await asyncio.gather(*(server.call(issuer.sign()) for _ in range(100)))
    assert {answer.status_code for answer in answers} == {200}
    assert issuer.key_fetches == 1


async def test_a_new_key_is_fetched_when_its_first_token_comes(
    server: ResourceServer, issuer: SigningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await server.call(issuer.sign())).status_code == 200
    monkeypatch.setattr(jwks, "UNKNOWN_KEY_SECONDS", 0)
    key = new_key()
    issuer.published.append(key)
    assert (await server.call(issuer.sign(key))).status_code == 200
    assert issuer.key_fetches == 2


async def test_a_flood_of_unknown_key_ids_is_refused_and_asks_the_issuer_once_at_most(
    server: ResourceServer, issuer: SigningIssuer
) -> None:
    good = issuer.sign()
    assert (await server.call(good)).status_code == 200
    forged = [server.call(issuer.sign(new_key())) for _ in range(200)]
    *refused, accepted = await asyncio.gather(*forged, server.call(good))
    assert {answer.status_code for answer in refused} == {401}
    assert accepted.status_code == 200
    assert issuer.key_fetches <= 2
    assert validations(server, "unknown_key") == 200


async def test_keys_that_were_had_go_on_while_the_issuer_is_away(
    server: ResourceServer, issuer: SigningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await server.call(issuer.sign())).status_code == 200
    issuer.status = 503
    for name in ("UNKNOWN_KEY_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(jwks, name, 0)
    unknown = await server.call(issuer.sign(new_key()))
    # Whether the issuer has such a key cannot be known now, so the token is not called bad.
    assert unknown.status_code == 503
    assert unknown.headers["retry-after"]
    assert (await server.call(issuer.sign())).status_code == 200
    assert refreshes(server, "error") == 1
    issuer.status = 200
    assert (await server.call(issuer.sign(new_key()))).status_code == 401


async def test_old_keys_are_fetched_anew_beside_the_requests_and_go_on_while_that_fails(issuer: SigningIssuer) -> None:
    now = [1000.0]
    metrics = McpMetrics(CollectorRegistry(), "test")
    settings = make_settings(
        authorization_server=issuer.issuer, validation="jwks", jwks={"refresh_seconds": 300}
    ).issuers[0]
    kid = issuer.key.kid
    async with jwks.IssuerKeys(settings, metrics.jwks, lambda: now[0]) as keys:
        assert await keys.find(kid)
        now[0] += 200
        assert await keys.find(kid)
        assert issuer.key_fetches == 1
        now[0] += 101
        issuer.status = 503
        asked = len(issuer.fetches)
        for _ in range(5):
            # Not again with each request while it fails.
            assert await keys.find(kid)
            await asyncio.sleep(0.05)
        assert len(issuer.fetches) == asked + 1
        issuer.status = 200
        now[0] += jwks.RETRY_SECONDS
        assert await keys.find(kid)
        await asyncio.sleep(0.05)
        assert issuer.key_fetches == 2
    outcomes = [metrics.registry.get_sample_value(REFRESHES, {"outcome": each}) for each in ("success", "error")]
    assert outcomes == [2, 1]


async def test_without_keys_the_answer_is_503_until_there_are_some(
    server: ResourceServer, issuer: SigningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    issuer.status = 503
    token = issuer.sign()
    answers = await asyncio.gather(*(server.call(token) for _ in range(50)))
    assert {answer.status_code for answer in answers} == {503}
    assert len(issuer.fetches) == 1
    assert "the issuer's keys were not had yet" in (await server.http.get(f"{server.origin}/readyz")).text
    assert (await server.http.get(f"{server.origin}/healthz")).status_code == 200
    assert validations(server, "unavailable") == 50
    issuer.status = 200
    monkeypatch.setattr(jwks, "RETRY_SECONDS", 0)
    assert (await server.http.get(f"{server.origin}/readyz")).status_code == 200
    assert (await server.call(token)).status_code == 200


async def test_an_issuer_that_hangs_is_given_up_after_the_time_that_is_set(issuer: SigningIssuer) -> None:
    issuer.delay = 2.5
    async with jwks_resource_server(issuer, jwks={"timeout_seconds": 0.3}) as server:
        started = time.monotonic()
        answers = await asyncio.gather(*(server.call(issuer.sign()) for _ in range(20)))
        assert {answer.status_code for answer in answers} == {503}
        assert time.monotonic() - started < 2


async def test_an_issuer_that_nobody_answers_for_is_503(issuer: SigningIssuer) -> None:
    async with jwks_resource_server(issuer, jwks={"url": "http://127.0.0.1:1/jwks"}) as server:
        assert (await server.call(issuer.sign())).status_code == 503


async def test_a_server_that_stops_waits_for_no_keys(issuer: SigningIssuer) -> None:
    issuer.delay = 4.0
    settings = make_settings(authorization_server=issuer.issuer, validation="jwks").issuers[0]
    async with jwks.IssuerKeys(settings, McpMetrics(CollectorRegistry(), "test").jwks) as keys:
        waiting = asyncio.create_task(keys.check())
        await asyncio.sleep(0.1)
        started = time.monotonic()
        waiting.cancel()
    assert time.monotonic() - started < 3


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example"},
        {"issuer": None},
        {"jwks_uri": None},
        {"jwks_uri": "http://keys.example/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": 7},
        {"jwks_uri": "https://[::1/jwks"},
    ],
)
async def test_metadata_that_name_somebody_else_or_no_safe_address_give_no_keys(
    server: ResourceServer, issuer: SigningIssuer, metadata: dict[str, Any]
) -> None:
    issuer.metadata = metadata
    assert (await server.call(issuer.sign())).status_code == 503
    assert "/jwks" not in issuer.fetches


@pytest.mark.parametrize(
    "key_set",
    [
        [],
        {},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]},
        {"keys": "x" * 300_000},
        "[" * 10_000,
    ],
)
async def test_what_is_no_key_set_gives_no_keys(server: ResourceServer, issuer: SigningIssuer, key_set: Any) -> None:
    issuer.key_set = key_set
    assert (await server.call(issuer.sign())).status_code == 503


async def test_a_withdrawn_key_vouches_for_nothing_any_more(
    server: ResourceServer, issuer: SigningIssuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.sign()
    assert (await server.call(token)).status_code == 200
    issuer.published = [new_key()]
    monkeypatch.setattr(jwks, "UNKNOWN_KEY_SECONDS", 0)
    assert (await server.call(issuer.sign(new_key()))).status_code == 401
    assert (await server.call(token)).status_code == 401


async def test_a_stream_ends_with_the_token_it_was_opened_with(server: ResourceServer, issuer: SigningIssuer) -> None:
    token = issuer.sign(exp=int(time.time()) + 4)
    headers = {"Authorization": f"Bearer {token}", "Accept": "text/event-stream", "Mcp-Protocol-Version": "2025-11-25"}
    opening = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": "2025-11-25",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        },
    }
    accept = {"Accept": "application/json, text/event-stream"}
    opened = await server.http.post(server.url, headers={**headers, **accept}, json=opening)
    session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
    started = time.monotonic()
    async with server.http.stream("GET", server.url, headers={**headers, **session}) as stream:
        assert stream.status_code == 200
        async for _ in stream.aiter_bytes():
            pass
    assert time.monotonic() - started < 7


@pytest.mark.parametrize(
    ("issuer", "places"),
    [
        (
            "https://id.example.com",
            [
                "https://id.example.com/.well-known/oauth-authorization-server",
                "https://id.example.com/.well-known/openid-configuration",
            ],
        ),
        (
            "https://id.example.com/tenant",
            [
                "https://id.example.com/.well-known/oauth-authorization-server/tenant",
                "https://id.example.com/tenant/.well-known/openid-configuration",
                "https://id.example.com/.well-known/openid-configuration/tenant",
            ],
        ),
    ],
)
async def test_metadata_are_looked_for_at_each_well_known_form(issuer: str, places: list[str]) -> None:
    assert list(discovery.metadata_places(issuer)) == places
