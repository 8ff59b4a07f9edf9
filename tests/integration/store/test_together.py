"""Commands of one turn of the event loop go to the store together, and each gets its own answer."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import exceptions

from keystile_common import store_together
from keystile_common.settings import StoreSettings
from keystile_common.store_client import LONGEST_SECONDS, Client, client_of_url, server_options
from tests.security.lossy_proxy import lossy_proxy
from tests.stores import BUSY_SECONDS, Server, Site


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Site(Path(tmp_path_factory.mktemp("valkey"))), "one")
    server.start()
    yield server
    server.stop()


def client_of(port: int, **settings: Any) -> Client:
    given = {"password": "", **settings}
    chosen = StoreSettings.model_validate({k: v for k, v in given.items() if v})
    return client_of_url(f"redis://127.0.0.1:{port}/0", server_options(chosen), {})


@pytest_asyncio.fixture
async def client(valkey: Server) -> AsyncIterator[Client]:
    opened = client_of(valkey.port)
    await opened.flushall()
    yield opened
    await opened.aclose()


def calls(server: Server, command: str) -> int:
    with server.client as redis:
        stats: dict[str, Any] = redis.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


async def test_each_of_a_thousand_commands_gets_the_answer_to_its_own_key(client: Client) -> None:
    await asyncio.gather(*(client.set(f"k{n}", f"v{n}") for n in range(0, 1000, 2)))
    for _ in range(5):
        answers = await asyncio.gather(*(client.get(f"k{n}") for n in range(1000)))
        assert answers == [None if n % 2 else f"v{n}" for n in range(1000)]


async def test_five_hundred_commands_at_once_open_two_connections(client: Client, valkey: Server) -> None:
    await asyncio.gather(*(client.get(f"k{n}") for n in range(512)))
    with valkey.client as redis:
        ours = [each for each in redis.client_list() if each["cmd"] == "get"]
    assert len(ours) <= store_together.MAX_CONVERSATIONS


async def test_a_command_that_comes_while_a_batch_ends_is_sent_too(client: Client) -> None:
    async def one_after_the_other(name: str) -> None:
        for number in range(200):
            await client.set(name, number)
            assert await client.get(name) == str(number)

    async with asyncio.timeout(30):
        await asyncio.gather(*(one_after_the_other(f"k{n}") for n in range(7)))


async def test_an_error_is_the_answer_to_its_own_command_alone(client: Client) -> None:
    await client.lpush("list", "x")
    await client.set("k", "v")
    answers: tuple[Any, ...] = await asyncio.gather(
        client.get("k"), client.get("list"), client.get("k"), return_exceptions=True
    )
    good, wrong, also = answers
    assert (good, also) == ("v", "v")
    assert isinstance(wrong, exceptions.ResponseError)


async def test_a_command_that_cannot_be_written_harms_no_other(client: Client) -> None:
    await client.set("k", "v")
    answers: tuple[Any, ...] = await asyncio.gather(
        client.get("k"), client.get("\ud800"), client.get("k"), return_exceptions=True
    )
    good, wrong, also = answers
    assert (good, also) == ("v", "v")
    assert isinstance(wrong, UnicodeEncodeError)


async def test_a_script_that_the_store_does_not_know_is_loaded_by_whoever_asks(client: Client) -> None:
    script = client.register_script("return KEYS[1] .. ARGV[1]")
    answers = await asyncio.gather(*(script(keys=["a"], args=[n]) for n in range(20)))
    assert answers == [f"a{n}" for n in range(20)]


async def test_whoever_gives_up_takes_no_answer_from_the_others(client: Client) -> None:
    await asyncio.gather(*(client.set(f"k{n}", f"v{n}") for n in range(50)))
    for _ in range(50):
        asking = [asyncio.ensure_future(client.get(f"k{n}")) for n in range(50)]
        for turns in range(3):
            await asyncio.sleep(0)
            asking[turns * 7].cancel()
        answers = await asyncio.gather(*asking, return_exceptions=True)
        for number, answer in enumerate(answers):
            assert answer == f"v{number}" or (number in {0, 7, 14} and isinstance(answer, asyncio.CancelledError))


async def test_a_batch_whose_connection_broke_is_sent_once_more_and_every_command_has_its_answer(
    valkey: Server,
) -> None:
    with lossy_proxy(valkey.port) as proxy:
        client = client_of(proxy.port)
        await asyncio.gather(*(client.set(f"k{n}", f"v{n}") for n in range(20)))
        for _ in range(10):
            proxy.lose_answer_to(b"k13")
            answers = await asyncio.gather(*(client.get(f"k{n}") for n in range(20)))
            assert answers == [f"v{n}" for n in range(20)]
        assert len(proxy.lost) == 10
        await client.aclose()


async def test_a_store_that_stands_still_fails_every_command_in_time_and_the_next_ones_get_their_own_answers(
    valkey: Server, client: Client
) -> None:
    await asyncio.gather(*(client.set(f"k{n}", f"v{n}") for n in range(300)))
    started = time.monotonic()
    with valkey.paused():
        asking = [asyncio.ensure_future(client.get(f"k{n}")) for n in range(300)]
        await asyncio.sleep(0.1)
        late = [asyncio.ensure_future(client.get(f"k{n}")) for n in range(600)]
        answers = await asyncio.gather(*asking, *late, return_exceptions=True)
        assert time.monotonic() - started < LONGEST_SECONDS + 1, "it promises less; the rest is for a busy machine"
    assert all(isinstance(each, exceptions.TimeoutError | TimeoutError) for each in answers)
    for _ in range(5):
        assert await asyncio.gather(*(client.get(f"k{n}") for n in range(300))) == [f"v{n}" for n in range(300)]


async def test_a_store_that_is_not_there_fails_every_command(valkey: Server) -> None:
    client = client_of(1)
    answers = await asyncio.gather(*(client.get("k") for _ in range(20)), return_exceptions=True)
    assert all(isinstance(each, exceptions.ConnectionError) for each in answers)
    await client.aclose()


async def test_more_commands_than_may_wait_are_refused_and_those_before_answered(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_together, "MAX_WAITING", 10)
    answers = await asyncio.gather(*(client.get("k") for _ in range(15)), return_exceptions=True)
    assert answers[:10] == [None] * 10
    assert all(isinstance(each, exceptions.ConnectionError) for each in answers[10:])
    assert await client.get("k") is None


async def test_closing_the_client_answers_whoever_waits(valkey: Server) -> None:
    client = client_of(valkey.port)
    await client.ping()
    with valkey.paused():
        asking = [asyncio.ensure_future(client.get("k")) for _ in range(600)]
        await asyncio.sleep(0.1)
        await client.aclose()
        async with asyncio.timeout(1):
            answers = await asyncio.gather(*asking, return_exceptions=True)
    assert all(isinstance(each, exceptions.ConnectionError) for each in answers)


def counted(client: Client, monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """Has one more element each time that a connection is taken from the pool."""
    taken: list[None] = []
    take = client.connection_pool.get_connection

    async def counting() -> Any:
        taken.append(None)
        return await take()  # type: ignore[no-untyped-call]

    monkeypatch.setattr(client.connection_pool, "get_connection", counting)
    return taken


async def test_a_connection_is_kept_for_commands_that_come_soon_and_given_back_when_none_do(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_together, "_HELD_SECONDS", 60)
    monkeypatch.setattr(store_together, "_REST_SECONDS", 2)
    taken = counted(client, monkeypatch)
    for _ in range(50):
        await client.get("k")
    assert len(taken) == 1
    pool: Any = client.connection_pool
    assert len(pool._in_use_connections) == 1
    deadline = time.monotonic() + 10
    while pool._in_use_connections:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)
    await client.get("k")
    assert len(taken) == 2


async def test_a_connection_is_not_kept_for_longer_than_the_pool_may_wait_to_see_to_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_together, "_HELD_SECONDS", 0.05)
    taken = counted(client, monkeypatch)
    began = time.monotonic()
    while time.monotonic() < began + 0.6:
        await client.get("k")
    assert 3 <= len(taken) <= 13


async def test_a_kept_connection_that_the_pool_wants_closed_is_not_used_again(client: Client) -> None:
    await client.get("k")
    pool: Any = client.connection_pool
    [kept] = pool._in_use_connections
    before = kept._writer.get_extra_info("sockname")
    await pool.update_active_connections_for_reconnect()
    await client.get("k")
    [used] = pool._in_use_connections
    assert used._writer.get_extra_info("sockname") != before


async def test_of_a_few_connections_none_is_kept_from_others(valkey: Server) -> None:
    client = client_of(valkey.port, max_connections=store_together.MAX_CONVERSATIONS)
    pool: Any = client.connection_pool
    for _ in range(20):
        await asyncio.gather(*(client.get(f"k{n}") for n in range(5)))
        await asyncio.sleep(0)
    await client.lpush("short", "x")
    await asyncio.sleep(0.01)
    assert not pool._in_use_connections
    await client.aclose()


@pytest.mark.parametrize("rest", [0.0, 0.001, 0.003])
async def test_no_command_is_left_waiting_whenever_it_comes(
    client: Client, monkeypatch: pytest.MonkeyPatch, rest: float
) -> None:
    monkeypatch.setattr(store_together, "_REST_SECONDS", rest)
    monkeypatch.setattr(store_together, "_HELD_SECONDS", 0.004)
    chance = random.Random(7)
    await asyncio.gather(*(client.set(f"k{n}", f"v{n}") for n in range(20)))

    async def now_and_then(name: str, value: str) -> None:
        for _ in range(150):
            await asyncio.sleep(chance.choice([0, 0, rest, rest + 0.0005, chance.random() * 0.005]))
            assert await client.get(name) == value

    async with asyncio.timeout(30 + BUSY_SECONDS):
        await asyncio.gather(*(now_and_then(f"k{n}", f"v{n}") for n in range(20)))
        for number in range(150):
            await asyncio.sleep(rest)
            assert await client.get(f"k{number % 20}") == f"v{number % 20}"


async def test_a_kept_connection_that_the_store_has_closed_fails_no_command(client: Client, valkey: Server) -> None:
    for _ in range(5):
        await client.set("k", "v")
        with valkey.client as redis:
            assert redis.client_kill_filter(_type="normal", skipme=True)
        assert await client.get("k") == "v"


async def test_whoever_closes_a_client_does_not_wait_for_what_may_come(
    valkey: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_together, "_REST_SECONDS", 60)
    client = client_of(valkey.port)
    await client.get("k")
    async with asyncio.timeout(10):
        await client.aclose()
    assert not any(task.get_coro().__qualname__ == "Together._converse" for task in asyncio.all_tasks())  # type: ignore[union-attr]
