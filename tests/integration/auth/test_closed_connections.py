"""Connections that were closed leave nothing for the garbage collector, which would stop all others while it looks."""

import base64
import gc
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from keystile_common.recurring_protocol import HttpProtocol
from tests.auth_server import RESOURCE_SECRET, AuthServer
from tests.kept_connection import KeptConnection, post
from tests.stores import BUSY_SECONDS

CONNECTIONS = 20


@contextmanager
def nothing_collected() -> Iterator[Callable[[], Counter[str]]]:
    """Gives what finds out how many objects of each type only a collector could have freed since."""
    gc.collect()
    gc.disable()
    try:

        def found() -> Counter[str]:
            gc.set_debug(gc.DEBUG_SAVEALL)
            try:
                gc.collect()
                return Counter(type(each).__name__ for each in gc.garbage)
            finally:
                gc.set_debug(0)
                gc.garbage.clear()

        yield found
    finally:
        gc.enable()


def alive() -> int:
    return sum(isinstance(each, HttpProtocol | RequestResponseCycle) for each in gc.get_objects())


def introspection(server: AuthServer) -> bytes:
    token = server.tokens(server.register().id)["access_token"]
    credentials = base64.b64encode(f"mcp:{RESOURCE_SECRET}".encode()).decode()
    return post("/introspect", f"token={token}", Authorization=f"Basic {credentials}")


@pytest.mark.parametrize("requests", [0, 1, 4])
def test_a_connection_that_was_closed_is_freed_at_once(auth_server: AuthServer, requests: int) -> None:
    request = introspection(auth_server)
    with nothing_collected() as found:
        before = alive()
        for _ in range(CONNECTIONS):
            with KeptConnection(auth_server.issuer) as connection:
                for _ in range(requests):
                    assert connection.ask(request).status == 200
        deadline = time.monotonic() + 5 + BUSY_SECONDS
        while alive() > before:
            assert time.monotonic() < deadline, found()
            time.sleep(0.05)
        left = found()
    assert {name: left[name] for name in ("HttpProtocol", "RequestResponseCycle")} == {
        "HttpProtocol": 0,
        "RequestResponseCycle": 0,
    }


@pytest.mark.parametrize("path", ["/token", "/introspect", "/.well-known/oauth-authorization-server"])
def test_one_that_was_closed_before_its_answer_is_freed_too(auth_server: AuthServer, path: str) -> None:
    whole = post(path, "grant_type=client_credentials")
    with nothing_collected() as found:
        before = alive()
        for count in range(CONNECTIONS):
            with KeptConnection(auth_server.issuer) as connection:
                connection.send(whole * 2 if count % 2 else whole[:-5])
        deadline = time.monotonic() + 5 + BUSY_SECONDS
        while alive() > before:
            assert time.monotonic() < deadline, found()
            time.sleep(0.05)
