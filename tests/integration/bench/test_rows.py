"""What the benchmark's rows are made of: load on several servers, tokens that are asked about, grants in a store."""

import asyncio
import os
import socket
import threading
from collections.abc import Iterator

import pytest
import uvloop

from bench import grants
from bench.authorization import hello_requests
from bench.authorization_server import Contents, authorization_server, valkey
from bench.bearer import held
from bench.http_load import Load, Next, run, run_together
from bench.load import server
from bench.uncached import microseconds, ways
from keystile_auth.tokens import opaque
from tests.made_run import free_ports


@pytest.fixture(autouse=True)
def every_core() -> Iterator[None]:
    """Measures stay on one core; the tests after them need not."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    yield
    if affinity is not None:
        os.sched_setaffinity(0, affinity)


def counted(sent: list[str], name: str) -> Next:
    def make(_: bytes | None) -> bytes:
        sent.append(name)
        return hello_requests()[0]

    return make


def test_several_servers_are_loaded_together_each_with_its_own_number_of_requests() -> None:
    sent: list[str] = []
    with server("hello") as one, server("hello") as two:
        answers = run_together(
            [Load(one.url, 30, [counted(sent, "one")] * 3), Load(two.url, 10, [counted(sent, "two")] * 2)]
        )
    assert (sent.count("one"), sent.count("two")) == (30, 10)
    assert len(answers.taken) == 40
    assert not answers.refused


def test_what_is_sent_on_each_connection_beforehand_is_not_counted() -> None:
    sent: list[str] = []
    with server("hello") as target:
        answers = run_together([Load(target.url, 20, [counted(sent, "all")] * 8)], used_before=True)
    assert len(sent) == 28
    assert len(answers.taken) == 20


def test_a_server_that_closes_connections_is_said_and_not_waited_for() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def close_both() -> None:
            for _ in range(2):
                listener.accept()[0].close()

        closing = threading.Thread(target=close_both)
        closing.start()
        with pytest.raises(AssertionError, match="closed a connection"):
            run(f"http://127.0.0.1:{listener.getsockname()[1]}", 2, [lambda _: hello_requests()[0]] * 2)
        closing.join()


def test_the_uncached_check_asks_the_authorization_server_again_once_it_was_told_to_forget() -> None:
    with valkey() as store_port, authorization_server(store_port) as target:
        contents = Contents(store_port)
        tokens = contents.access_tokens(3, target.url)
        runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        with runner, held(runner, lambda stack: ways(stack, target.url)) as both:
            assert runner.run(microseconds(both.keystile, tokens, 2)) > 0
            assert runner.run(microseconds(both.library, tokens, 1)) > 0
            gone = opaque.parse_access_token(tokens[0])
            assert gone is not None
            contents.client.delete(f"ks:{{{gone.grant_id}}}:a:{gone.hash}")
            runner.run(microseconds(both.keystile, tokens, 1))
            both.forget()
            with pytest.raises(ExceptionGroup) as refused:
                runner.run(microseconds(both.keystile, tokens, 1))
            assert refused.group_contains(AssertionError, match="the token was refused")


def test_what_cannot_be_entered_is_said_and_not_waited_for() -> None:
    async def enter(_: object) -> None:
        raise ValueError("no such thing")

    with asyncio.Runner() as runner, pytest.raises(ValueError, match="no such thing"), held(runner, enter):
        pass


def test_grants_are_made_by_the_token_endpoint_and_refreshed_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(grants, "QUICK_COUNT", 200)
    redeemed, refreshed = grants.measure(quick=True)
    # A document, an access token and two places in lists: one to three kilobytes, a hundred thousand times.
    assert 100 < redeemed.median < 300
    assert 100 < refreshed.median < 300
    assert redeemed.bound == grants.MOST_MB


def test_nobody_to_load_is_an_error() -> None:
    with pytest.raises(OSError, match="refused"):
        run(f"http://127.0.0.1:{free_ports(1)[0]}", 1, [lambda _: hello_requests()[0]])
