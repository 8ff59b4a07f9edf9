"""What is promised is where `store.durability` says before it is promised, and what is not promised is no reuse."""

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.trace import NoOpTracer

from keystile_auth.app import create_metrics
from keystile_common.settings import StoreSettings
from keystile_common.store import StoreUnsuitableError, connect
from tests.auth_server import RESOURCE_SECRET, AuthServer, Pkce, running_auth_server
from tests.integration.store.conftest import site
from tests.operator import Operator
from tests.person import form
from tests.security.concurrency import at_once
from tests.security.lossy_proxy import LossyProxy, lossy_proxy
from tests.stores import SHAPES, Server, Stores, eventually, is_linked, replicated, valkey


@pytest.fixture(scope="module")
def pair() -> Iterator[Stores]:
    """A master and its replica."""
    with site() as here, replicated(here) as running:
        yield running


@pytest.fixture(scope="module")
def server(pair: Stores) -> Iterator[AuthServer]:
    """A server that promises what a replica has, and gives a refresh token no grace."""
    store = {**pair.settings, "durability": "replicated"}
    with running_auth_server("", store=store, tokens={"refresh_grace_seconds": 0}) as running:
        yield running


@pytest.fixture
def replica(pair: Stores) -> Server:
    return pair.servers[1]


@contextmanager
def fsyncing(store: Server | str, **overrides: Any) -> Iterator[AuthServer]:
    url = store if isinstance(store, str) else store.url
    with running_auth_server("", store={"url": url, "durability": "fsync"}, **overrides) as running:
        yield running


def revoke(server: AuthServer, client_id: str, token: str) -> httpx2.Response:
    return server.http.post(f"{server.issuer}/revoke", data={"token": token, "client_id": client_id})


def is_refused(answer: httpx2.Response) -> None:
    assert answer.status_code == 503, answer.text
    assert answer.json()["error"] == "temporarily_unavailable"
    assert int(answer.headers["Retry-After"]) > 0
    assert answer.elapsed.total_seconds() < 2


def waits(server: AuthServer, outcome: str) -> float:
    name, labels = "keystile_store_durability_wait_seconds_count", {"outcome": outcome}
    return server.metrics.registry.get_sample_value(name, labels) or 0


# A replica that is away


def test_a_redemption_that_no_replica_has_is_refused_and_the_same_request_succeeds_later(
    server: AuthServer, replica: Server
) -> None:
    client, pkce = server.register(), Pkce()
    server.tokens(client.id)  # every script is known to the store
    code = server.code(client.id, pkce)
    before = waits(server, "refused")
    with replica.paused():
        for _ in range(2):
            is_refused(server.redeem(client.id, code, pkce))
    assert waits(server, "refused") == before + 2
    answer = server.redeem(client.id, code, pkce)
    assert answer.status_code == 200, answer.text
    assert server.is_active(answer.json()["access_token"])
    assert server.refresh(client.id, answer.json()["refresh_token"]).status_code == 200
    assert server.events("code.reuse_detected") == []
    assert waits(server, "acknowledged") > 0


def test_a_code_whose_tokens_were_given_out_after_a_refusal_is_still_used_once(
    server: AuthServer, replica: Server
) -> None:
    client, pkce = server.register(), Pkce()
    code = server.code(client.id, pkce)
    with replica.paused():
        is_refused(server.redeem(client.id, code, pkce))
    tokens = server.redeem(client.id, code, pkce).json()
    before = len(server.events("code.reuse_detected"))
    assert server.redeem(client.id, code, pkce).json()["error"] == "invalid_grant"
    assert len(server.events("code.reuse_detected")) == before + 1
    assert not server.is_active(tokens["access_token"])


def test_a_rotation_that_no_replica_has_is_refused_and_the_same_request_succeeds_later_without_any_grace(
    server: AuthServer, replica: Server
) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    with replica.paused():
        for _ in range(2):
            is_refused(server.refresh(client.id, tokens["refresh_token"]))
    answer = server.refresh(client.id, tokens["refresh_token"])
    assert answer.status_code == 200, answer.text
    assert server.is_active(answer.json()["access_token"])
    later = server.refresh(client.id, answer.json()["refresh_token"])
    assert later.status_code == 200, later.text
    assert server.events("refresh_token.reuse_detected") == []
    assert server.refresh(client.id, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert len(server.events("refresh_token.reuse_detected")) == 1


def test_of_parallel_requests_with_one_code_or_refresh_token_one_gets_tokens_without_a_grace(
    server: AuthServer,
) -> None:
    client, person = server.register(), server.person()
    for _ in range(10):
        pkce = Pkce()
        code = server.code(client.id, pkce, person)
        form = {"grant_type": "authorization_code", "client_id": client.id, "code": code}
        answers = at_once(f"{server.issuer}/token", {**form, "code_verifier": pkce.verifier}, 8)
        assert sum(answer.status == 200 for answer in answers) == 1
        assert {answer.status for answer in answers} <= {200, 400, 503}
        tokens = server.tokens(client.id, person)
        form = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": tokens["refresh_token"]}
        answers = at_once(f"{server.issuer}/token", form, 8)
        assert sum(answer.status == 200 for answer in answers) == 1
        assert {answer.status for answer in answers} <= {200, 400, 503}


def test_parallel_requests_with_one_refresh_token_all_get_its_one_successor_within_a_grace(pair: Stores) -> None:
    with running_auth_server("", store={**pair.settings, "durability": "replicated"}) as server:
        client, person = server.register(), server.person()
        for _ in range(5):
            tokens = server.tokens(client.id, person)
            form = {"grant_type": "refresh_token", "client_id": client.id, "refresh_token": tokens["refresh_token"]}
            answers = at_once(f"{server.issuer}/token", form, 8)
            assert {answer.status for answer in answers} == {200}
            (successor,) = {answer.body["refresh_token"] for answer in answers}
            assert server.refresh(client.id, successor).status_code == 200


@pytest.mark.parametrize("kind", ["refresh_token", "access_token"])
def test_a_revocation_that_no_replica_has_holds_at_once_and_is_refused_as_often_as_it_is_asked_for(
    server: AuthServer, replica: Server, kind: str
) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    before = len(server.events("token.revoked"))
    with replica.paused():
        is_refused(revoke(server, client.id, tokens[kind]))
        assert not server.is_active(tokens["access_token"])
        # It finds its work done, and nobody has the work but this one server.
        is_refused(revoke(server, client.id, tokens[kind]))
    assert revoke(server, client.id, tokens[kind]).status_code == 200
    assert len(server.events("token.revoked")) == before + 1


def test_reuse_that_is_found_while_no_replica_is_there_is_recorded_and_ends_the_grant(
    server: AuthServer, replica: Server
) -> None:
    client = server.register()
    first = server.tokens(client.id)
    second = server.refresh(client.id, first["refresh_token"]).json()
    before = len(server.events("refresh_token.reuse_detected"))
    with replica.paused():
        is_refused(server.refresh(client.id, first["refresh_token"]))
        assert not server.is_active(second["access_token"])
    assert len(server.events("refresh_token.reuse_detected")) == before + 1
    assert server.refresh(client.id, first["refresh_token"]).json()["error"] == "invalid_grant"
    assert len(server.events("refresh_token.reuse_detected")) == before + 1


def test_a_replayed_code_that_is_found_while_no_replica_is_there_is_recorded_and_ends_the_grant(
    server: AuthServer, replica: Server
) -> None:
    client, pkce = server.register(), Pkce()
    code = server.code(client.id, pkce)
    tokens = server.redeem(client.id, code, pkce).json()
    before = len(server.events("code.reuse_detected"))
    with replica.paused():
        is_refused(server.redeem(client.id, code, pkce))
    assert not server.is_active(tokens["access_token"])
    assert len(server.events("code.reuse_detected")) == before + 1


def test_a_connection_that_is_ended_while_no_replica_is_there_ends_and_can_be_ended_again(
    server: AuthServer, replica: Server
) -> None:
    client, person = server.register(), server.person()
    tokens = server.tokens(client.id, person)
    page = person.get(f"{server.issuer}/account")
    button = form(page, "/account/end-connection")
    before = len(server.events("grant.ended"))
    with replica.paused():
        for _ in range(2):
            assert person.submit(button).status_code == 503
        assert not server.is_active(tokens["access_token"])
    assert "Access has ended" in person.submit(button).text
    assert len(server.events("grant.ended")) == before + 1


def test_a_session_that_is_ended_while_no_replica_is_there_ends_and_can_be_ended_again(
    server: AuthServer, replica: Server
) -> None:
    here = server.person()
    there = server.person(here.username)
    there.sign_in(there.get(f"{server.issuer}/account"))
    page = here.sign_in(here.get(f"{server.issuer}/account"))
    button = form(page, "/account/end-session")
    with replica.paused():
        for _ in range(2):
            assert here.submit(button).status_code == 503
        assert "/login" in str(there.get(f"{server.issuer}/account").url)
    assert "That session has ended" in here.submit(button).text


def test_a_client_that_is_deleted_while_no_replica_is_there_loses_its_tokens_and_can_be_deleted_again(
    server: AuthServer, replica: Server
) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    headers = {"authorization": f"Bearer {client.registration_token}"}
    with replica.paused():
        is_refused(server.http.delete(client.registration_uri, headers=headers))
        assert not server.is_active(tokens["access_token"])
    assert server.http.delete(client.registration_uri, headers=headers).status_code == 204


def test_a_user_who_is_disabled_while_no_replica_is_there_loses_everything_and_the_operator_is_told_to_repeat_it(
    server: AuthServer, pair: Stores, replica: Server
) -> None:
    client, person = server.register(), server.person()
    tokens = server.tokens(client.id, person)
    settings = {**pair.settings, "durability": "replicated"}
    operator = Operator(pair.servers[0].url)
    names = {f"KEYSTILE_STORE__{name.upper()}": str(value) for name, value in settings.items()}
    with replica.paused():
        ended = operator.run("users", "disable", person.username, **names)
        assert (ended.code, "run the same command again" in ended.problem) == (2, True)
        assert "no replica has acknowledged it" in ended.problem
        assert not server.is_active(tokens["access_token"])
        assert "/login" in str(person.get(f"{server.issuer}/account").url)
    assert operator.run("users", "disable", person.username, **names).code == 0


def test_an_operator_is_not_told_that_a_client_is_gone_until_a_replica_knows(
    server: AuthServer, pair: Stores, replica: Server
) -> None:
    operator = Operator(pair.servers[0].url)
    names = {f"KEYSTILE_STORE__{name.upper()}": str(value) for name, value in pair.settings.items()}
    names["KEYSTILE_STORE__DURABILITY"] = "replicated"
    client_id = operator.run("clients", "add", "Job", "--redirect-uri", "https://a.example/", **names).value(
        "client_id"
    )
    with replica.paused():
        for _ in range(2):
            ended = operator.run("clients", "delete", client_id, **names)
            assert "run the same command again" in ended.problem
    assert "There is no client" in operator.run("clients", "delete", client_id, **names).problem


def test_introspection_goes_on_at_its_own_pace_while_many_writes_wait(server: AuthServer, replica: Server) -> None:
    client = server.register()
    token = server.tokens(client.id)["access_token"]
    others = [server.tokens(client.id)["refresh_token"] for _ in range(6)]
    with replica.paused(), ThreadPoolExecutor(48) as pool:
        waiting = [pool.submit(revoke, server, client.id, others[number % 6]) for number in range(48)]
        time.sleep(0.2)
        seconds = []
        while not any(each.done() for each in waiting):
            started = time.perf_counter()
            server.introspect(token)
            seconds.append(time.perf_counter() - started)
        assert {each.result().status_code for each in waiting} == {503}
    assert len(seconds) > 10
    assert sorted(seconds)[len(seconds) // 2] < 0.1


def test_a_server_starts_without_a_replica_and_is_ready_but_promises_nothing(tmp_path: Path) -> None:
    with valkey(tmp_path) as store:
        settings = {"url": store.url, "durability": "replicated"}
        with running_auth_server("", store=settings) as server:
            assert server.http.get(f"{server.issuer}/readyz").status_code == 200
            client, pkce = server.register(), Pkce()
            is_refused(server.redeem(client.id, server.code(client.id, pkce), pkce))


# Answers of the store that get lost


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[LossyProxy]:
    with valkey(tmp_path) as store, lossy_proxy(store.port) as running:
        yield running


@pytest.mark.parametrize("lost", ["WAITAOF", "EVALSHA", "unanswered = nil"])
def test_an_answer_that_gets_lost_is_asked_for_again_and_is_no_reuse(proxy: LossyProxy, lost: str) -> None:
    with fsyncing(proxy.url, tokens={"refresh_grace_seconds": 0}) as server:
        client, person = server.register(), server.person()
        if lost != "unanswered = nil":
            server.tokens(client.id, person)  # every script is known to the store
        pkce = Pkce()
        code = server.code(client.id, pkce, person)
        proxy.lost.clear()
        proxy.lose_answer_to(lost.encode())
        answer = server.redeem(client.id, code, pkce)
        assert proxy.lost
        assert answer.status_code == 200, answer.text
        proxy.lose_answer_to(lost.encode())
        answer = server.refresh(client.id, answer.json()["refresh_token"])
        assert answer.status_code == 200, answer.text
        assert server.is_active(answer.json()["access_token"])
        assert server.events("code.reuse_detected") == server.events("refresh_token.reuse_detected") == []


# The store's disk


def test_what_was_answered_is_there_after_the_store_was_killed(tmp_path: Path) -> None:
    with valkey(tmp_path) as store, fsyncing(store) as server:
        client, person, pkce = server.register(), server.person(), Pkce()
        revoked = server.tokens(client.id, person)
        code = server.code(client.id, pkce, person)
        assert revoke(server, client.id, revoked["refresh_token"]).status_code == 200
        tokens = server.redeem(client.id, code, pkce).json()
        with store.killed():
            pass
        eventually(lambda: server.http.get(f"{server.issuer}/readyz").status_code == 200, "not ready again")
        assert server.is_active(tokens["access_token"])
        assert not server.is_active(revoked["access_token"])
        assert server.refresh(client.id, revoked["refresh_token"]).json()["error"] == "invalid_grant"
        assert server.refresh(client.id, tokens["refresh_token"]).status_code == 200
        assert server.redeem(client.id, code, pkce).json()["error"] == "invalid_grant"
        assert len(server.events("code.reuse_detected")) == 1


def test_a_store_that_is_killed_before_it_has_confirmed_a_redemption_leaves_the_code_usable(tmp_path: Path) -> None:
    with valkey(tmp_path) as store, fsyncing(store) as server:
        client, pkce = server.register(), Pkce()
        server.tokens(client.id)
        code = server.code(client.id, pkce)
        store.ask("CONFIG", "SET", "appendfsync", "no")
        is_refused(server.redeem(client.id, code, pkce))
        # What was refused is in the file all the same, as it may be.
        with store.killed():
            pass
        eventually(lambda: server.http.get(f"{server.issuer}/readyz").status_code == 200, "not ready again")
        assert server.redeem(client.id, code, pkce).status_code == 200
        assert server.events("code.reuse_detected") == []


@pytest.mark.parametrize("change", [("appendfsync", "everysec", "always"), ("appendonly", "no", "yes")])
def test_a_store_that_stops_keeping_what_it_is_told_is_promised_nothing_for(
    tmp_path: Path, change: tuple[str, str, str]
) -> None:
    name, worse, better = change
    with valkey(tmp_path) as store, fsyncing(store) as server:
        client, pkce = server.register(), Pkce()
        token = server.tokens(client.id)["access_token"]
        code = server.code(client.id, pkce)
        store.ask("CONFIG", "SET", name, worse)
        is_refused(server.redeem(client.id, code, pkce))
        assert server.is_active(token)
        store.ask("CONFIG", "SET", name, better)
        assert server.redeem(client.id, code, pkce).status_code == 200


def test_a_full_store_still_confirms_that_something_was_revoked(tmp_path: Path) -> None:
    with valkey(tmp_path) as store, fsyncing(store) as server:
        client = server.register()
        tokens = server.tokens(client.id)
        store.ask("CONFIG", "SET", "maxmemory", 1)
        assert revoke(server, client.id, tokens["refresh_token"]).status_code == 200
        store.ask("CONFIG", "SET", "maxmemory", 0)
        assert not server.is_active(tokens["access_token"])


# What a store cannot do


def start_problem(**settings: Any) -> str:
    async def start() -> None:
        store = connect(StoreSettings.model_validate(settings), create_metrics().store, NoOpTracer(), "fsync")
        try:
            await store.require_durability()
        finally:
            await store.close()

    with pytest.raises(StoreUnsuitableError) as refused:
        asyncio.run(start())
    return str(refused.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--appendonly", "no"], "appendonly is no; set it to yes"),
        (["--appendfsync", "everysec"], "appendfsync is everysec; set it to always"),
        (["--rename-command", "WAITAOF", ""], "has no WAITAOF; Redis has it from 7.2 on"),
        (["--rename-command", "CONFIG", ""], "does not take CONFIG, which tells"),
    ],
)
def test_a_store_that_cannot_sync_is_refused_with_what_to_change(
    tmp_path: Path, options: list[str], sentence: str
) -> None:
    with valkey(tmp_path, *options) as store:
        said = start_problem(url=store.url)
    assert "store.durability: fsync cannot be had: " in said
    assert sentence in said


def test_a_user_of_the_store_who_may_not_ask_is_refused_with_the_rights_that_are_missing(
    pair: Stores,
) -> None:
    said = start_problem(**pair.settings)
    assert "the store's user needs +waitaof and +config|get" in said


# Stores of more than one server


def test_a_revocation_that_was_answered_survives_the_master() -> None:
    with site() as here, SHAPES["sentinel"](here) as stores:
        settings = {**stores.settings, "durability": "replicated"}
        with running_auth_server("", store=settings) as server:
            client, person = server.register(), server.person()
            all_tokens = [server.tokens(client.id, person) for _ in range(5)]
            pkce = Pkce()
            code = server.code(client.id, pkce, person)
            for tokens in all_tokens[:-1]:
                assert revoke(server, client.id, tokens["refresh_token"]).status_code == 200
            redeemed = server.redeem(client.id, code, pkce).json()
            master = stores.master()
            master.kill()
            eventually(lambda: stores.master() is not master and is_up(server), "no other master", 30)
            assert [server.is_active(tokens["access_token"]) for tokens in all_tokens] == [False] * 4 + [True]
            assert server.is_active(redeemed["access_token"])
            # The one that is left has no replica.
            is_refused(revoke(server, client.id, all_tokens[-1]["refresh_token"]))
            master.options = [*master.options, "--replicaof", "127.0.0.1", str(stores.master().port)]
            master.start()
            eventually(lambda: is_linked(master), "the old master does not follow", 30)
            assert revoke(server, client.id, all_tokens[-1]["refresh_token"]).status_code == 200


def is_up(server: AuthServer) -> bool:
    answer = server.http.post(f"{server.issuer}/introspect", data={"token": "x"}, auth=("mcp", RESOURCE_SECRET))
    return answer.status_code == 200 and server.http.get(f"{server.issuer}/readyz").status_code == 200
