"""What happens to clients when the store loses answers, stands still, dies or is full."""

import asyncio
import os
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from opentelemetry.trace import NoOpTracer
from redis.exceptions import RedisError

from keystile_auth.app import create_metrics
from keystile_auth.store.clients import ClientStore
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.limits import LimitStore
from keystile_common.settings import StoreSettings
from keystile_common.store import Store, connect
from tests.auth_server import MASTER_KEY, RESOURCE, RESOURCE_SECRET, AuthServer, Pkce, running_auth_server
from tests.kept_connection import KeptConnection, post
from tests.person import form
from tests.security.concurrency import Answer, at_once
from tests.security.lossy_proxy import LossyProxy, lossy_proxy
from tests.stores import BUSY_SECONDS, Server, valkey


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with valkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture(scope="module")
def server(store: Server) -> Iterator[AuthServer]:
    with running_auth_server(store.url) as running:
        yield running


@pytest.fixture(scope="module")
def proxy(store: Server) -> Iterator[LossyProxy]:
    with lossy_proxy(store.port) as running:
        yield running


@pytest.fixture(scope="module")
def unlucky(proxy: LossyProxy) -> Iterator[AuthServer]:
    """A server whose answers from the store may get lost."""
    with running_auth_server(proxy.url) as running:
        yield running


def lose(proxy: LossyProxy, part: str) -> None:
    proxy.lost.clear()
    proxy.lose_answer_to(part.encode())


# Answers that get lost


def test_a_redemption_whose_answer_from_the_store_got_lost_succeeds_and_is_no_reuse(
    unlucky: AuthServer, proxy: LossyProxy
) -> None:
    client, person = unlucky.register(), unlucky.person()
    unlucky.tokens(client.id, person)  # every script is known to the store
    for _ in range(3):
        pkce = Pkce()
        code = unlucky.code(client.id, pkce, person)
        lose(proxy, "EVALSHA")
        answer = unlucky.redeem(client.id, code, pkce)
        assert proxy.lost
        assert answer.status_code == 200, answer.text
        assert answer.json()["expires_in"] > 890
        assert unlucky.is_active(answer.json()["access_token"])
        assert unlucky.refresh(client.id, answer.json()["refresh_token"]).status_code == 200
    assert unlucky.events("code.reuse_detected") == []


def test_a_rotation_whose_answer_from_the_store_got_lost_succeeds_and_is_no_reuse(proxy: LossyProxy) -> None:
    with running_auth_server(proxy.url, tokens={"refresh_grace_seconds": 0}) as unlucky:
        client = unlucky.register()
        tokens = unlucky.tokens(client.id)
        tokens = unlucky.refresh(client.id, tokens["refresh_token"]).json()
        for _ in range(5):
            lose(proxy, "EVALSHA")
            answer = unlucky.refresh(client.id, tokens["refresh_token"])
            assert proxy.lost
            assert answer.status_code == 200, answer.text
            tokens = answer.json()
            assert unlucky.is_active(tokens["access_token"])
        assert unlucky.events("refresh_token.reuse_detected") == []


def test_a_replay_is_still_found_and_recorded_when_that_answer_gets_lost(proxy: LossyProxy) -> None:
    with running_auth_server(proxy.url, tokens={"refresh_grace_seconds": 0}) as unlucky:
        client = unlucky.register()
        tokens = unlucky.tokens(client.id)
        unlucky.refresh(client.id, tokens["refresh_token"])
        lose(proxy, "EVALSHA")
        answer = unlucky.refresh(client.id, tokens["refresh_token"])
        assert proxy.lost
        assert answer.json()["error"] == "invalid_grant"
        assert len(unlucky.events("refresh_token.reuse_detected")) == 1


def test_a_revocation_whose_answer_got_lost_is_still_recorded(unlucky: AuthServer, proxy: LossyProxy) -> None:
    client = unlucky.register()
    tokens = unlucky.tokens(client.id)
    before = len(unlucky.events("token.revoked"))
    lose(proxy, "EVALSHA")
    data = {"token": tokens["refresh_token"], "client_id": client.id}
    assert unlucky.http.post(f"{unlucky.issuer}/revoke", data=data).status_code == 200
    assert proxy.lost
    assert not unlucky.is_active(tokens["access_token"])
    assert len(unlucky.events("token.revoked")) == before + 1


async def through(url: str, work: Callable[[Store], Any]) -> Any:
    store = connect(StoreSettings(url=url), create_metrics().store, NoOpTracer())
    try:
        return await work(store)
    finally:
        await store.close()


async def test_a_mark_that_something_was_used_once_is_our_own_when_its_answer_got_lost(proxy: LossyProxy) -> None:
    lose(proxy, "ks:assertion:")
    assert await through(proxy.url, lambda store: LimitStore(store).use_once("assertion", "jti-1", 60))
    assert proxy.lost
    assert not await through(proxy.url, lambda store: LimitStore(store).use_once("assertion", "jti-1", 60))


async def test_a_client_or_user_is_made_though_the_answer_got_lost(proxy: LossyProxy, unlucky: AuthServer) -> None:
    lose(proxy, "ks:client:lost")
    assert await through(proxy.url, lambda store: ClientStore(store).add("lost", "{}", seconds=60))
    assert proxy.lost
    assert not await through(proxy.url, lambda store: ClientStore(store).add("lost", '{"b":1}', seconds=60))


def test_a_user_is_made_though_the_answer_got_lost(proxy: LossyProxy, unlucky: AuthServer) -> None:
    lose(proxy, "ks:username:unlucky")
    person = unlucky.person(unlucky.add_user("unlucky"))
    assert proxy.lost
    assert unlucky.is_active(unlucky.tokens(unlucky.register().id, person)["access_token"])


def test_a_consent_that_was_given_stands_though_the_answer_got_lost(proxy: LossyProxy, unlucky: AuthServer) -> None:
    for command in ("ks:consents:", "ks:grants:", '"state": "code"'):
        client, person = unlucky.register(), unlucky.person()
        page = person.sign_in(person.get(unlucky.authorization_url(client.id, Pkce())))
        lose(proxy, command)
        answer = person.submit(form(page, "/consent"), decision="allow")
        assert proxy.lost
        assert answer.status_code == 303, answer.text
        assert "code=" in answer.headers["location"]


# A store that stands still


class _Requests:
    """One request at each endpoint that needs the store."""

    def __init__(self, server: AuthServer) -> None:
        self.server = server
        self.client = server.register()
        self.person = server.person()
        self.tokens = server.tokens(self.client.id, self.person)
        self.url = server.authorization_url(self.client.id, Pkce())
        self.page = server.person().get(self.url)

    def send(self) -> dict[str, httpx2.Response]:
        server, issuer = self.server, self.server.issuer
        sign_in = form(self.page, "/login")
        browser = server.people[-1].browser
        send: dict[str, Callable[[], httpx2.Response]] = {
            "token": lambda: server.refresh(self.client.id, self.tokens["refresh_token"]),
            "introspect": lambda: server.http.post(
                f"{issuer}/introspect",
                data={"token": self.tokens["access_token"]},
                auth=("mcp", RESOURCE_SECRET),
            ),
            "revoke": lambda: server.http.post(
                f"{issuer}/revoke", data={"token": self.tokens["access_token"], "client_id": self.client.id}
            ),
            "register": lambda: server.http.post(f"{issuer}/register", json={"redirect_uris": ["https://a.example/"]}),
            "authorize": lambda: self.person.browser.get(self.url),
            "login page": lambda: browser.get(str(self.page.url)),
            "login": lambda: browser.post(sign_in.action, data={**sign_in.fields, "username": "a", "password": "b"}),
            "account": lambda: self.person.browser.get(f"{issuer}/account"),
            "readyz": lambda: server.http.get(f"{issuer}/readyz"),
        }

        def timed(request: Callable[[], httpx2.Response]) -> httpx2.Response:
            started = time.monotonic()
            answer = request()
            answer.extensions["seconds"] = time.monotonic() - started
            return answer

        with ThreadPoolExecutor(len(send)) as pool:
            return dict(zip(send, pool.map(timed, send.values()), strict=True))


def test_while_the_store_stands_still_every_endpoint_answers_503_within_two_seconds_and_recovers_within_five(
    server: AuthServer, store: Server
) -> None:
    requests = _Requests(server)
    with store.paused():
        answers = requests.send()
        started = time.monotonic()
        assert server.http.get(f"{server.issuer}/healthz").status_code == 200
        assert server.http.get(f"{server.issuer}/.well-known/oauth-authorization-server").status_code == 200
        assert time.monotonic() - started < 1 + BUSY_SECONDS
    recovering = time.monotonic()
    counted = {"grant_type": "refresh_token", "outcome": "error", "error": "temporarily_unavailable"}
    assert server.metrics.registry.get_sample_value("keystile_token_requests_total", counted)
    for name, answer in answers.items():
        assert answer.status_code == 503, (name, answer.text)
        assert int(answer.headers["retry-after"]) >= 1, name
        assert answer.extensions["seconds"] < 2 + BUSY_SECONDS, (name, answer.extensions["seconds"])
    while server.http.get(f"{server.issuer}/readyz").status_code != 200:
        assert time.monotonic() - recovering < 5 + BUSY_SECONDS
        time.sleep(0.05)
    assert server.is_active(requests.tokens["access_token"])
    assert server.refresh(requests.client.id, requests.tokens["refresh_token"]).status_code == 200


def test_requests_that_recur_on_a_connection_are_503_too_while_the_store_stands_still(
    server: AuthServer, store: Server
) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    authorization = "Basic " + b64encode(f"mcp:{RESOURCE_SECRET}".encode()).decode()
    introspection = post("/introspect", f"token={tokens['access_token']}", Authorization=authorization)
    with KeptConnection(server.issuer) as kept:
        for _ in range(3):
            assert kept.ask(introspection).status == 200
        with store.paused():
            answer = kept.ask(introspection)
        assert answer.status == 503
        assert any(line.lower().startswith(b"retry-after: ") for line in answer.headers)
        deadline = time.monotonic() + 5 + BUSY_SECONDS
        while (answer := kept.ask(introspection)).status != 200:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert b'"active":true' in answer.body


def introspections(server: AuthServer, token: str, times: int) -> list[Answer]:
    return at_once(f"{server.issuer}/introspect", {"token": token}, times, auth=("mcp", RESOURCE_SECRET))


def test_more_requests_than_connections_to_a_store_that_stands_still_are_answered_within_two_seconds(
    server: AuthServer, store: Server
) -> None:
    token = server.tokens(server.register().id)["access_token"]
    with store.paused():
        answers = introspections(server, token, 200)
    assert {answer.status for answer in answers} == {503}
    waited = sorted(answer.seconds for answer in answers)
    assert waited[len(waited) // 2] < 2
    assert waited[-1] < 2 + BUSY_SECONDS


def test_four_times_as_many_introspections_as_connections_to_the_store_all_get_their_answer(
    server: AuthServer,
) -> None:
    token = server.tokens(server.register().id)["access_token"]
    answers = introspections(server, token, 256)
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body["active"] for answer in answers)


# A store that dies


def test_grants_outlive_a_store_that_was_killed(tmp_path: Path) -> None:
    with valkey(tmp_path) as store, running_auth_server(store.url) as server:
        client = server.register()
        tokens, revoked = server.tokens(client.id), server.tokens(client.id)
        server.http.post(f"{server.issuer}/revoke", data={"token": revoked["refresh_token"], "client_id": client.id})
        time.sleep(1.2)  # appendfsync everysec
        store.kill()
        answer = server.refresh(client.id, tokens["refresh_token"])
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        store.start()
        assert server.is_active(tokens["access_token"])
        assert not server.is_active(revoked["access_token"])
        assert server.refresh(client.id, tokens["refresh_token"]).status_code == 200
        assert server.refresh(client.id, revoked["refresh_token"]).json()["error"] == "invalid_grant"


# A store that must not be used, or is full


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-ttl"])
def test_a_store_that_may_evict_is_refused_in_one_sentence(tmp_path: Path, policy: str, free_port: int) -> None:
    with valkey(tmp_path, "--maxmemory-policy", policy) as store:
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")},
            "KEYSTILE_ISSUER": f"http://127.0.0.1:{free_port}",
            "KEYSTILE_MASTER_KEY": MASTER_KEY,
            "KEYSTILE_STORE__URL": store.url,
            "KEYSTILE_LISTEN__PORT": str(free_port),
            "KEYSTILE_METRICS__PORT": "0",
            "KEYSTILE_RESOURCES": f"{{mcp: {{uri: '{RESOURCE}', title: T, scopes: {{a: b}}, secret: {'s' * 32}}}}}",
        }
        command = [sys.executable, "-m", "keystile_auth", "serve"]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 2, ended.stderr
    assert f"maxmemory-policy is {policy}; set it to noeviction" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_store_gives_503_and_never_a_grant_and_still_revokes(tmp_path: Path) -> None:
    with valkey(tmp_path) as store, running_auth_server(store.url) as server:
        client, person = server.register(), server.person()
        tokens, other = server.tokens(client.id, person), server.tokens(client.id, person)
        pkce = Pkce()
        code = server.code(client.id, pkce, person)
        grant = f"ks:{{{code[7:23]}}}"
        with store.client as redis:
            before = redis.get(grant)
            redis.config_set("maxmemory", "1mb")
            with pytest.raises(RedisError, match="maxmemory"):
                redis.set("x", "y")
            for answer in (
                server.redeem(client.id, code, pkce),
                server.refresh(client.id, tokens["refresh_token"]),
                server.http.post(f"{server.issuer}/register", json={"redirect_uris": ["https://a.example/"]}),
                person.browser.get(server.authorization_url(client.id, pkce)),
            ):
                assert answer.status_code == 503, answer.text
                assert answer.headers["retry-after"] == "2"
            assert redis.get(grant) == before, "nothing half done"
            assert server.is_active(tokens["access_token"])
            data = {"token": other["refresh_token"], "client_id": client.id}
            assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
            assert not server.is_active(other["access_token"])
            redis.config_set("maxmemory", "0")
        assert server.redeem(client.id, code, pkce).status_code == 200
        assert server.refresh(client.id, tokens["refresh_token"]).status_code == 200
        assert server.refresh(client.id, other["refresh_token"]).json()["error"] == "invalid_grant"


# Many grants


async def test_ending_all_grants_of_a_client_misses_none_while_others_expire(store: Server) -> None:
    """Members that leave the list in the meantime must not move others past the one who reads it."""

    async def work(connection: Store) -> int:
        grants, listing = GrantStore(connection), "ks:grants:client:busy"
        future = int(time.time() * 1000) + 600_000
        expired = {f"old{n}:x": 1000 + n for n in range(1000)}
        await connection.redis.zadd(listing, {**expired, **{f"live{n}:x": future + n for n in range(1000)}})
        for n in range(1000):
            await connection.redis.set(f"ks:{{live{n}}}:a:x", "1")

        async def expire() -> None:
            for rank in range(0, 1000, 100):
                await asyncio.sleep(0.005)
                await connection.redis.zremrangebyscore(listing, "-inf", 1000 + rank + 99)

        await asyncio.gather(grants.end_all_of_client("busy", "client_deleted"), expire())
        return int(await connection.redis.exists(*(f"ks:{{live{n}}}:a:x" for n in range(1000))))

    assert await through(store.url, work) == 0
