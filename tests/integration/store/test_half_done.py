"""What is written in part, when a node of the cluster goes away in the middle, does no harm and can be done again."""

import secrets
from collections.abc import AsyncIterator, Iterator
from itertools import count

import pytest
import pytest_asyncio
from opentelemetry.trace import NoOpTracer
from redis.crc import key_slot

from keystile_auth.app import create_metrics
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grant import Code
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.sessions import Session, SessionStore
from keystile_auth.store.users import User, UserStore
from keystile_common.settings import StoreSettings
from keystile_common.store import Store, StoreUnavailableError, connect
from tests.auth_server import RESOURCE
from tests.stores import Server, Stores, begin_move, end_move, eventually, is_well

NOW = 2_000_000_000


@pytest_asyncio.fixture
async def store(cluster: Stores) -> AsyncIterator[Store]:
    settings = StoreSettings.model_validate({**cluster.settings, "command_timeout_seconds": 0.3})
    opened = connect(settings, create_metrics().store, NoOpTracer())
    await opened.ping()
    yield opened
    await opened.close()


@pytest.fixture
def away(cluster: Stores) -> Iterator[Server]:
    """A node that has none of the lists of all, which the test may stop; all is well again behind it."""
    taken = {cluster.owner("ks:users"), cluster.owner("ks:clients")}
    yield next(server for server in cluster.servers if server not in taken)
    back(cluster)


def back(cluster: Stores) -> None:
    """Wait until every node serves its slots."""
    eventually(lambda: all(is_well(each, cluster.servers) for each in cluster.servers), "not well again")


def name_on(cluster: Stores, server: Server, key: str, *, other: bool = False) -> str:
    """A new name whose key, `key` with the name in it, that server has; or with `other` another one."""
    names = (f"{secrets.token_hex(4)}-{number}" for number in count())
    return next(name for name in names if (cluster.owner(key.format(name)) is server) != other)


def a_user(sub: str, username: str) -> User:
    return User(sub, username, "hash", disabled=False, created=1)


def a_session(session_id: str, sub: str) -> Session:
    return Session(session_id, sub, NOW, NOW, "::1", "browser")


def sessions_of(store: Store) -> SessionStore:
    return SessionStore(store, idle_seconds=600, lifetime_seconds=3600)


async def create(grants: GrantStore, grant_id: str, sub: str) -> None:
    code = Code("hash", "challenge", "https://a.example/", redeemed=False)
    await grants.create(
        grant_id,
        sub=sub,
        client_id="client",
        resource=RESOURCE,
        scopes=("a",),
        code=code,
        code_seconds=60,
        index_seconds=600,
    )


async def test_a_user_whose_name_was_not_written_is_nobody_and_can_be_added_again(
    cluster: Stores, store: Store, away: Server
) -> None:
    users = UserStore(store)
    user = a_user(name_on(cluster, away, "ks:user:{}", other=True), name_on(cluster, away, "ks:username:{}"))
    with away.killed(), pytest.raises(StoreUnavailableError):
        await users.add(user)
    back(cluster)
    assert await users.find_by_name(user.username) is None
    assert user.sub not in {each.sub for each in await users.all()}
    again = a_user(secrets.token_hex(8), user.username)
    assert await users.add(again)
    assert [each for each in await users.all() if each.username == user.username] == [again]


async def test_many_users_of_whom_some_were_not_written_can_be_added_again(
    cluster: Stores, store: Store, away: Server
) -> None:
    users = UserStore(store)
    many = [a_user(secrets.token_hex(8), secrets.token_hex(8)) for _ in range(60)]
    with away.paused(), pytest.raises(StoreUnavailableError):
        await users.add_all(many)
    back(cluster)
    assert await users.find_all_by_name([user.username for user in many]) == [None] * 60
    assert await users.add_all(many) == [True] * 60
    assert await users.find_all_by_name([user.username for user in many]) == many


async def test_many_commands_find_keys_whose_slot_is_moving(cluster: Stores, store: Store) -> None:
    users = UserStore(store)
    source, target = cluster.servers[:2]
    many = [a_user(name_on(cluster, source, "ks:user:{}"), secrets.token_hex(8)) for _ in range(6)]
    subs = [user.sub for user in many]
    slots = {key_slot(f"ks:user:{sub}".encode()) for sub in subs}
    await users.add_all(many[:3])
    for slot in slots:
        begin_move(slot, source, target)
    # Those that are not at the source are asked for at the target (ASK), and are written there.
    assert await users.find_all(subs) == [*many[:3], None, None, None]
    assert await users.add_all(many) == [True] * 6
    assert await users.find_all(subs) == many
    assert target.ask("CLUSTER", "COUNTKEYSINSLOT", key_slot(f"ks:user:{subs[5]}".encode())) == 1
    for slot in slots:
        end_move(slot, source, target, cluster)
    # They have moved (MOVED), and the client learns it; and back, for the tests that follow.
    assert await users.find_all(subs) == many
    for slot in slots:
        begin_move(slot, target, source)
        end_move(slot, target, source, cluster)
    assert await users.find_all(subs) == many


async def test_a_user_whose_record_was_not_deleted_is_found_and_can_be_deleted_again(
    cluster: Stores, store: Store, away: Server
) -> None:
    users = UserStore(store)
    user = a_user(name_on(cluster, away, "ks:user:{}"), name_on(cluster, away, "ks:username:{}", other=True))
    assert await users.add(user)
    with away.killed(), pytest.raises(StoreUnavailableError):
        await users.delete(user)
    back(cluster)
    assert await users.find_by_name(user.username) == user
    await users.delete(user)
    assert await users.find(user.sub) is None


async def test_a_deleted_user_whose_name_stayed_is_nobody_and_the_name_is_free(
    cluster: Stores, store: Store, away: Server
) -> None:
    users = UserStore(store)
    sub = name_on(cluster, away, "ks:user:{}", other=True)
    while cluster.owner(f"ks:consents:{sub}") is away:
        sub = name_on(cluster, away, "ks:user:{}", other=True)
    user = a_user(sub, name_on(cluster, away, "ks:username:{}"))
    assert await users.add(user)
    with away.killed(), pytest.raises(StoreUnavailableError):
        await users.delete(user)
    back(cluster)
    assert await users.find(sub) is None
    assert await users.find_by_name(user.username) is None
    again = a_user(secrets.token_hex(8), user.username)
    assert await users.add(again)
    assert await users.find_by_name(user.username) == again


async def test_a_session_that_was_only_listed_is_none(cluster: Stores, store: Store, away: Server) -> None:
    sessions = sessions_of(store)
    sub = name_on(cluster, away, "ks:sessions:{}", other=True)
    session = a_session(name_on(cluster, away, "ks:session:{}"), sub)
    with away.killed(), pytest.raises(StoreUnavailableError):
        await sessions.create(session)
    back(cluster)
    assert await sessions.find(session.id) is None
    assert await sessions.of_user(sub) == []


async def test_a_session_that_no_list_could_take_does_not_begin(cluster: Stores, store: Store, away: Server) -> None:
    sessions = sessions_of(store)
    sub = name_on(cluster, away, "ks:sessions:{}")
    session = a_session(name_on(cluster, away, "ks:session:{}", other=True), sub)
    with away.paused(), pytest.raises(StoreUnavailableError):
        await sessions.create(session)
    assert await sessions.find(session.id) is None


async def test_a_session_is_over_though_the_list_still_has_it(cluster: Stores, store: Store, away: Server) -> None:
    sessions = sessions_of(store)
    sub = name_on(cluster, away, "ks:sessions:{}")
    session = a_session(name_on(cluster, away, "ks:session:{}", other=True), sub)
    await sessions.create(session)
    with away.killed(), pytest.raises(StoreUnavailableError):
        await sessions.delete(session)
    back(cluster)
    assert await sessions.find(session.id) is None
    assert await sessions.of_user(sub) == []


async def test_a_client_that_was_only_listed_is_none_and_can_be_added_again(
    cluster: Stores, store: Store, away: Server
) -> None:
    clients, client_id = ClientStore(store), name_on(cluster, away, "ks:client:{}")
    with away.killed(), pytest.raises(StoreUnavailableError):
        await clients.add(client_id, "{}", seconds=None)
    back(cluster)
    assert await clients.find(client_id) is None
    assert await clients.add(client_id, "{}", seconds=None)
    assert client_id in await clients.all_listed()


async def test_a_client_whose_record_was_not_deleted_is_still_listed_and_can_be_deleted_again(
    cluster: Stores, store: Store, away: Server
) -> None:
    clients, client_id = ClientStore(store), name_on(cluster, away, "ks:client:{}")
    assert await clients.add(client_id, "{}", seconds=None)
    with away.killed(), pytest.raises(StoreUnavailableError):
        await clients.delete(client_id)
    back(cluster)
    assert client_id in await clients.all_listed()
    assert await clients.delete(client_id)
    assert client_id not in await clients.all_listed()


async def test_a_grant_that_no_list_could_take_does_not_begin(cluster: Stores, store: Store, away: Server) -> None:
    grants = GrantStore(store)
    sub = name_on(cluster, away, "ks:grants:user:{}")
    grant_id = name_on(cluster, away, "ks:{{{}}}", other=True)
    with away.paused(), pytest.raises(StoreUnavailableError):
        await create(grants, grant_id, sub)
    assert await grants.find(grant_id) is None


async def test_a_grant_that_was_only_listed_is_none(cluster: Stores, store: Store, away: Server) -> None:
    grants = GrantStore(store)
    sub = name_on(cluster, away, "ks:grants:user:{}", other=True)
    grant_id = name_on(cluster, away, "ks:{{{}}}")
    with away.killed(), pytest.raises(StoreUnavailableError):
        await create(grants, grant_id, sub)
    back(cluster)
    assert await grants.all_of_user(sub) == []
    assert await grants.end_all_of_user(sub, "operator") == 0


async def test_the_grants_that_can_be_ended_are_though_one_cannot(cluster: Stores, store: Store, away: Server) -> None:
    grants = GrantStore(store)
    sub = name_on(cluster, away, "ks:grants:user:{}", other=True)
    cut_off = name_on(cluster, away, "ks:{{{}}}")
    others = [name_on(cluster, away, "ks:{{{}}}", other=True) for _ in range(8)]
    for grant_id in (cut_off, *others):
        await create(grants, grant_id, sub)
    with away.killed():
        with pytest.raises(StoreUnavailableError):
            await grants.end_all_of_user(sub, "operator")
        found = [await grants.find(each) for each in others]
        assert all(grant is not None and grant.is_ended for grant in found)
    back(cluster)
    assert await grants.end_all_of_user(sub, "operator") == 1
