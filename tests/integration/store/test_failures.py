"""A master that fails over, a node that is away: 503 within two seconds or the right answer, and nothing else."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from redis.exceptions import MovedError

from tests.auth_server import RESOURCE_SECRET, AuthServer, running_auth_server
from tests.integration.store.conftest import site
from tests.security.concurrency import at_once
from tests.stores import BUSY_SECONDS, MASTER, SHAPES, Server, Stores, eventually, pairs


@dataclass
class Traffic:
    """What requests that ran meanwhile came to: status and seconds each."""

    answers: list[tuple[int, float]] = field(default_factory=list)

    @property
    def statuses(self) -> set[int]:
        return {status for status, _ in self.answers}

    @property
    def slowest(self) -> float:
        return max(seconds for _, seconds in self.answers)


@contextmanager
def traffic(server: AuthServer, tokens: list[str], clients: int = 4) -> Iterator[Traffic]:
    """Introspections and registrations, one after the other from each of some clients, while the block runs."""
    found, is_over = Traffic(), threading.Event()

    def work(number: int) -> None:
        with httpx2.Client(timeout=10) as http:
            for token in iter(lambda: tokens[len(found.answers) % len(tokens)], None):
                started = time.monotonic()
                if number % 2:
                    answer = http.post(f"{server.issuer}/register", json={"redirect_uris": ["https://a.example/"]})
                else:
                    auth = ("mcp", RESOURCE_SECRET)
                    answer = http.post(f"{server.issuer}/introspect", data={"token": token}, auth=auth)
                    assert answer.status_code != 200 or answer.json()["active"], "a live token was called dead"
                found.answers.append((answer.status_code, time.monotonic() - started))
                if is_over.is_set():
                    return

    threads = [threading.Thread(target=work, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield found
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def is_well(server: AuthServer) -> Callable[[], bool]:
    return lambda: (
        server.http.post(f"{server.issuer}/register", json={"redirect_uris": ["https://a.example/"]}).status_code == 201
    )


# Sentinels


@pytest.fixture(scope="module")
def guarded() -> Iterator[Stores]:
    with site() as here, SHAPES["sentinel"](here) as running:
        yield running


@pytest.fixture(scope="module")
def with_sentinels(guarded: Stores) -> Iterator[AuthServer]:
    with running_auth_server("", store=guarded.settings) as running:
        yield running


def replica_of(stores: Stores) -> Server:
    master = stores.master()
    return next(server for server in stores.servers if server is not master)


def follows(stores: Stores) -> bool:
    with replica_of(stores).client as replica, stores.master().client as master:
        state, offset = replica.info("replication"), master.info("replication")["master_repl_offset"]
    return bool(state.get("master_link_status") == "up" and state["slave_repl_offset"] >= offset)


def has_found_replica(stores: Stores) -> bool:
    """A sentinel promotes only what it knows as a replica in good health."""
    found = [each.ask("SENTINEL", "REPLICAS", MASTER) for each in stores.sentinels]
    return all(len(each) == 1 and pairs(each[0])["flags"] == "slave" for each in found)


def follow(stores: Stores, server: Server) -> None:
    """What the sentinels would tell it some seconds later."""
    server.ask("REPLICAOF", "127.0.0.1", stores.master().port)


def settled(stores: Stores) -> None:
    eventually(lambda: follows(stores) and has_found_replica(stores), "the replica does not follow", 30)


def test_when_the_master_is_killed_requests_get_503_until_the_replica_serves_with_every_grant(
    with_sentinels: AuthServer, guarded: Stores
) -> None:
    server = with_sentinels
    client, person = server.register(), server.person()
    tokens = [server.tokens(client.id, person) for _ in range(5)]
    settled(guarded)
    killed = guarded.master()
    with traffic(server, [each["access_token"] for each in tokens]) as seen:
        killed.kill()
        time.sleep(0.3)
        eventually(lambda: guarded.master() is not killed, "nobody was promoted", 30)
        eventually(is_well(server), "the server did not find the new master")
    assert seen.statuses == {200, 201, 503}
    assert seen.slowest < 2 + BUSY_SECONDS
    for each in tokens:
        assert server.is_active(each["access_token"])
        assert server.refresh(client.id, each["refresh_token"]).status_code == 200
    killed.start()
    follow(guarded, killed)


def test_a_master_that_comes_back_demoted_is_left_for_the_new_one(with_sentinels: AuthServer, guarded: Stores) -> None:
    server = with_sentinels
    tokens = [server.tokens(server.register().id)["access_token"]]
    settled(guarded)
    stood_still = guarded.master()
    with traffic(server, tokens) as seen:
        with stood_still.paused():
            eventually(lambda: guarded.master() is not stood_still, "nobody was promoted", 30)
            eventually(is_well(server), "the server did not find the new master")
        # For some seconds it believes that it still is the master.
        written = server.register().id
        assert stood_still.ask("EXISTS", f"ks:client:{written}") == 0
        assert guarded.master().ask("EXISTS", f"ks:client:{written}") == 1
        follow(guarded, stood_still)
        time.sleep(0.5)
    assert seen.statuses == {200, 201, 503}
    assert seen.slowest < 2 + BUSY_SECONDS


def test_a_failover_on_purpose_costs_503_at_most(with_sentinels: AuthServer, guarded: Stores) -> None:
    server = with_sentinels
    tokens = [server.tokens(server.register().id)["access_token"]]
    settled(guarded)
    before = guarded.master()
    with traffic(server, tokens) as seen:
        guarded.sentinels[0].ask("SENTINEL", "FAILOVER", MASTER)
        eventually(lambda: guarded.master() is not before, "nobody was promoted", 30)
        eventually(is_well(server), "the server did not find the new master")
        time.sleep(1)
    assert seen.statuses <= {200, 201, 503}
    assert seen.slowest < 2 + BUSY_SECONDS


def test_one_sentinel_of_three_is_not_missed(guarded: Stores) -> None:
    with guarded.sentinels[0].paused(), running_auth_server("", store=guarded.settings) as server:
        tokens = [server.tokens(server.register().id)["access_token"]]
        with traffic(server, tokens) as seen:
            time.sleep(1)
    assert seen.statuses == {200, 201}
    assert seen.slowest < 1 + BUSY_SECONDS


def test_a_master_that_was_demoted_by_hand_is_said_as_a_lost_connection() -> None:
    with ExitStack() as stack:
        alone = stack.enter_context(SHAPES["standalone"](stack.enter_context(site())))
        server = stack.enter_context(running_auth_server("", store=alone.settings))
        alone.servers[0].ask("REPLICAOF", "127.0.0.1", 1)
        answer = server.http.post(f"{server.issuer}/register", json={"redirect_uris": ["https://a.example/"]})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        counted = {"operation": "limit.count", "kind": "connection"}
        assert server.metrics.registry.get_sample_value("keystile_store_errors_total", counted)
        alone.servers[0].ask("REPLICAOF", "NO", "ONE")
        assert is_well(server)()


# A cluster


@pytest.fixture(scope="module")
def on_cluster(cluster: Stores) -> Iterator[AuthServer]:
    with running_auth_server("", store=cluster.settings) as running:
        yield running


def grant_key(token: str) -> str:
    return f"ks:{{{token.removeprefix('kst_at_')[:16]}}}"


def tokens_by_node(server: AuthServer, cluster: Stores) -> dict[int, str]:
    """An access token of a grant on each node, by the node's port."""
    client, person = server.register(), server.person()
    found: dict[int, str] = {}
    while len(found) < len(cluster.servers):
        token = server.tokens(client.id, person)["access_token"]
        key = grant_key(token)
        owner = cluster.owner(key)
        assert owner.ask("EXISTS", key) == 1
        found[owner.port] = token
    return found


def introspect(server: AuthServer, token: str) -> tuple[int, float]:
    started = time.monotonic()
    answer = server.http.post(f"{server.issuer}/introspect", data={"token": token}, auth=("mcp", RESOURCE_SECRET))
    assert answer.status_code != 200 or answer.json()["active"], "a live token was called dead"
    return answer.status_code, time.monotonic() - started


def test_a_node_that_is_killed_takes_its_own_slots_with_it_and_brings_them_back(
    on_cluster: AuthServer, cluster: Stores
) -> None:
    server = on_cluster
    tokens = tokens_by_node(server, cluster)
    gone = cluster.servers[1]
    gone.kill()
    until = time.monotonic() + 4  # beyond the time after which the others call it failed
    while time.monotonic() < until:
        for port, token in tokens.items():
            status, seconds = introspect(server, token)
            assert status == (503 if port == gone.port else 200)
            assert seconds < 2 + BUSY_SECONDS
        assert server.http.get(f"{server.issuer}/readyz").status_code == 200
    gone.start()
    eventually(lambda: introspect(server, tokens[gone.port])[0] == 200, "its slots did not come back")


def test_a_node_that_stands_still_keeps_nobody_waiting_but_its_own(on_cluster: AuthServer, cluster: Stores) -> None:
    server = on_cluster
    tokens = tokens_by_node(server, cluster)
    still = cluster.servers[2]
    others: list[tuple[int, float]] = []
    with still.paused():
        answers: list[Any] = []
        burst = threading.Thread(
            target=lambda: answers.extend(
                at_once(
                    f"{server.issuer}/introspect", {"token": tokens[still.port]}, 128, auth=("mcp", RESOURCE_SECRET)
                )
            )
        )
        burst.start()
        time.sleep(0.3)
        while burst.is_alive():
            others += [introspect(server, token) for port, token in tokens.items() if port != still.port]
            time.sleep(0.1)
        burst.join()
    assert {answer.status for answer in answers} == {503}
    waited = sorted(answer.seconds for answer in answers)
    assert waited[len(waited) // 2] < 2
    assert waited[-1] < 2 + BUSY_SECONDS
    assert {status for status, _ in others} == {200}
    assert max(seconds for _, seconds in others) < 1 + BUSY_SECONDS
    eventually(lambda: introspect(server, tokens[still.port])[0] == 200, "its slots did not come back")


def test_a_grant_is_answered_for_while_its_slot_moves_to_another_node_and_afterwards(
    on_cluster: AuthServer, cluster: Stores
) -> None:
    server = on_cluster
    tokens = tokens_by_node(server, cluster)
    source, target = cluster.servers[:2]
    token = tokens[source.port]
    slot = source.ask("CLUSTER", "KEYSLOT", grant_key(token))
    ids = {each.port: each.ask("CLUSTER", "MYID") for each in cluster.servers}
    target.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source.port])
    source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target.port])
    assert introspect(server, token)[0] == 200
    keys = source.ask("CLUSTER", "GETKEYSINSLOT", slot, 1000)
    source.ask("MIGRATE", "127.0.0.1", target.port, "", 0, 5000, "KEYS", *keys)
    with traffic(server, [token]) as seen:
        time.sleep(0.5)
        for each in (target, source, cluster.servers[2]):
            each.ask("CLUSTER", "SETSLOT", slot, "NODE", ids[target.port])
        time.sleep(0.5)
    assert seen.statuses == {200, 201}
    assert introspect(server, token)[0] == 200
    assert target.ask("EXISTS", grant_key(token)) == 1
    with pytest.raises(MovedError):
        source.ask("GET", grant_key(token))
