"""Sentences for addresses that cannot be listened on, and for applications that do not start."""

import socket

import pytest
from starlette.types import Receive, Scope, Send

from keystile_common.server import ListenError, bind, run
from keystile_common.settings import Listen


def test_a_port_in_use_is_said_with_the_setting_that_changes_it() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ListenError, match=rf"Port {port} on 127\.0\.0\.1 is in use: .* with KEYSTILE_LISTEN__PORT"):
            bind(Listen(port=port), "KEYSTILE_LISTEN__PORT")


def test_an_address_that_is_not_ours_is_said() -> None:
    with pytest.raises(ListenError, match=r"Cannot listen on 192\.0\.2\.1:0 \(.*\): change it with X"):
        bind(Listen(host="192.0.2.1"), "X")


def test_a_bound_socket_listens_without_delay() -> None:
    with bind(Listen(), "X") as listener, socket.create_connection(listener.getsockname()):
        assert listener.get_inheritable()


def test_what_stops_an_application_from_starting_is_raised_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    class UnsuitableError(Exception):
        pass

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.failed", "message": "Traceback of a secret"})
        raise UnsuitableError("one sentence")

    with bind(Listen(), "X") as listener, pytest.raises(UnsuitableError, match="one sentence"):
        run(app, listener, trusted_proxies=[], drain_seconds=1)
    assert "Traceback" not in caplog.text
