"""Signing keys: published before they sign, rotated once whoever asks, published until their tokens have expired."""

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer
from redis import Redis

from keystile_auth.app import create_metrics
from keystile_auth.store import embedded
from keystile_auth.store.signing_keys import Rotation, SigningKeyStore
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.signing_keys import PUBLISHED_SECONDS, REREAD_SECONDS, SigningKeys
from keystile_common.settings import StoreSettings
from keystile_common.store import connect
from tests.auth_server import AuthServer
from tests.clock import Clock
from tests.conftest import StartAuthServer
from tests.operator import Operator

DAY = 86400
MONTH = 30 * DAY


@pytest.fixture(scope="module")
def store_url() -> Iterator[str]:
    """A Valkey of this module's own: what is done to its keys concerns no other test."""
    with tempfile.TemporaryDirectory(prefix="ks-") as folder, embedded.run(Path(folder)) as url:
        yield url


@pytest.fixture
def redis(store_url: str) -> Iterator[Redis]:
    with Redis.from_url(store_url, decode_responses=True) as redis:
        redis.flushall()
        yield redis


@pytest.fixture
def operator(store_url: str, redis: Redis) -> Operator:
    del redis
    return Operator(store_url)


def stored(redis: Redis) -> list[dict[str, Any]]:
    return list(json.loads(str(redis.get("ks:signing-keys")))["keys"])


def age(redis: Redis, seconds: int) -> None:
    """Make all keys older."""
    keys = stored(redis)
    for key in keys:
        for name in {"created", "since", "until"} & set(key):
            key[name] -= seconds
    redis.set("ks:signing-keys", json.dumps({"keys": keys}))


def listed(operator: Operator) -> dict[str, list[str]]:
    """The ids by state, as the command lists them."""
    keys: dict[str, list[str]] = {"current": [], "next": [], "retired": []}
    for key in json.loads(operator.done("keys", "list", "-o", "json").output):
        keys[key["state"]].append(key["kid"])
    return keys


def published(server: AuthServer) -> list[str]:
    return [key["kid"] for key in server.http.get(f"{server.issuer}/jwks").json()["keys"]]


def test_the_first_command_makes_the_keys_and_says_so_in_the_audit_log(operator: Operator) -> None:
    ended = operator.done("keys", "list")
    assert [event["type"] for event in ended.events] == ["key.created"]
    headings, *rows = [line.split() for line in ended.output.splitlines()]
    assert headings == ["KID", "STATE", "CREATED", "NOT", "AFTER"]
    assert [row[1] for row in rows] == ["current", "next"]
    assert rows[0][3].endswith("Z")
    assert rows[1][3] == "-"


def test_the_list_has_nothing_private(operator: Operator, redis: Redis) -> None:
    rows = json.loads(operator.done("keys", "list", "-o", "json").output)
    assert [set(row) for row in rows] == [{"kid", "state", "created", "not_after"}] * 2
    assert stored(redis)[0]["private"] not in operator.done("keys", "list").output


def test_a_rotation_before_its_time_does_nothing(operator: Operator) -> None:
    before = listed(operator)
    ended = operator.done("keys", "rotate")
    assert ended.output.startswith("Nothing to do: the current key is due at ")
    assert ended.events == []
    assert listed(operator) == before


def test_a_key_that_is_old_enough_retires_and_the_next_one_signs(operator: Operator, redis: Redis) -> None:
    before = listed(operator)
    age(redis, MONTH)
    ended = operator.done("keys", "rotate")
    after = listed(operator)
    assert after["current"] == before["next"]
    assert after["retired"] == before["current"]
    assert after["next"][0] not in {*before["current"], *before["next"]}
    (event,) = ended.events
    assert (event["type"], event["outcome"], event["reason"]) == ("key.rotated", "success", "due")
    assert event["target"] == {"kid": after["current"][0], "retired": after["retired"][0]}
    assert "Nothing to do" in operator.done("keys", "rotate").output


def test_the_age_at_which_a_key_is_due_is_a_setting(operator: Operator, redis: Redis) -> None:
    operator.done("keys", "list")
    age(redis, 7200)
    assert "Nothing to do" in operator.done("keys", "rotate").output
    assert " signs now; " in operator.done("keys", "rotate", KEYSTILE_SIGNING_KEYS__ROTATE_AFTER_SECONDS="3600").output


def test_force_rotates_at_any_age_but_never_to_a_key_that_nobody_knows_yet(operator: Operator, redis: Redis) -> None:
    first = listed(operator)
    assert operator.done("keys", "rotate", "--force").events[0]["reason"] == "forced"
    second = listed(operator)
    assert second["current"] == first["next"]
    refused = operator.run("keys", "rotate", "--force")
    assert refused.code == 2
    assert "try again in " in refused.problem
    assert listed(operator) == second
    age(redis, PUBLISHED_SECONDS)
    assert operator.done("keys", "rotate", "--force").code == 0
    assert listed(operator)["current"] == second["next"]


def test_a_retired_key_is_dropped_once_its_last_token_has_expired(operator: Operator, redis: Redis) -> None:
    operator.done("keys", "rotate", "--force")
    (retired,) = [key for key in stored(redis) if key["state"] == "retired"]
    left = retired["until"] - time.time()
    assert REREAD_SECONDS + 900 < left <= REREAD_SECONDS + 900 + 30
    age(redis, int(left) + 1)
    assert listed(operator)["retired"] == []
    operator.done("keys", "rotate", "--force")
    assert len(stored(redis)) == 3


def test_another_master_key_rotates_nothing(operator: Operator, redis: Redis) -> None:
    operator.done("keys", "list")
    before = stored(redis)
    ended = operator.run("keys", "rotate", "--force", KEYSTILE_MASTER_KEY="A" * 43 + "=")
    assert ended.code == 2
    assert "master_key is not the one" in ended.problem
    assert stored(redis) == before


async def rotations(store_url: str, count: int, *, force: bool) -> list[Rotation]:
    """As many pods and people rotating at one moment, each over a connection of its own."""
    stores = [connect(StoreSettings(url=store_url), create_metrics().store, NoOpTracer()) for _ in range(count)]
    try:
        keys = [SigningKeys(SigningKeyStore(store), MasterKey(b"k" * 32), MONTH, time.time) for store in stores]
        await asyncio.gather(*(each.load() for each in keys))
        return await asyncio.gather(*(each.rotate(access_token_seconds=900, force=force) for each in keys))
    finally:
        await asyncio.gather(*(store.close() for store in stores))


@pytest.mark.parametrize("force", [True, False])
def test_of_many_who_rotate_at_once_one_does(operator: Operator, redis: Redis, store_url: str, force: bool) -> None:
    before = listed(operator)
    age(redis, MONTH)
    words = sorted(each.word for each in asyncio.run(rotations(store_url, 20, force=force)))
    assert words == sorted(["rotated", *["unpublished" if force else "early"] * 19])
    assert listed(operator)["current"] == before["next"]


def test_a_rotation_whose_answer_was_lost_says_the_same_when_it_is_sent_again(
    operator: Operator, redis: Redis, store_url: str
) -> None:
    before = listed(operator)

    async def twice() -> list[Rotation]:
        store = connect(StoreSettings(url=store_url), create_metrics().store, NoOpTracer())
        keys, seconds = SigningKeyStore(store), {"published_seconds": 900, "retired_seconds": 900}
        try:
            candidate = json.dumps({"kid": "candidate", "private": "x"})
            return [await keys.rotate(candidate, force=True, rotate_after=MONTH, **seconds) for _ in range(2)]
        finally:
            await store.close()

    first, again = asyncio.run(twice())
    assert first == again == Rotation("rotated", before["next"][0], before["current"][0])
    assert len(stored(redis)) == 3


def test_there_is_nothing_to_rotate_in_an_empty_store(redis: Redis, store_url: str) -> None:
    async def rotate() -> Rotation:
        store = connect(StoreSettings(url=store_url), create_metrics().store, NoOpTracer())
        keys = SigningKeys(SigningKeyStore(store), MasterKey(b"k" * 32), MONTH, time.time)
        try:
            return await keys.rotate(access_token_seconds=900, force=True)
        finally:
            await store.close()

    assert asyncio.run(rotate()).word == "absent"
    assert redis.get("ks:signing-keys") is None


def test_pods_that_start_at_once_make_one_set_of_keys(redis: Redis, start_auth_server: StartAuthServer) -> None:
    del redis
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: start_auth_server(), range(4)))
    assert len({tuple(published(server)) for server in servers}) == 1
    assert sum(len(server.events("key.created")) for server in servers) == 1


def test_a_pod_notices_a_rotation_without_a_restart(
    operator: Operator, redis: Redis, start_auth_server: StartAuthServer
) -> None:
    del redis
    clock = Clock()
    server = start_auth_server(clock=clock)
    before = published(server)
    operator.done("keys", "rotate", "--force")
    assert published(server) == before
    clock.ahead = REREAD_SECONDS
    assert len(published(server)) == 3
    assert published(server)[0] == before[1]


def test_keys_are_published_while_the_store_is_away(redis: Redis, start_auth_server: StartAuthServer) -> None:
    clock = Clock()
    server = start_auth_server(clock=clock)
    before = published(server)
    clock.ahead = REREAD_SECONDS
    redis.client_pause(1500)
    assert published(server) == before


def test_keys_that_are_gone_from_the_store_are_made_anew(redis: Redis, start_auth_server: StartAuthServer) -> None:
    clock = Clock()
    server = start_auth_server(clock=clock)
    before = published(server)
    redis.delete("ks:signing-keys")
    clock.ahead = REREAD_SECONDS
    assert not set(published(server)) & set(before)
    assert [key["kid"] for key in stored(redis)] == published(server)


def test_keys_of_another_master_key_are_not_taken_over(redis: Redis, start_auth_server: StartAuthServer) -> None:
    clock = Clock()
    server = start_auth_server(clock=clock)
    before = published(server)
    redis.delete("ks:signing-keys")
    start_auth_server(master_key="A" * 43 + "=")
    clock.ahead = REREAD_SECONDS
    assert published(server) == before


def test_metrics_say_when_the_current_key_is_due_and_when_the_retired_one_goes(
    operator: Operator, redis: Redis, start_auth_server: StartAuthServer
) -> None:
    clock = Clock()
    server = start_auth_server(clock=clock)

    def not_after(state: str) -> float | None:
        name = "keystile_signing_key_not_after_timestamp_seconds"
        return server.metrics.registry.get_sample_value(name, {"state": state})

    assert not_after("current") == stored(redis)[0]["since"] + MONTH
    assert not_after("retired") is None
    operator.done("keys", "rotate", "--force")
    clock.ahead = REREAD_SECONDS
    published(server)
    assert not_after("retired") == stored(redis)[2]["until"]
    assert not_after("next") is None
