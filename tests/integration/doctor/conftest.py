"""A way to a real pair of servers, for each test one."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.auth_server import OTHER_RESOURCE, OTHER_SECRET, RESOURCE_SECRET, SCOPES, AuthServer, running_auth_server
from tests.integration.doctor.way import Way, proxy
from tests.made_run import free_ports

MACHINE_SECRET = "machine-secret-" + "m" * 32


@pytest.fixture(scope="module")
def port() -> int:
    """The proxy's: both servers are known by it."""
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def auth_behind(store_url: str, port: int) -> Iterator[AuthServer]:
    origin = f"http://127.0.0.1:{port}"
    resources = {
        "mcp": {"uri": f"{origin}/mcp", "title": "Team tools", "scopes": SCOPES, "secret": RESOURCE_SECRET},
        "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use it"}, "secret": OTHER_SECRET},
    }
    machine = {
        "title": "Job",
        "resources": [f"{origin}/mcp", OTHER_RESOURCE],
        "scopes": [*SCOPES, "other:use"],
        "secret": MACHINE_SECRET,
    }
    with running_auth_server(store_url, issuer=origin, resources=resources, clients={"job": machine}) as server:
        yield server


@pytest.fixture
async def way(port: int, auth_behind: AuthServer) -> AsyncIterator[Way]:
    async with proxy(Way(port, auth_behind)) as served:
        yield served
