"""Many callers at once, and an authorization server that comes back, cost it no more than it can bear."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp

from keystile_common import traces
from keystile_common.audit import AuditLog
from keystile_common.metrics import McpMetrics
from keystile_common.settings import TraceSettings
from keystile_mcp.app import create_app
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    authorization_server,
    serving,
)
from tests.integration.mcp.test_introspection import TROUBLES

CALLERS = 1_000
KEPT_SECONDS = 30


class Clock:
    """Real time, and what a test adds to it."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedAuthorizationServer]:
    async with authorization_server() as running:
        yield running


@pytest.fixture
async def server(scripted: ScriptedAuthorizationServer, clock: Clock) -> AsyncIterator[ResourceServer]:
    async with at(scripted, clock) as running:
        yield running


@asynccontextmanager
async def at(scripted: ScriptedAuthorizationServer, clock: Clock) -> AsyncIterator[ResourceServer]:
    def make(settings: McpSettings, metrics: McpMetrics, audit: AuditLog) -> ASGIApp:
        tracing = traces.configure(TraceSettings(), "keystile-mcp", "test")
        return create_app(settings, metrics, audit, tracing, streams=OpenStreams(), clock=clock)

    async with serving(scripted, make) as running:
        yield running


async def statuses(server: ResourceServer, *tokens: str) -> set[int]:
    # A hundred connections carry them all: as many as there are calls would measure the test's own client.
    gate = asyncio.Semaphore(100)

    async def call(token: str) -> int:
        async with gate:
            return (await server.call(token)).status_code

    return set(await asyncio.gather(*(call(token) for token in tokens)))


async def test_a_thousand_calls_with_one_cold_token_ask_once(server: ResourceServer) -> None:
    token = server.authorization_server.issue()
    assert await statuses(server, *[token] * CALLERS) == {200}
    assert len(server.authorization_server.requests) == 1


async def test_a_hot_token_whose_answer_has_run_out_is_asked_for_once(server: ResourceServer, clock: Clock) -> None:
    token = server.authorization_server.issue()
    for asked in range(1, 4):
        assert await statuses(server, *[token] * 300) == {200}
        assert len(server.authorization_server.requests) == asked
        clock.ahead += KEPT_SECONDS


async def asked_in_a_minute(server: ResourceServer, clock: Clock, tokens: list[str]) -> int:
    """How often the authorization server is asked while each token is used every five seconds."""
    before = len(server.authorization_server.requests)
    for _ in range(12):
        await statuses(server, *tokens)
        clock.ahead += 5
    return len(server.authorization_server.requests) - before


async def test_after_ten_minutes_away_it_is_asked_no_more_than_twice_as_often_as_before(
    server: ResourceServer, clock: Clock
) -> None:
    scripted = server.authorization_server
    tokens = [scripted.issue(exp=int(clock()) + 3600) for _ in range(60)]
    steady = await asked_in_a_minute(server, clock, tokens)
    assert steady >= len(tokens)
    scripted.behaviour = TROUBLES["store away"]
    clock.ahead += KEPT_SECONDS
    for _ in range(10):
        assert await statuses(server, *tokens) == {503}
        clock.ahead += 60
    scripted.behaviour = None
    assert await asked_in_a_minute(server, clock, tokens) <= 2 * steady
    assert await statuses(server, *tokens) == {200}
