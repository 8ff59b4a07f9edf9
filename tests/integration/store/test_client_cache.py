"""Access tokens in memory: never longer than the store says, whatever happens to the connection that tells changes."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from redis import Redis

from keystile_auth.store.access_token_cache import AccessTokenCache
from keystile_auth.store.grants import KEYS_OF_GRANTS
from keystile_auth.store.stored_access_token import StoredAccessToken
from keystile_common.settings import StoreSettings
from keystile_common.store_client import Client, client_of_url, server_options
from keystile_common.store_tracking import LEASE_SECONDS, ChangedKeys
from tests.auth_server import OTHER_SECRET, RESOURCE_SECRET, AuthServer, auth_settings, running_auth_server
from tests.stores import PASSWORD, Server, Site, eventually

_SOON_SECONDS = 1.0  # a few milliseconds on a machine that does nothing else


@pytest.fixture(scope="module")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(Site(Path(tmp_path_factory.mktemp("valkey"))), "one")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def plain(valkey: Server) -> Iterator[AuthServer]:
    """A server that looks every token up."""
    with running_auth_server(f"redis://{valkey.address}/0") as server:
        yield server


@pytest.fixture(scope="module")
def caching(plain: AuthServer, valkey: Server) -> Iterator[AuthServer]:
    """One that keeps them, on the same store."""
    with running_auth_server(f"redis://{valkey.address}/0", tokens={"client_cache": 100}) as server:
        yield server


@pytest.fixture
def token(plain: AuthServer) -> str:
    client = plain.register()
    return str(plain.tokens(client.id)["access_token"])


def lookups(server: AuthServer) -> float:
    """How often a server has asked the store for a token."""
    name = "keystile_store_operation_duration_seconds_count"
    return server.metrics.registry.get_sample_value(name, {"operation": "token.find"}) or 0.0


def is_kept(server: AuthServer, token: str) -> bool:
    """Whether it is answered from memory, now that it was just asked for."""
    before = lookups(server)
    assert server.is_active(token)
    return lookups(server) == before


def wait_until_kept(server: AuthServer, token: str) -> None:
    eventually(lambda: is_kept(server, token), "the token is not kept")


def inactive_after(server: AuthServer, token: str) -> float:
    """Seconds until a token is answered as not active."""
    began = time.monotonic()
    eventually(lambda: not server.is_active(token), "a revoked token stays active")
    return time.monotonic() - began


def tracking_connections(valkey: Server) -> list[str]:
    with valkey.client as redis:
        return [each["id"] for each in redis.client_list() if "B" in each["flags"]]


def test_a_token_that_was_asked_for_is_answered_from_memory_with_the_very_same_bytes(
    caching: AuthServer, plain: AuthServer, token: str
) -> None:
    wait_until_kept(caching, token)
    data, auth = {"token": token}, ("mcp", RESOURCE_SECRET)
    answers = [each.http.post(f"{each.issuer}/introspect", data=data, auth=auth) for each in (caching, plain)]
    assert answers[0].content == answers[1].content
    assert not caching.introspect(token, ("other", OTHER_SECRET))["active"], "it is for another resource"


def test_a_revocation_at_another_server_holds_at_once_fifty_times(caching: AuthServer, plain: AuthServer) -> None:
    client, person, slowest = plain.register(), plain.person(), 0.0
    refresh_token = plain.tokens(client.id, person)["refresh_token"]
    for _ in range(50):
        tokens = plain.refresh(client.id, refresh_token).json()
        token, refresh_token = tokens["access_token"], tokens["refresh_token"]
        wait_until_kept(caching, token)
        data = {"token": token, "client_id": client.id}
        assert plain.http.post(f"{plain.issuer}/revoke", data=data).status_code == 200
        slowest = max(slowest, inactive_after(caching, token))
        assert not caching.is_active(token), "it came back"
    assert slowest < _SOON_SECONDS


def test_ending_a_grant_ends_what_is_kept_of_it(caching: AuthServer, plain: AuthServer) -> None:
    client = plain.register()
    tokens = plain.tokens(client.id)
    wait_until_kept(caching, tokens["access_token"])
    data = {"token": tokens["refresh_token"], "client_id": client.id}
    assert plain.http.post(f"{plain.issuer}/revoke", data=data).status_code == 200
    assert inactive_after(caching, tokens["access_token"]) < _SOON_SECONDS


def test_when_the_connection_is_cut_nothing_is_kept_and_it_is_made_anew(
    caching: AuthServer, valkey: Server, token: str
) -> None:
    for _ in range(5):
        wait_until_kept(caching, token)
        for each in tracking_connections(valkey):
            valkey.ask("CLIENT", "KILL", "ID", each)
        eventually(lambda: not is_kept(caching, token), "a token is kept without the connection")
        eventually(lambda: bool(tracking_connections(valkey)), "it was not made anew")


def test_what_is_revoked_while_the_connection_is_cut_is_not_answered_from_memory(
    caching: AuthServer, valkey: Server, token: str
) -> None:
    wait_until_kept(caching, token)
    with valkey.client as redis:
        keys = list(redis.scan_iter(f"{KEYS_OF_GRANTS}{token[7:23]}}}:a:*"))
        pipeline = redis.pipeline(transaction=True)
        for each in tracking_connections(valkey):
            pipeline.client_kill_filter(_id=each)
        pipeline.delete(*keys)
        pipeline.execute()
    assert inactive_after(caching, token) < LEASE_SECONDS


def test_emptying_the_store_empties_the_memory(caching: AuthServer, plain: AuthServer, valkey: Server) -> None:
    # The last person's session goes too; each test has a token of its own.
    token = plain.tokens(plain.register().id)["access_token"]
    wait_until_kept(caching, token)
    valkey.ask("FLUSHALL")
    assert inactive_after(caching, token) < _SOON_SECONDS


def test_a_flood_of_changes_neither_stops_it_nor_hides_a_revocation(
    caching: AuthServer, plain: AuthServer, valkey: Server
) -> None:
    client = plain.register()
    tokens = plain.tokens(client.id)
    wait_until_kept(caching, tokens["access_token"])
    is_over = threading.Event()

    def flood() -> None:
        with Redis(port=valkey.port) as redis:
            while not is_over.is_set():
                pipeline = redis.pipeline(transaction=False)
                for number in range(2000):
                    pipeline.set(f"{KEYS_OF_GRANTS}flood{number % 500}}}", "x", px=100)
                pipeline.execute()

    flooding = threading.Thread(target=flood)
    flooding.start()
    try:
        time.sleep(0.5)
        assert caching.is_active(tokens["access_token"])
        data = {"token": tokens["access_token"], "client_id": client.id}
        assert plain.http.post(f"{plain.issuer}/revoke", data=data).status_code == 200
        assert inactive_after(caching, tokens["access_token"]) < LEASE_SECONDS + _SOON_SECONDS
    finally:
        is_over.set()
        flooding.join()
    assert caching.http.get(f"{caching.issuer}/readyz").status_code == 200


def test_a_token_ends_when_it_expires(caching: AuthServer, valkey: Server) -> None:
    lifetimes = {"client_cache": 100, "access_token_seconds": 4}
    with running_auth_server(f"redis://{valkey.address}/0", tokens=lifetimes) as server:
        tokens = server.tokens(server.register().id)
        expires = server.introspect(tokens["access_token"])["exp"]
        eventually(lambda: not server.is_active(tokens["access_token"]), "it lives on", 10)
        assert expires - 0.1 <= time.time() < expires + 3


def test_where_the_user_may_not_follow_changes_every_token_is_looked_up(valkey: Server) -> None:
    with valkey.client as redis:
        redis.execute_command("ACL", "SETUSER", "narrow", "on", f">{PASSWORD}", "~ks:*", "+@all", "-client|tracking")
    store = {"url": f"redis://{valkey.address}/0", "username": "narrow", "password": PASSWORD}
    with running_auth_server("", store=store, tokens={"client_cache": 100}) as server:
        token = server.tokens(server.register().id)["access_token"]
        assert not any(is_kept(server, token) for _ in range(5))


@pytest.mark.parametrize(
    "store", [{"sentinels": ["127.0.0.1:1"], "sentinel_master": "m"}, {"cluster": ["127.0.0.1:1"]}]
)
def test_with_sentinels_or_a_cluster_the_setting_is_refused(store: dict[str, Any]) -> None:
    auth_settings("http://127.0.0.1:1", "", store=store)
    with pytest.raises(ValueError, match=r"tokens\.client_cache works with store\.url alone"):
        auth_settings("http://127.0.0.1:1", "", store=store, tokens={"client_cache": 1})


# What follows the changes


@pytest_asyncio.fixture
async def client(valkey: Server) -> AsyncIterator[Client]:
    settings = StoreSettings.model_validate({"password": PASSWORD, "username": "keystile"})
    opened = client_of_url(f"redis://{valkey.address}/0", server_options(settings), {})
    yield opened
    await opened.aclose()


async def _until(check: Callable[[], object], seconds: float = 5) -> None:
    async with asyncio.timeout(seconds):
        while not check():  # noqa: ASYNC110 (what is waited for knows nothing of us)
            await asyncio.sleep(0.005)


async def test_changes_of_the_prefix_are_told_and_no_others(client: Client) -> None:
    told: list[bytes | None] = []

    def note(keys: Sequence[bytes] | None) -> None:
        told.extend(keys if keys is not None else [None])

    async with ChangedKeys(client, KEYS_OF_GRANTS, note) as changes:
        await _until(lambda: changes.store_time is not None)
        await client.set("ks:other", "x")
        await client.set("ks:{g}:a:h", "x")
        await _until(lambda: told)
        assert told == [b"ks:{g}:a:h"]
        await client.delete("ks:{g}:a:h")
        await _until(lambda: len(told) == 2)
        assert told[-1] == b"ks:{g}:a:h"
    assert told[-1] is None, "once it is closed any key may have changed"


async def test_the_stores_time_is_never_behind_it(client: Client) -> None:
    async with ChangedKeys(client, KEYS_OF_GRANTS, lambda _: None) as changes:
        await _until(lambda: changes.store_time is not None)
        for _ in range(20):
            seconds, micros = await client.execute_command("TIME")
            now = changes.store_time
            assert now is not None
            assert now >= int(seconds) + int(micros) / 1e6
            assert now - (int(seconds) + int(micros) / 1e6) < 1
            await asyncio.sleep(0.05)


async def test_while_the_store_stands_still_nothing_is_current(client: Client, valkey: Server) -> None:
    async with ChangedKeys(client, KEYS_OF_GRANTS, lambda _: None) as changes:
        await _until(lambda: changes.store_time is not None)
        with valkey.paused():
            await asyncio.sleep(LEASE_SECONDS)
            assert changes.store_time is None
            await asyncio.sleep(1.5)
            assert changes.store_time is None
        await _until(lambda: changes.store_time is not None)


# What is kept


class Clock:
    """The store's time, set by the test; None as while nobody tells of changes."""

    store_time: float | None = 100.0


KEY = b"ks:{g}:a:h"
LIVE = StoredAccessToken(200, "https://r.example", '{"active":true}')


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> AccessTokenCache:
    made = AccessTokenCache(2)
    made.follow(clock)
    return made


def put(cache: AccessTokenCache, key: bytes = KEY) -> None:
    with cache.reading(key) as reading:
        cache.keep(key, LIVE, reading)


def test_what_was_read_is_kept(cache: AccessTokenCache) -> None:
    put(cache)
    assert cache.find(KEY) is LIVE


@pytest.mark.parametrize("changed", [[KEY], None])
def test_a_change_ends_what_is_kept_and_what_is_being_read(
    cache: AccessTokenCache, changed: list[bytes] | None
) -> None:
    put(cache)
    with cache.reading(KEY) as late:
        cache.forget(changed)
        assert cache.find(KEY) is None
        with cache.reading(KEY) as later:
            cache.keep(KEY, LIVE, late)
            assert cache.find(KEY) is None, "an answer from before the change"
            cache.keep(KEY, LIVE, later)
            assert cache.find(KEY) is LIVE, "one from after it"


def test_a_change_of_another_key_does_nothing(cache: AccessTokenCache) -> None:
    put(cache)
    with cache.reading(KEY) as reading:
        cache.forget([b"ks:{other}"])
        cache.keep(KEY, LIVE, reading)
    assert cache.find(KEY) is LIVE


def test_readers_of_one_key_share_its_generation_until_the_last_has_gone(cache: AccessTokenCache) -> None:
    with cache.reading(KEY) as first:
        with cache.reading(KEY) as second:
            assert first is second
        cache.forget([KEY])
        cache.keep(KEY, LIVE, first)
    assert cache.find(KEY) is None


def test_what_was_asked_for_while_nobody_told_of_changes_is_never_kept(cache: AccessTokenCache, clock: Clock) -> None:
    clock.store_time = None
    with cache.reading(KEY) as reading:
        clock.store_time = 100.0
        cache.keep(KEY, LIVE, reading)
    assert cache.find(KEY) is None


def test_while_nobody_tells_of_changes_nothing_is_found(cache: AccessTokenCache, clock: Clock) -> None:
    put(cache)
    clock.store_time = None
    assert cache.find(KEY) is None


def test_a_cache_that_follows_nothing_keeps_nothing() -> None:
    cache = AccessTokenCache(2)
    put(cache)
    assert cache.find(KEY) is None


def test_the_stores_time_ends_a_token_at_its_very_second(cache: AccessTokenCache, clock: Clock) -> None:
    put(cache)
    clock.store_time = 199.999
    assert cache.find(KEY) is LIVE
    clock.store_time = 200.0
    assert cache.find(KEY) is None
    clock.store_time = 100.0
    assert cache.find(KEY) is None, "it does not come back when the clock is set back"


def test_no_more_are_kept_than_were_allowed_and_the_oldest_go_first(cache: AccessTokenCache) -> None:
    put(cache, b"a")
    put(cache, b"b")
    assert cache.find(b"a") is LIVE
    put(cache, b"c")
    assert [cache.find(each) for each in (b"a", b"b", b"c")] == [LIVE, None, LIVE]
