from collections.abc import AsyncIterator

import pytest

from tests.integration.mcp.resource_server import (
    ResourceServer,
    ScriptedAuthorizationServer,
    authorization_server,
    resource_server,
)


@pytest.fixture
async def scripted() -> AsyncIterator[ScriptedAuthorizationServer]:
    async with authorization_server() as server:
        yield server


@pytest.fixture
async def server(scripted: ScriptedAuthorizationServer) -> AsyncIterator[ResourceServer]:
    async with resource_server(scripted) as running:
        yield running
