"""The whole code flow on the stores that people run, each with a password and an ACL user."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from testcontainers.core.container import DockerContainer
from testcontainers.core.wait_strategies import LogMessageWaitStrategy

from tests.auth_server import AuthServer, running_auth_server

pytestmark = pytest.mark.docker

USER = ["--user", "keystile", "on", ">acl-password", "~ks:*", "+@all", "-@dangerous", "+info"]


@dataclass
class RunningStore:
    """A store in a container, and how a client signs in to it."""

    url: str
    sign_in: dict[str, str]


@pytest.fixture(scope="module", params=["redis:7", "valkey/valkey:8"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=["open", "password", "user"])
def store(request: pytest.FixtureRequest, image: str) -> Iterator[RunningStore]:
    program = "redis-server" if image.startswith("redis") else "valkey-server"
    options, sign_in = {
        "open": (["--protected-mode", "no"], {}),
        "password": (["--requirepass", "the-password"], {"password": "the-password"}),
        "user": (["--protected-mode", "no", *USER], {"username": "keystile", "password": "acl-password"}),
    }[request.param]
    ready = LogMessageWaitStrategy("Ready to accept connections")
    container = DockerContainer(image).with_command([program, *options]).with_exposed_ports(6379).waiting_for(ready)
    with container:
        url = f"redis://{container.get_container_host_ip()}:{container.get_exposed_port(6379)}/0"
        yield RunningStore(url, sign_in)


@pytest.fixture(scope="module")
def server(store: RunningStore) -> Iterator[AuthServer]:
    with running_auth_server(store.url, store={"url": store.url, **store.sign_in}) as running:
        yield running


def test_a_code_is_exchanged_refreshed_and_revoked(server: AuthServer) -> None:
    client = server.register()
    first = server.tokens(client.id)
    assert server.is_active(first["access_token"])
    second = server.refresh(client.id, first["refresh_token"]).json()
    assert server.is_active(second["access_token"])
    data = {"token": second["refresh_token"], "client_id": client.id}
    assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
    assert not server.is_active(first["access_token"])
    assert not server.is_active(second["access_token"])
    assert server.refresh(client.id, second["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_replay_ends_the_family(server: AuthServer) -> None:
    client, person = server.register(), server.person()
    first = server.tokens(client.id, person)
    second = server.refresh(client.id, first["refresh_token"]).json()
    third = server.refresh(client.id, second["refresh_token"]).json()
    assert server.refresh(client.id, first["refresh_token"]).json()["error"] == "invalid_grant"
    assert not server.is_active(third["access_token"])
    assert server.refresh(client.id, third["refresh_token"]).json()["error"] == "invalid_grant"


def test_the_server_is_ready(server: AuthServer) -> None:
    assert server.http.get(f"{server.issuer}/readyz").status_code == 200
