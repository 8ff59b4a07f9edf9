"""In a cluster each node confirms what is written to its own slots."""

import secrets
from collections.abc import AsyncIterator, Iterator
from itertools import count
from typing import Any

import pytest
import pytest_asyncio
from opentelemetry.trace import NoOpTracer
from redis.crc import key_slot

from keystile_auth.app import create_metrics
from keystile_auth.store.grant import Code, NewAccessToken
from keystile_auth.store.grants import GrantStore
from keystile_common.settings import StoreSettings
from keystile_common.store import Store, StoreUnavailableError, StoreUndurableError, StoreUnsuitableError, connect
from tests.auth_server import RESOURCE, running_auth_server
from tests.integration.store.conftest import site
from tests.stores import SHAPES, Server, Site, Stores, begin_move, end_move, eventually, is_linked


@pytest.fixture(scope="module")
def syncing() -> Iterator[Stores]:
    """A cluster whose user may see how it keeps what it is told."""
    with site() as here, SHAPES["cluster"](here) as running:
        for each in running.servers:
            each.ask("ACL", "SETUSER", "keystile", "+config|get")
        yield running


def open_store(stores: Stores, durability: Any) -> Store:
    return connect(StoreSettings.model_validate(stores.settings), create_metrics().store, NoOpTracer(), durability)


@pytest_asyncio.fixture
async def store(syncing: Stores) -> AsyncIterator[Store]:
    opened = open_store(syncing, "fsync")
    yield opened
    await opened.close()


def grant_on(stores: Stores, server: Server) -> str:
    """A new grant's id, whose slot that server has."""
    names = (f"{secrets.token_hex(4)}-{number}" for number in count())
    return next(name for name in names if stores.owner(f"ks:{{{name}}}") is server)


async def create(grants: GrantStore, grant_id: str) -> None:
    code = Code(f"hash-{grant_id}", "challenge", "https://a.example/", redeemed=False)
    await grants.create(
        grant_id,
        sub="ann",
        client_id="client",
        resource=RESOURCE,
        scopes=("a",),
        code=code,
        code_seconds=60,
        index_seconds=600,
    )


async def redeem(grants: GrantStore, grant_id: str, attempt: str = "one") -> str:
    access = NewAccessToken(f"access-{grant_id}-{attempt}", 60, RESOURCE, '{"active":true')
    return (await grants.redeem(grant_id, f"hash-{grant_id}", attempt, access, "a", "refresh", 600)).word


def test_a_code_is_redeemed_refreshed_and_revoked_on_synced_nodes(syncing: Stores) -> None:
    settings = {**syncing.settings, "durability": "fsync"}
    with running_auth_server("", store=settings) as server:
        client = server.register()
        for _ in range(3):
            tokens = server.tokens(client.id)
            later = server.refresh(client.id, tokens["refresh_token"]).json()
            data = {"token": later["refresh_token"], "client_id": client.id}
            assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
            assert not server.is_active(later["access_token"])


async def test_a_node_that_does_not_sync_is_refused_by_its_address(syncing: Stores, store: Store) -> None:
    node = syncing.servers[2]
    await store.require_durability()
    node.ask("CONFIG", "SET", "appendfsync", "everysec")
    try:
        with pytest.raises(StoreUnsuitableError, match=rf"set it to always \(on {node.address}\)"):
            await store.require_durability()
        grants, theirs = GrantStore(store), grant_on(syncing, node)
        await create(grants, theirs)
        with pytest.raises(StoreUndurableError):
            await redeem(grants, theirs)
        others = grant_on(syncing, syncing.servers[0])
        await create(grants, others)
        assert await redeem(grants, others) == "redeemed"
    finally:
        node.ask("CONFIG", "SET", "appendfsync", "always")
    assert await redeem(grants, theirs, "two") == "redeemed"
    assert await grants.answer_code(theirs, "two")
    assert await redeem(grants, theirs, "three") == "reused"


async def test_two_requests_with_one_code_before_either_is_answered_leave_one_set_of_tokens(
    syncing: Stores, store: Store
) -> None:
    grants, grant_id = GrantStore(store), grant_on(syncing, syncing.servers[0])
    await create(grants, grant_id)
    assert await redeem(grants, grant_id, "one") == "redeemed"
    assert await redeem(grants, grant_id, "two") == "redeemed"
    with pytest.raises(StoreUnavailableError, match="superseded"):
        await grants.answer_code(grant_id, "one")
    assert await grants.answer_code(grant_id, "two")
    assert await grants.find_access_token(grant_id, f"access-{grant_id}-one") is None
    assert await grants.find_access_token(grant_id, f"access-{grant_id}-two") is not None
    assert await redeem(grants, grant_id, "one") == "reused"


async def test_tokens_of_a_grant_that_ended_before_they_were_given_out_are_not(syncing: Stores, store: Store) -> None:
    grants, grant_id = GrantStore(store), grant_on(syncing, syncing.servers[0])
    await create(grants, grant_id)
    assert await redeem(grants, grant_id) == "redeemed"
    assert await grants.end(grant_id, "user")
    assert not await grants.answer_code(grant_id, "one")


async def test_a_grant_whose_slot_is_moving_or_has_moved_is_confirmed_where_it_is(
    syncing: Stores, store: Store
) -> None:
    source, target = syncing.servers[:2]
    grants, grant_id = GrantStore(store), grant_on(syncing, source)
    slot = key_slot(f"ks:{{{grant_id}}}".encode())
    await create(grants, grant_id)
    begin_move(slot, source, target)
    source.ask("MIGRATE", "127.0.0.1", target.port, f"ks:{{{grant_id}}}", 0, 5000)
    assert await redeem(grants, grant_id) == "redeemed"  # by way of ASK
    end_move(slot, source, target, syncing)
    assert await grants.end(grant_id, "user")  # by way of MOVED
    begin_move(slot, target, source)
    end_move(slot, target, source, syncing)
    assert not await grants.end(grant_id, "user")


async def test_only_what_a_nodes_replica_has_is_promised(syncing: Stores) -> None:
    node, other = syncing.servers[:2]
    store = open_store(syncing, "replicated")
    grants = GrantStore(store)
    first, second = grant_on(syncing, node), grant_on(syncing, other)
    replica = Server(Site(node.site.folder), "replica", [*node.options])
    replica.start()
    try:
        replica.ask("CLUSTER", "MEET", "127.0.0.1", node.port)
        eventually(lambda: replica.ask("CLUSTER", "REPLICATE", node.ask("CLUSTER", "MYID")) in {True, "OK"}, "unknown")
        eventually(lambda: is_linked(replica), "the replica does not follow")
        await create(grants, first)
        await create(grants, second)
        assert await redeem(grants, first) == "redeemed"
        with pytest.raises(StoreUndurableError, match="no replica has acknowledged it"):
            await redeem(grants, second)
        with replica.paused(), pytest.raises(StoreUndurableError):
            await grants.end(first, "user")
        assert not await grants.end(first, "user")
    finally:
        await store.close()
        replica.stop()
