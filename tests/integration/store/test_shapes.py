"""One server, a master with sentinels and a cluster serve alike, each with an ACL user."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from opentelemetry.trace import NoOpTracer
from redis.exceptions import ResponseError

from keystile_auth.app import create_metrics
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grant import Code, NewAccessToken
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.held_grants import HeldGrant, HeldGrants
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.sessions import Session, SessionStore
from keystile_auth.store.signing_keys import SigningKeyStore
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.signing_keys import SigningKeys
from keystile_common.settings import StoreSettings
from keystile_common.store import Store, StoreUnsuitableError, connect
from tests.auth_server import RESOURCE, RESOURCE_SECRET, AuthServer
from tests.security.concurrency import at_once
from tests.stores import Stores


@pytest_asyncio.fixture
async def store(stores: Stores) -> AsyncIterator[Store]:
    opened = connect(StoreSettings.model_validate(stores.settings), create_metrics().store, NoOpTracer())
    yield opened
    await opened.close()


def new_user(name: str | None = None) -> User:
    return User(f"user_{secrets.token_hex(8)}", name or secrets.token_hex(8), "hash", disabled=False, created=1)


def new_session(sub: str) -> Session:
    now = int(time.time())
    return Session(secrets.token_hex(16), sub, now, now, "::1", "browser")


def sessions_of(store: Store) -> SessionStore:
    return SessionStore(store, idle_seconds=600, lifetime_seconds=3600)


async def create(grants: GrantStore, sub: str, client_id: str = "client") -> str:
    grant_id = secrets.token_hex(8)
    code = Code(f"hash-{grant_id}", "challenge", "https://a.example/", redeemed=False)
    await grants.create(
        grant_id,
        sub=sub,
        client_id=client_id,
        resource=RESOURCE,
        scopes=("a",),
        code=code,
        code_seconds=60,
        index_seconds=600,
    )
    return grant_id


async def redeem(grants: GrantStore, grant_id: str, attempt: str = "one") -> str:
    access = NewAccessToken(f"access-{grant_id}", 60, RESOURCE, '{"active":true')
    return (await grants.redeem(grant_id, f"hash-{grant_id}", attempt, access, "a", "refresh", 600)).word


# Over HTTP


def test_a_code_is_exchanged_refreshed_introspected_and_revoked(server: AuthServer) -> None:
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
    client = server.register()
    first = server.tokens(client.id)
    second = server.refresh(client.id, first["refresh_token"]).json()
    third = server.refresh(client.id, second["refresh_token"]).json()
    assert server.refresh(client.id, first["refresh_token"]).json()["error"] == "invalid_grant"
    assert not server.is_active(third["access_token"])


def test_a_client_that_is_deleted_takes_its_grants_with_it(server: AuthServer) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    headers = {"authorization": f"Bearer {client.registration_token}"}
    assert server.http.delete(client.registration_uri, headers=headers).status_code == 204
    assert not server.is_active(tokens["access_token"])


def test_the_account_page_shows_the_grants_of_a_user(server: AuthServer) -> None:
    person = server.person()
    client = server.register(client_name="Weather bot")
    server.tokens(client.id, person)
    assert "Weather bot" in person.browser.get(f"{server.issuer}/account").text


def test_the_server_is_ready(server: AuthServer) -> None:
    assert server.http.get(f"{server.issuer}/readyz").status_code == 200


def test_twice_as_many_requests_as_connections_all_get_their_answer_and_open_no_more(
    server: AuthServer, stores: Stores
) -> None:
    client = server.register()
    token = server.tokens(client.id)["access_token"]
    for times in (64, 128):  # the first opens the connections
        answers = at_once(f"{server.issuer}/introspect", {"token": token}, times, auth=("mcp", RESOURCE_SECRET))
        assert {answer.status for answer in answers} == {200}
        assert all(answer.body["active"] for answer in answers)
    for each in stores.servers:
        with each.client as redis:
            opened = [line for line in redis.client_list() if line["user"] == "keystile"]
        assert len(opened) <= server.settings.store.max_connections


# Each repository


async def test_a_code_is_redeemed_once_and_a_replay_ends_the_grant(store: Store) -> None:
    grants = GrantStore(store)
    grant_id = await create(grants, "ann")
    assert await redeem(grants, grant_id) == "redeemed"
    assert await redeem(grants, grant_id) == "redeemed", "the same attempt again"
    assert await grants.find_access_token(grant_id, f"access-{grant_id}") is not None
    assert await redeem(grants, grant_id, "two") == "reused"
    assert await grants.find_access_token(grant_id, f"access-{grant_id}") is None


async def test_a_grant_is_found_with_its_client_and_user_as_they_are_now(store: Store) -> None:
    grants, clients, users, user = GrantStore(store), ClientStore(store), UserStore(store), new_user()
    held = HeldGrants(store, grants, clients, users)
    client_id = f"client-{secrets.token_hex(8)}"
    grant_id = await create(grants, user.sub, client_id)
    grant = await grants.find(grant_id)
    assert grant is not None
    # Their code may outlive them.
    assert await held.find(grant_id) == HeldGrant(grant, None, None)
    await clients.add(client_id, '{"name": "ü"}', seconds=None)
    await users.add(user)
    found = await held.find(grant_id)
    assert found is not None
    assert (found.client, found.user) == ('{"name": "ü"}', user)
    await users.set_disabled(user, disabled=True)
    await clients.replace(client_id, "{}")
    found = await held.find(grant_id)
    assert found is not None
    assert (found.client, found.user) == ("{}", user._replace(disabled=True))


async def test_a_grant_that_is_not_there_has_neither_client_nor_user(store: Store) -> None:
    held = HeldGrants(store, GrantStore(store), ClientStore(store), UserStore(store))
    assert await held.find(secrets.token_hex(8)) is None


async def test_the_times_of_a_grant_are_those_of_the_store(store: Store) -> None:
    grants = GrantStore(store)
    grant = await grants.find(await create(grants, "ann"))
    assert grant is not None
    assert abs(grant.created - time.time() * 1000) < 5000


async def test_the_grants_of_a_user_end_all_at_once_wherever_they_are_kept(store: Store) -> None:
    grants, sub = GrantStore(store), f"user_{secrets.token_hex(8)}"
    made = [await create(grants, sub) for _ in range(40)]
    for each in made:
        await redeem(grants, each)
    assert {grant.id for grant in await grants.of_user(sub)} == set(made)
    assert await grants.end_all_of_user(sub, "operator") == len(made)
    assert await grants.of_user(sub) == []


async def test_a_grant_is_listed_anew_once_in_a_tenth_of_its_life(store: Store) -> None:
    grants, sub, life = GrantStore(store), f"user_{secrets.token_hex(8)}", 86_400
    grant_id = await create(grants, sub)
    grant = await grants.find(grant_id)
    assert grant is not None
    window, listing = life // 10, f"ks:grants:user:{sub}"
    begin = int(time.time()) // window * window
    outcomes = []
    for used, now in ((begin, begin + window - 1), (begin + window - 1, begin + window), (begin, begin + 2 * window)):
        await store.redis.delete(listing)
        store_at = GrantStore(store, clock=lambda now=now: now)  # type: ignore[misc]
        await store_at.relist(grant._replace(used=used * 1000), life)
        outcomes.append(await store.redis.zscore(listing, grant_id) is not None)
    assert outcomes == [False, True, True]


async def test_lists_have_a_grant_for_a_tenth_of_its_life_longer_than_it_lives(store: Store) -> None:
    grants, sub, life = GrantStore(store), f"user_{secrets.token_hex(8)}", 86_400
    grant = await _known(grants, sub)
    await grants.relist(grant, life)
    listed = float(await store.redis.zscore(f"ks:grants:user:{sub}", grant.id)) / 1000
    assert abs(listed - (time.time() + 1.1 * life + 600)) < 30


async def test_a_token_of_a_client_alone_ends_with_it(store: Store) -> None:
    grants, client = GrantStore(store), secrets.token_hex(8)
    access = NewAccessToken("machine", 60, RESOURCE, '{"active":true')
    await grants.issue("g1", client, access, "a")
    await grants.relist(await _known(grants, "ann"), 600)
    assert await grants.end_all_of_client(client, "operator") == 1
    assert await grants.find_access_token("g1", "machine") is None


async def _known(grants: GrantStore, sub: str):  # type: ignore[no-untyped-def]
    return await grants.find(await create(grants, sub))


async def test_users_have_their_names_for_themselves(store: Store) -> None:
    users, user = UserStore(store), new_user()
    assert await users.add(user)
    assert await users.add(user), "the same again"
    assert not await users.add(new_user(user.username.upper()))
    assert await users.find_by_name(user.username) == user
    assert user in await users.all()
    await users.remember_consent(user.sub, "client", RESOURCE, frozenset({"a"}))
    assert await users.consented(user.sub, "client", RESOURCE) == {"a"}
    await users.delete(user)
    assert await users.find_by_name(user.username) is None
    assert await users.consented(user.sub, "client", RESOURCE) == frozenset()
    assert await users.add(new_user(user.username))


async def test_many_users_are_added_and_found_at_once_each_for_itself(store: Store) -> None:
    users = UserStore(store)
    known = new_user()
    assert await users.add(known)
    many = [new_user() for _ in range(1200)]
    many[700] = new_user(known.username.upper())
    assert await users.add_all(many) == [number != 700 for number in range(1200)]
    assert await users.add_all(many[:700]) == [True] * 700, "the same again"
    assert await users.add_all([]) == []
    expected: list[User | None] = [known if number == 700 else user for number, user in enumerate(many)]
    assert await users.find_all_by_name([user.username for user in many]) == expected
    assert await users.find_all_by_name([secrets.token_hex(8), known.username]) == [None, known]
    assert await users.find_all([many[700].sub, many[0].sub]) == [None, many[0]]
    stored = {user.sub for user in expected if user}
    assert stored <= {user.sub for user in await users.all()}
    assert stored <= {user.sub async for user in users.scan()}


async def test_a_refusal_of_one_of_many_commands_is_the_answer_of_all_and_tells_no_arguments(store: Store) -> None:
    await store.redis.set("ks:users-text", "text")
    batch = store.redis.batch()
    batch.set("ks:other-text", "text")
    batch.sadd("ks:users-text", "a secret")
    with pytest.raises(ResponseError, match="WRONGTYPE") as refused:
        await batch.execute()
    assert "secret" not in str(refused.value)
    assert await batch.execute() == []


async def test_sessions_are_listed_and_ended_by_their_user(store: Store) -> None:
    sessions, sub = sessions_of(store), f"user_{secrets.token_hex(8)}"
    made = [new_session(sub) for _ in range(6)]
    for each in made:
        await sessions.create(each)
    assert {each.id for each in await sessions.of_user(sub)} == {each.id for each in made}
    await sessions.delete(made[0])
    assert await sessions.find(made[0].id) is None
    assert await sessions.delete_all_of_user(sub) == 5
    assert await sessions.of_user(sub) == []


async def test_a_waiting_request_is_taken_once(store: Store) -> None:
    sessions, request_id = sessions_of(store), secrets.token_hex(8)
    await sessions.put_request(request_id, {"a": 1}, 60)
    assert await sessions.find_request(request_id) == {"a": 1}
    assert await sessions.take_request(request_id) == {"a": 1}
    assert await sessions.take_request(request_id) is None


async def test_clients_of_the_operator_are_listed_and_others_are_not(store: Store) -> None:
    clients, mine, other = ClientStore(store), secrets.token_hex(8), secrets.token_hex(8)
    assert await clients.add(mine, "{}", seconds=None)
    assert await clients.add(other, "{}", seconds=60)
    assert not await clients.add(other, '{"a":1}', seconds=None)
    listed = await clients.all_listed()
    assert mine in listed
    assert other not in listed
    assert await clients.replace(mine, '{"b":1}')
    assert await clients.find(mine) == '{"b":1}'
    assert await clients.delete(mine)
    assert mine not in await clients.all_listed()


async def test_events_are_counted_and_marks_are_made_once(store: Store) -> None:
    limits, who = LimitStore(store), secrets.token_hex(8)
    assert [(await limits.count("sign_in", who, 60))[0] for _ in range(3)] == [1, 2, 3]
    assert await limits.use_once("assertion", who, 60)
    assert not await limits.use_once("assertion", who, 60)


async def test_a_server_that_forgot_the_scripts_is_told_them_again(store: Store, stores: Stores) -> None:
    grants = GrantStore(store)
    await create(grants, "ann")
    for each in stores.servers:
        each.ask("SCRIPT", "FLUSH")
    made = await asyncio.gather(*(create(grants, "ann") for _ in range(20)))
    assert {await redeem(grants, each) for each in made} == {"redeemed"}


# At the start


async def test_a_store_of_which_one_server_may_evict_is_refused(store: Store, stores: Stores) -> None:
    await store.wait_until_reachable(5)
    await store.require_noeviction()
    one = stores.servers[0]
    one.ask("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(StoreUnsuitableError, match=r"maxmemory-policy is allkeys-lru.*; set it to noeviction"):
            await store.require_noeviction()
    finally:
        one.ask("CONFIG", "SET", "maxmemory-policy", "noeviction")


@pytest.mark.parametrize(
    ("setting", "value", "sentence"),
    [
        ("password", "another", r"check store\.username and store\.password"),
        ("sentinel_password", "another", r"check store\.sentinel_username and store\.sentinel_password"),
        ("sentinel_master", "another", r"no master named another: check store\.sentinel_master"),
    ],
)
async def test_a_login_or_master_that_is_wrong_is_said_at_once(
    stores: Stores, setting: str, value: str, sentence: str
) -> None:
    if setting not in stores.settings:
        return
    settings = StoreSettings.model_validate({**stores.settings, setting: value})
    store = connect(settings, create_metrics().store, NoOpTracer())
    started = time.monotonic()
    with pytest.raises(StoreUnsuitableError, match=sentence):
        await store.wait_until_reachable(30)
    assert time.monotonic() - started < 3
    await store.close()


async def test_signing_keys_are_rotated_once_by_whoever_comes_first(store: Store) -> None:
    pods = [SigningKeys(SigningKeyStore(store), MasterKey(b"k" * 32), 3600, time.time) for _ in range(5)]
    await asyncio.gather(*(pod.load() for pod in pods))
    rotations = [await pod.rotate(access_token_seconds=60, force=True) for pod in pods]
    assert sorted(each.word for each in rotations) == ["rotated", *["unpublished"] * 4]
