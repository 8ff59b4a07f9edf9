"""Polling for security events (RFC 8936), over HTTP and a real store."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keystile_auth.store import revocation_feed, scripts
from keystile_auth.store.revocations import RETAINED, STREAM
from keystile_common.jws import parse, public_keys, verify
from keystile_common.security_events import SESSION_REVOKED, TOKEN_REVOKED, VERIFICATION
from tests.auth_server import (
    MASTER_KEY,
    OTHER_RESOURCE,
    OTHER_SECRET,
    RESOURCE,
    RESOURCE_SECRET,
    AuthServer,
    Pkce,
    running_auth_server,
)
from tests.operator import Operator
from tests.stores import Server, client_of, eventually, valkey

ALL = "0-0"
"""An acknowledgement of nothing that there is, which begins a stream."""


def ask(server: AuthServer, body: Any = None, *, wait: int = 0, auth: tuple[str, str] | None = None) -> httpx2.Response:
    return server.http.post(
        f"{server.issuer}/events/poll",
        json={} if body is None else body,
        headers={"Prefer": f"wait={wait}"},
        auth=auth or ("mcp", RESOURCE_SECRET),
        timeout=40,
    )


def poll(server: AuthServer, ack: list[str], **options: Any) -> dict[str, str]:
    answer = ask(server, {"ack": ack}, **options)
    assert answer.status_code == 200, answer.text
    return dict(answer.json()["sets"])


def told(server: AuthServer, last: str, number: int = 1, **options: Any) -> dict[str, str]:
    """So many events behind `last`, which may come one by one, and what else is there by then."""
    sets: dict[str, str] = {}
    deadline = time.monotonic() + 10
    while len(sets) < number:
        assert time.monotonic() < deadline, sets
        sets |= poll(server, [*sets, last], wait=2, **options)
    return sets


def news(server: AuthServer, last: str, number: int = 1, **options: Any) -> list[dict[str, Any]]:
    """The claims of what `told` answers."""
    return [claims(server, each) for each in told(server, last, number, **options).values()]


def claims(server: AuthServer, text: str) -> dict[str, Any]:
    keys = public_keys(server.http.get(f"{server.issuer}/jwks").json())
    token = parse(text, ("ES256",))
    assert token.type == "secevent+jwt"
    return verify(token, keys)


def at_the_end(server: AuthServer, **options: Any) -> str:
    """The `jti` that is the last one now."""
    last = ALL
    while sets := poll(server, [last], **options):
        last = list(sets)[-1]
    return last


def revoke(server: AuthServer, token: str, client_id: str) -> None:
    data = {"token": token, "client_id": client_id}
    assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200


def waiting_polls(server: AuthServer) -> float:
    return server.metrics.registry.get_sample_value("keystile_event_polls_waiting") or 0


def in_background(server: AuthServer, ack: str, wait: int = 10, **options: Any) -> "Future[dict[str, str]]":
    """A poll that waits, once it does."""
    pool, before = ThreadPoolExecutor(1), waiting_polls(server)
    future = pool.submit(lambda: poll(server, [ack], wait=wait, **options))
    pool.shutdown(wait=False)
    deadline = time.monotonic() + 5
    while waiting_polls(server) == before:
        assert not future.done(), future.result()
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return future


def test_a_stream_begins_with_a_verification_event(auth_server: AuthServer) -> None:
    sets = poll(auth_server, [ALL])
    jti, first = next(iter(sets.items()))
    event = claims(auth_server, first)
    assert event["events"] == {VERIFICATION: {}}
    assert (event["jti"], event["iss"], event["aud"]) == (jti, auth_server.issuer, RESOURCE)
    assert event["sub_id"] == {"format": "opaque", "id": "mcp"}
    assert "exp" not in event
    assert "sub" not in event


def test_a_revoked_token_is_told_by_the_jti_that_introspection_answers(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    token = auth_server.tokens(client.id)["access_token"]
    jti = auth_server.introspect(token)["jti"]
    before = time.time()
    revoke(auth_server, token, client.id)
    (event,) = news(auth_server, last)
    assert event["events"] == {TOKEN_REVOKED: {}}
    assert event["sub_id"] == {"format": "jwt_id", "iss": auth_server.issuer, "jti": jti}
    assert before - 1 < event["toe"] < time.time() + 1


def test_an_ended_grant_is_told_by_the_id_that_its_tokens_begin_with(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    tokens = auth_server.tokens(client.id)
    revoke(auth_server, tokens["refresh_token"], client.id)
    (event,) = news(auth_server, last)
    assert event["events"] == {SESSION_REVOKED: {}}
    session = {"format": "opaque", "id": tokens["access_token"][7:23]}
    assert event["sub_id"] == {"format": "complex", "session": session}


def test_a_refresh_token_used_twice_is_told(auth_server: AuthServer) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    auth_server.refresh(client.id, second["refresh_token"])
    last = at_the_end(auth_server)
    assert auth_server.refresh(client.id, first["refresh_token"]).status_code == 400
    (event,) = news(auth_server, last)
    assert event["sub_id"]["session"]["id"] == first["access_token"][7:23]


def test_a_disabled_user_and_a_deleted_client_are_told_grant_by_grant(
    auth_server: AuthServer, operator: Operator
) -> None:
    one, two, last = auth_server.register(), auth_server.register(), at_the_end(auth_server)
    name = auth_server.add_user()
    person = auth_server.person(name)
    grants = {auth_server.tokens(each.id, person)["access_token"][7:23] for each in (one, two)}
    operator.run("users", "disable", name)
    assert {event["sub_id"]["session"]["id"] for event in news(auth_server, last, 2)} == grants
    last = at_the_end(auth_server)
    token = auth_server.tokens(one.id)["access_token"]
    headers = {"Authorization": f"Bearer {one.registration_token}"}
    assert auth_server.http.delete(one.registration_uri, headers=headers).status_code == 204
    # A cluster tells of those again that had ended before, and may do so first.
    ended = set()
    while token[7:23] not in ended:
        sets = told(auth_server, last)
        ended |= {claims(auth_server, each)["sub_id"]["session"]["id"] for each in sets.values()}
        last = list(sets)[-1]
    assert ended - grants == {token[7:23]}


def test_a_code_that_nobody_redeemed_is_no_news(auth_server: AuthServer, operator: Operator) -> None:
    client, last, name = auth_server.register(), at_the_end(auth_server), auth_server.add_user()
    auth_server.code(client.id, Pkce(), auth_server.person(name))
    operator.run("users", "disable", name)
    assert poll(auth_server, [last]) == {}


def test_a_resource_learns_of_its_own_tokens_only(auth_server: AuthServer) -> None:
    client = auth_server.register()
    theirs = ("other", OTHER_SECRET)
    mine, other = at_the_end(auth_server), at_the_end(auth_server, auth=theirs)
    token = auth_server.tokens(client.id, resource=OTHER_RESOURCE, scope="other:use")["access_token"]
    revoke(auth_server, token, client.id)
    assert poll(auth_server, [mine]) == {}
    (event,) = news(auth_server, other, auth=theirs)
    assert event["aud"] == OTHER_RESOURCE


def test_a_waiting_poll_is_answered_when_something_is_revoked(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    token = auth_server.tokens(client.id)["access_token"]
    waiting = in_background(auth_server, last)
    began = time.monotonic()
    revoke(auth_server, token, client.id)
    assert len(waiting.result(8)) == 1
    assert time.monotonic() - began < 8


def test_another_audience_s_revocation_does_not_end_a_wait(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    token = auth_server.tokens(client.id, resource=OTHER_RESOURCE, scope="other:use")["access_token"]
    waiting = in_background(auth_server, last, wait=2)
    began = time.monotonic()
    revoke(auth_server, token, client.id)
    assert waiting.result(10) == {}
    assert time.monotonic() - began > 1


def test_a_wait_ends_with_nothing_after_the_time_that_was_preferred(auth_server: AuthServer) -> None:
    last, began = at_the_end(auth_server), time.monotonic()
    assert poll(auth_server, [last], wait=1) == {}
    assert 0.9 < time.monotonic() - began < 4


def test_who_wants_an_answer_at_once_gets_it(auth_server: AuthServer) -> None:
    last, began = at_the_end(auth_server), time.monotonic()
    answer = ask(auth_server, {"ack": [last], "returnImmediately": True}, wait=20)
    assert answer.json() == {"sets": {}}
    assert time.monotonic() - began < 10


def test_what_is_acknowledged_is_not_told_again_and_what_is_not_is(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    for _ in range(3):
        revoke(auth_server, auth_server.tokens(client.id)["access_token"], client.id)
    sets = told(auth_server, last, 3)
    assert len(sets) == 3
    assert list(poll(auth_server, [last])) == list(sets)
    assert list(poll(auth_server, list(reversed(list(sets)[:2])))) == list(sets)[2:]


def test_at_most_as_many_are_told_as_were_asked_for(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    for _ in range(3):
        revoke(auth_server, auth_server.tokens(client.id)["access_token"], client.id)
    assert len(told(auth_server, last, 3)) == 3
    first = ask(auth_server, {"ack": [last], "maxEvents": 2}).json()
    assert len(first["sets"]) == 2
    assert first["moreAvailable"] is True
    second = ask(auth_server, {"ack": list(first["sets"]), "maxEvents": 2}).json()
    assert len(second["sets"]) == 1
    assert "moreAvailable" not in second
    assert ask(auth_server, {"ack": [last], "maxEvents": 0}, wait=10).json() == {"sets": {}}


def test_who_never_acknowledges_again_goes_on_where_its_resource_was(store_url: str) -> None:
    with running_auth_server(store_url) as server:
        last, client = at_the_end(server), server.register()
        poll(server, [last])
        assert ask(server, {}).json() == {"sets": {}}
        revoke(server, server.tokens(client.id)["access_token"], client.id)
        (told,) = ask(server, {}).json()["sets"]
        assert ask(server, {"setErrs": {told: {"err": "jws", "description": "no"}}}).json() == {"sets": {}}
        assert ask(server, {}).json() == {"sets": {}}


def test_a_place_that_is_no_longer_known_begins_anew(auth_server: AuthServer) -> None:
    for unknown in ("1-1", "999999999999999-0", "1-1.beginning.abc"):
        (first, *_) = poll(auth_server, [unknown]).values()
        assert claims(auth_server, first)["events"] == {VERIFICATION: {}}


def test_a_trimmed_stream_begins_anew_with_what_is_left(store_url: str) -> None:
    with running_auth_server(store_url) as server, client_of(store_url) as redis:
        last, client = at_the_end(server), server.register()
        revoke(server, server.tokens(client.id)["access_token"], client.id)
        pipeline = redis.pipeline()
        for number in range(RETAINED + 200):
            pipeline.xadd(STREAM, {"audience": "x", "kind": "grant", "name": str(number)}, maxlen=RETAINED)
        pipeline.execute()
        deadline = time.monotonic() + 10
        while not (sets := poll(server, [last])) or "beginning" not in next(iter(sets)):
            assert time.monotonic() < deadline
        assert claims(server, next(iter(sets.values())))["events"] == {VERIFICATION: {}}
        redis.delete(STREAM)


def test_the_scripts_keep_as_many_as_the_feed(store_url: str) -> None:
    assert f"'~', {RETAINED}, " in scripts.read("grant")


def test_two_processes_have_one_stream(store_url: str) -> None:
    with running_auth_server(store_url) as one, running_auth_server(store_url) as two:
        last, client = at_the_end(one), one.register()
        at_the_end(two)
        for _ in range(10):
            revoke(one, one.tokens(client.id)["access_token"], client.id)
            (event,) = told(one, last)
            assert poll(two, [event]) == {}
            last = event


@pytest.mark.parametrize(
    "body",
    [
        [],
        "text",
        {"ack": "1-1"},
        {"ack": [1]},
        {"ack": ["1-1"] * 1001},
        {"setErrs": []},
        {"setErrs": {"1-1": "bad"}},
        {"maxEvents": "1"},
        {"maxEvents": True},
        {"maxEvents": -1},
        {"maxEvents": 1.5},
        {"returnImmediately": "true"},
        {"client_id": 1},
    ],
)
def test_a_request_of_another_form_is_refused(auth_server: AuthServer, body: Any) -> None:
    answer = ask(auth_server, body)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "body", [b"", b"{", b'{"ack": [], "ack": []}', b"\xff", b"[" * 5000, b'{"maxEvents": 1e999}', b"{}" + b" " * 70_000]
)
def test_a_body_that_is_no_json_object_is_refused(auth_server: AuthServer, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = auth_server.http.post(
        f"{auth_server.issuer}/events/poll", content=body, headers=headers, auth=("mcp", RESOURCE_SECRET)
    )
    assert answer.status_code in {400, 413}


def test_an_acknowledgement_of_something_else_is_ignored(auth_server: AuthServer) -> None:
    last = at_the_end(auth_server)
    assert poll(auth_server, [last, "x", "", "1-1; drop", "9" * 400, "٣-٣", "1-1.beginning."]) == {}


def test_a_poll_says_who_asks_as_introspection_does(auth_server: AuthServer) -> None:
    url = f"{auth_server.issuer}/events/poll"
    named = {"client_id": "mcp", "client_secret": RESOURCE_SECRET, "ack": [ALL]}
    assert auth_server.http.post(url, json=named).status_code == 200
    for body, auth in [
        ({}, None),
        ({}, ("mcp", "wrong")),
        ({}, ("nobody", RESOURCE_SECRET)),
        ({}, ("mcp", OTHER_SECRET)),
        ({"client_id": "mcp"}, None),
        ({"client_id": "mcp", "client_secret": ""}, None),
    ]:
        answer = auth_server.http.post(url, json=body, auth=auth or httpx2.USE_CLIENT_DEFAULT)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    assert auth_server.http.post(url, json=named, auth=("mcp", RESOURCE_SECRET)).status_code == 400
    assert RESOURCE_SECRET not in json.dumps(auth_server.events())


def test_an_odd_preference_is_ignored(auth_server: AuthServer) -> None:
    last = at_the_end(auth_server)
    for prefer in ("wait=0, respond-async", 'respond-async, WAIT="0"', "handling=lenient; a=b, wait=0"):
        began = time.monotonic()
        answer = auth_server.http.post(
            f"{auth_server.issuer}/events/poll",
            json={"ack": [last]},
            headers={"Prefer": prefer},
            auth=("mcp", RESOURCE_SECRET),
        )
        assert answer.status_code == 200
        assert time.monotonic() - began < 10


def test_fifty_polls_that_wait_are_all_told(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    token = auth_server.tokens(client.id)["access_token"]
    with ThreadPoolExecutor(50) as pool, httpx2.Client(timeout=30, limits=httpx2.Limits(max_connections=50)) as http:

        def wait() -> int:
            answer = http.post(
                f"{auth_server.issuer}/events/poll",
                json={"ack": [last]},
                headers={"Prefer": "wait=20"},
                auth=("mcp", RESOURCE_SECRET),
            )
            return len(answer.json()["sets"])

        polls = [pool.submit(wait) for _ in range(50)]
        deadline = time.monotonic() + 10
        while waiting_polls(auth_server) != 50:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        revoke(auth_server, token, client.id)
        assert [each.result(10) for each in polls] == [1] * 50


def test_revocations_under_way_while_polls_come_are_told_once_each(auth_server: AuthServer) -> None:
    client, last = auth_server.register(), at_the_end(auth_server)
    person = auth_server.person()
    tokens = [auth_server.tokens(client.id, person)["access_token"] for _ in range(30)]
    jtis = {auth_server.introspect(each)["jti"] for each in tokens}

    def revoke_all() -> None:
        for each in tokens:
            revoke(auth_server, each, client.id)

    thread = threading.Thread(target=revoke_all)
    thread.start()
    told: list[str] = []
    deadline = time.monotonic() + 20
    while len(told) < len(jtis) and time.monotonic() < deadline:
        sets = poll(auth_server, [last], wait=2)
        told += [claims(auth_server, each)["sub_id"]["jti"] for each in sets.values()]
        last = list(sets)[-1] if sets else last
    thread.join()
    assert sorted(told) == sorted(jtis)


# What is away, or goes


@pytest.fixture
def own(tmp_path: Path) -> Iterator[tuple[AuthServer, Server]]:
    """A server with a store of its own."""
    with valkey(tmp_path) as store, running_auth_server(store.url) as server:
        yield server, store


def test_polls_are_answered_503_while_the_store_is_away_and_go_on_afterwards(own: tuple[AuthServer, Server]) -> None:
    server, store = own
    last, client = at_the_end(server), server.register()
    token = server.tokens(client.id)["access_token"]
    pool, before = ThreadPoolExecutor(1), waiting_polls(server)
    waiting = pool.submit(lambda: ask(server, {"ack": [last]}, wait=20).status_code)
    pool.shutdown(wait=False)
    while waiting_polls(server) == before:
        time.sleep(0.01)
    with store.paused():
        began = time.monotonic()
        assert waiting.result(10) == 503
        answer = ask(server, {"ack": [last]}, wait=20)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert time.monotonic() - began < 8
    revoke(server, token, client.id)
    eventually(lambda: ask(server, {"ack": [last]}).status_code == 200, "polls do not go on")
    assert len(told(server, last)) == 1


def test_a_full_store_still_tells_of_revocations(own: tuple[AuthServer, Server]) -> None:
    server, store = own
    last, client = at_the_end(server), server.register()
    token = server.tokens(client.id)["access_token"]
    with store.client as redis:
        redis.config_set("maxmemory", "1mb")
        revoke(server, token, client.id)
        (event,) = told(server, last)
        assert poll(server, [event]) == {}
        redis.config_set("maxmemory", "0")


def test_more_polls_than_may_wait_are_told_to_come_later(
    auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = at_the_end(auth_server)
    monkeypatch.setattr(revocation_feed, "MOST_WAITING", 0)
    answer = ask(auth_server, {"ack": [last]}, wait=5)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "2")
    assert poll(auth_server, [last]) == {}


def test_a_process_that_stops_lets_its_polls_go(tmp_path: Path, free_port: int) -> None:
    with valkey(tmp_path) as store:
        _stop_while_a_poll_waits(store.url, free_port)


def _stop_while_a_poll_waits(store_url: str, free_port: int) -> None:
    issuer = f"http://127.0.0.1:{free_port}"
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")},
        "KEYSTILE_ISSUER": issuer,
        "KEYSTILE_MASTER_KEY": MASTER_KEY,
        "KEYSTILE_STORE__URL": store_url,
        "KEYSTILE_LISTEN__PORT": str(free_port),
        "KEYSTILE_METRICS__PORT": "0",
        "KEYSTILE_RESOURCES": f"{{mcp: {{uri: '{RESOURCE}', title: T, scopes: {{a: b}}, secret: {RESOURCE_SECRET}}}}}",
    }
    command = [sys.executable, "-m", "keystile_auth", "serve"]
    with (
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process,
        httpx2.Client(base_url=issuer, auth=("mcp", RESOURCE_SECRET), timeout=40) as http,
        ThreadPoolExecutor(1) as pool,
    ):

        def is_ready() -> bool:
            try:
                return http.get("/readyz").status_code == 200
            except httpx2.HTTPError:
                return False

        def waits() -> httpx2.Response:
            last = list(http.post("/events/poll", json={"ack": [ALL]}).json()["sets"])[-1]
            while sets := http.post("/events/poll", json={"ack": [last], "returnImmediately": True}).json()["sets"]:
                last = list(sets)[-1]
            return http.post("/events/poll", json={"ack": [last]}, headers={"Prefer": "wait=30"})

        eventually(is_ready, "it did not start", 30)
        waiting = pool.submit(waits)
        time.sleep(2)
        assert not waiting.done()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        answer = waiting.result(10)
        assert (answer.status_code, answer.json()) == (200, {"sets": {}})
        assert answer.headers["connection"] == "close"
        assert process.wait(10) == 0
        assert time.monotonic() - began < 10
