"""A revocation reaches every MCP server, whatever breaks on the way: both services, a real store, real HTTP."""

import io
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from keystile_auth.store.revocations import RETAINED, STREAM
from keystile_common import traces
from keystile_common.audit import AuditLog, StreamSink
from keystile_common.metrics import McpMetrics
from keystile_common.server import bind
from keystile_common.settings import Listen, TraceSettings
from keystile_mcp.app import create_app
from keystile_mcp.hearing import DOUBT_SECONDS, SILENCE_SECONDS
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from tests.auth_server import RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer, running_auth_server, serving
from tests.cut_proxy import CutProxy, cut_proxy
from tests.integration.mcp.resource_server import modern_headers, tool_call
from tests.stores import Server, Site, Stores, client_of, cluster, eventually, sentinel, standalone

PROMISED_SECONDS = 7.0
"""Without push: five seconds and two."""


@dataclass
class Replica:
    """An MCP server of the resource, whichever port it is on."""

    origin: str
    registry: CollectorRegistry
    http: httpx2.Client
    resource: str = RESOURCE

    @property
    def url(self) -> str:
        return self.origin + urlsplit(self.resource).path

    def status(self, token: str) -> int:
        """Of a tool call with this token."""
        headers = {"Host": urlsplit(self.resource).netloc, **modern_headers("echo", token)}
        message = tool_call("echo", {"text": "hello"})
        return int(self.http.post(self.url, headers=headers, json=message).status_code)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"keystile_{name}", labels) or 0.0

    def hears(self) -> bool:
        """Whether it says that it hears of revocations."""
        return any(
            sample.value == 1
            for metric in self.registry.collect()
            for sample in metric.samples
            if sample.name == "keystile_revocation_feed_up"
        )

    def refuses_within(self, token: str, seconds: float) -> float:
        """How long it took until a call was refused."""
        began = time.monotonic()
        while (status := self.status(token)) != 401:
            assert status in {200, 503}, status
            assert time.monotonic() - began < seconds, "the token was still accepted"
            time.sleep(0.01)
        return time.monotonic() - began


@contextmanager
def replica(issuer: str, asks: str, **settings: Any) -> Iterator[Replica]:
    """Run one that reaches the authorization server at `asks`, and begins to hear of revocations."""
    listener = bind(Listen(host="127.0.0.1", port=0), "-")
    hears = settings.pop("hears", True)
    path = urlsplit(issuer).path
    introspection = {"client_id": "mcp", "client_secret": RESOURCE_SECRET, "url": f"{asks}{path}/introspect"}
    values = {
        "resource": RESOURCE,
        "authorization_server": issuer,
        "scopes": SCOPES,
        "introspection": introspection,
        **settings,
    }
    metrics = McpMetrics(CollectorRegistry(), "test")
    app = create_app(
        McpSettings.model_validate(values),
        metrics,
        AuditLog([StreamSink("stdout", io.StringIO())], metrics.audit),
        traces.configure(TraceSettings(), "keystile-mcp", "test"),
        streams=OpenStreams(),
    )
    with serving(app, listener), httpx2.Client(timeout=10) as http:
        running = Replica(f"http://127.0.0.1:{listener.getsockname()[1]}", metrics.registry, http)
        if hears:
            eventually(running.hears, "it did not begin to hear of revocations")
        yield running


def origin_of(server: AuthServer) -> str:
    return server.issuer.removesuffix(urlsplit(server.issuer).path)


def revoke(server: AuthServer, token: str, client_id: str) -> None:
    data = {"token": token, "client_id": client_id}
    assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200


@pytest.fixture(scope="module")
def server(store_url: str) -> Iterator[AuthServer]:
    with running_auth_server(store_url) as running:
        yield running


@pytest.fixture(scope="module")
def replicas(server: AuthServer) -> Iterator[list[Replica]]:
    with ExitStack() as stack:
        yield [stack.enter_context(replica(server.issuer, origin_of(server))) for _ in range(3)]


def test_a_revoked_token_is_refused_by_every_replica_at_once(server: AuthServer, replicas: list[Replica]) -> None:
    client, person = server.register(), server.person()
    took = []
    for _ in range(50):
        token = server.tokens(client.id, person)["access_token"]
        assert [each.status(token) for each in replicas] == [200, 200, 200]
        revoke(server, token, client.id)
        took.append(max(each.refuses_within(token, 5) for each in replicas))
    assert sorted(took)[len(took) // 2] < 1
    assert replicas[0].metric("revocation_propagation_seconds_count") >= 50


def test_an_ended_grant_is_refused_with_all_its_tokens(server: AuthServer, replicas: list[Replica]) -> None:
    client = server.register()
    first = server.tokens(client.id)
    second = server.refresh(client.id, first["refresh_token"]).json()
    tokens = [first["access_token"], second["access_token"]]
    assert [replicas[0].status(each) for each in tokens] == [200, 200]
    revoke(server, second["refresh_token"], client.id)
    for each in tokens:
        replicas[0].refuses_within(each, 5)


def test_the_tokens_of_others_stay_in_the_cache(server: AuthServer, replicas: list[Replica]) -> None:
    client = server.register()
    kept, revoked = (server.tokens(client.id)["access_token"] for _ in range(2))
    assert [replicas[0].status(each) for each in (kept, revoked)] == [200, 200]
    revoke(server, revoked, client.id)
    replicas[0].refuses_within(revoked, 5)
    before = replicas[0].metric("introspection_cache_requests_total", result="miss")
    assert replicas[0].status(kept) == 200
    assert replicas[0].metric("introspection_cache_requests_total", result="miss") == before


def test_an_open_stream_ends_when_its_token_is_revoked(server: AuthServer, replicas: list[Replica]) -> None:
    client = server.register()
    token = server.tokens(client.id, scope="mcp:basic mcp:jobs")["access_token"]
    headers = {"Host": urlsplit(RESOURCE).netloc, **modern_headers("long_running", token)}
    message = tool_call("long_running", {"seconds": 30, "steps": 60})
    message["params"]["_meta"]["progressToken"] = "p"
    with ThreadPoolExecutor(1) as pool, httpx2.Client(timeout=60) as http:

        def read() -> float:
            with http.stream("POST", replicas[0].url, headers=headers, json=message) as response:
                assert response.status_code == 200
                parts = response.iter_text()
                next(parts)
                revoke(server, token, client.id)
                began = time.monotonic()
                for _ in parts:
                    pass
                return time.monotonic() - began

        assert pool.submit(read).result(60) < 4


def test_signed_tokens_are_refused_too_also_by_a_replica_that_starts_later(store_url: str) -> None:
    resources = {
        "mcp": {
            "uri": RESOURCE,
            "title": "Team tools",
            "scopes": SCOPES,
            "secret": RESOURCE_SECRET,
            "access_token": "jwt",
        }
    }
    with running_auth_server(store_url, resources=resources) as server:
        client, keys = server.register(), {"url": f"{server.issuer}/jwks"}
        tokens = server.tokens(client.id)
        alone, ended = server.tokens(client.id)["access_token"], tokens["access_token"]
        kept = server.tokens(client.id)["access_token"]
        with replica(server.issuer, origin_of(server), validation="jwks", jwks=keys) as one:
            assert [one.status(each) for each in (alone, ended, kept)] == [200, 200, 200]
            revoke(server, alone, client.id)
            revoke(server, tokens["refresh_token"], client.id)
            one.refuses_within(alone, 5)
            one.refuses_within(ended, 5)
            assert one.status(kept) == 200
            with replica(server.issuer, origin_of(server), validation="jwks", jwks=keys) as two:
                assert [two.status(each) for each in (alone, ended, kept)] == [401, 401, 200]
                assert two.metric("revocation_propagation_seconds_count") == 0


# What breaks


@pytest.fixture
def proxy(server: AuthServer) -> Iterator[CutProxy]:
    with cut_proxy(urlsplit(server.issuer).port or 0) as running:
        yield running


@pytest.mark.parametrize("how", ["silent", "refusing"])
def test_without_polls_a_revoked_token_is_refused_within_five_seconds_and_two(
    server: AuthServer, proxy: CutProxy, how: str
) -> None:
    # Only the polls are cut: introspection goes its own way.
    polls = {"url": f"{proxy.origin}/events/poll"}
    with replica(server.issuer, origin_of(server), revocations=polls) as one:
        client = server.register()
        token, other = (server.tokens(client.id)["access_token"] for _ in range(2))
        assert [one.status(each) for each in (token, other)] == [200, 200]
        if how == "silent":
            proxy.is_silent = True
        else:
            proxy.refuse()
        revoke(server, token, client.id)
        one.refuses_within(token, PROMISED_SECONDS)
        eventually(lambda: not one.hears(), "it does not say so", PROMISED_SECONDS)
        # Without polls answers are kept for five seconds.
        assert one.status(other) == 200
        revoke(server, other, client.id)
        one.refuses_within(other, PROMISED_SECONDS)
        proxy.mend()
        eventually(one.hears, "it does not hear again")
        later = server.tokens(client.id)["access_token"]
        assert one.status(later) == 200
        revoke(server, later, client.id)
        one.refuses_within(later, 2)


def test_a_short_cut_costs_nothing_and_misses_nothing(server: AuthServer, proxy: CutProxy) -> None:
    polls = {"url": f"{proxy.origin}/events/poll"}
    with replica(server.issuer, origin_of(server), revocations=polls) as one:
        client = server.register()
        revoked, kept = (server.tokens(client.id)["access_token"] for _ in range(2))
        assert [one.status(each) for each in (revoked, kept)] == [200, 200]
        proxy.refuse()
        revoke(server, revoked, client.id)
        proxy.mend()
        one.refuses_within(revoked, 3)
        before = one.metric("introspection_cache_requests_total", result="miss")
        assert one.status(kept) == 200
        assert one.metric("introspection_cache_requests_total", result="miss") == before
        assert one.metric("revocation_events_total", result="beginning") == 1


def test_a_replica_that_never_heard_believes_an_answer_for_five_seconds(server: AuthServer, proxy: CutProxy) -> None:
    proxy.refuse()
    polls = {"url": f"{proxy.origin}/events/poll"}
    with replica(server.issuer, origin_of(server), revocations=polls, hears=False) as one:
        client = server.register()
        token = server.tokens(client.id)["access_token"]
        assert one.status(token) == 200
        revoke(server, token, client.id)
        assert one.refuses_within(token, PROMISED_SECONDS) > DOUBT_SECONDS - 2


def test_another_secret_is_not_listened_to_and_says_so(server: AuthServer, proxy: CutProxy) -> None:
    introspection = {"client_id": "mcp", "client_secret": "wrong", "url": f"{server.issuer}/introspect"}
    with replica(server.issuer, origin_of(server), introspection=introspection, hears=False) as one:
        time.sleep(1)
        assert not one.hears()
        failures = [e for e in server.events("client.authentication") if e["actor"]["client_id"] == "mcp"]
        assert len(failures) <= 2


def has_read(server: AuthServer, event: str) -> bool:
    """Whether it knows of this event, and of nothing behind it."""
    answer = server.http.post(
        f"{server.issuer}/events/poll",
        json={"ack": [event], "returnImmediately": True},
        auth=("mcp", RESOURCE_SECRET),
    )
    return answer.status_code == 200 and answer.json()["sets"] == {}


def test_whoever_is_too_far_behind_asks_everything_anew(server: AuthServer, proxy: CutProxy, store_url: str) -> None:
    polls = {"url": f"{proxy.origin}/events/poll"}
    with replica(server.issuer, origin_of(server), revocations=polls) as one, client_of(store_url) as redis:
        client = server.register()
        revoked, kept = (server.tokens(client.id)["access_token"] for _ in range(2))
        assert [one.status(each) for each in (revoked, kept)] == [200, 200]
        proxy.refuse()
        revoke(server, revoked, client.id)
        pipeline = redis.pipeline()
        for number in range(RETAINED + 100):
            pipeline.xadd(STREAM, {"audience": "x", "kind": "grant", "name": str(number)}, maxlen=RETAINED)
        last = pipeline.execute()[-1]
        # A poll that comes before the server has read that far is told of the one event, and has missed nothing.
        eventually(lambda: has_read(server, last), "the server does not read on")
        proxy.mend()
        one.refuses_within(revoked, PROMISED_SECONDS)
        eventually(lambda: one.metric("revocation_events_total", result="beginning") == 2, "it did not begin anew")
        before = one.metric("introspection_cache_requests_total", result="miss")
        assert one.status(kept) == 200
        assert one.metric("introspection_cache_requests_total", result="miss") == before + 1
        redis.delete(STREAM)


def test_an_authorization_server_that_restarts_is_heard_again(store_url: str) -> None:
    with ExitStack() as stack:
        first = stack.enter_context(running_auth_server(store_url))
        proxy = stack.enter_context(cut_proxy(urlsplit(first.issuer).port or 0))
        one = stack.enter_context(replica(first.issuer, proxy.origin))
        client, person = first.register(), first.person()
        for _ in range(5):
            token = first.tokens(client.id, person)["access_token"]
            assert one.status(token) == 200
            proxy.reset()
            revoke(first, token, client.id)
            one.refuses_within(token, PROMISED_SECONDS)


@pytest.mark.parametrize("seconds", [0.5, SILENCE_SECONDS + 1.5])
@pytest.mark.parametrize("validation", ["introspection", "jwks"])
def test_nothing_is_missed_that_is_revoked_while_the_authorization_server_restarts(
    store_url: str, validation: str, seconds: float
) -> None:
    resources = {
        "mcp": {
            "uri": RESOURCE,
            "title": "Team tools",
            "scopes": SCOPES,
            "secret": RESOURCE_SECRET,
            "access_token": "jwt" if validation == "jwks" else "opaque",
        }
    }
    with ExitStack() as stack:
        going = ExitStack()
        first = going.enter_context(running_auth_server(store_url, resources=resources))
        stack.callback(going.close)
        one = stack.enter_context(
            replica(first.issuer, first.issuer, validation=validation, jwks={"url": f"{first.issuer}/jwks"})
        )
        # A process of the same server, which is not asked by the replica.
        other = stack.enter_context(running_auth_server(store_url, resources=resources, issuer=first.issuer))
        client = first.register()
        token, grant, kept = (first.tokens(client.id) for _ in range(3))
        assert [one.status(each["access_token"]) for each in (token, grant, kept)] == [200, 200, 200]
        applied, begun = (one.metric("revocation_events_total", result=each) for each in ("applied", "beginning"))
        going.close()
        revoke(other, token["access_token"], client.id)
        revoke(other, grant["refresh_token"], client.id)
        time.sleep(seconds)
        assert one.hears() is (seconds < SILENCE_SECONDS)
        stack.enter_context(running_auth_server(store_url, resources=resources, port=urlsplit(first.issuer).port or 0))
        for each in (token, grant):
            one.refuses_within(each["access_token"], PROMISED_SECONDS)
        eventually(one.hears, "it does not hear again")
        assert one.status(kept["access_token"]) == 200
        # They were delivered, not only asked about again.
        assert one.metric("revocation_events_total", result="applied") == applied + 2
        assert one.metric("revocation_events_total", result="beginning") == begun


@contextmanager
def own_store() -> Iterator[Stores]:
    with tempfile.TemporaryDirectory(prefix="ks-") as folder, standalone(Site(Path(folder))) as stores:
        yield stores


def test_a_store_that_restarts_empty_or_not_is_heard_again() -> None:
    with own_store() as stores, running_auth_server("", store=stores.settings) as server:
        valkey: Server = stores.servers[0]
        with replica(server.issuer, origin_of(server)) as one:
            before = one.metric("revocation_events_total", result="beginning")
            with valkey.killed():
                eventually(lambda: not one.hears(), "it does not say so", SILENCE_SECONDS + 3)
            eventually(one.hears, "it does not hear again")
            # It kept nothing, so the stream is another one.
            eventually(
                lambda: one.metric("revocation_events_total", result="beginning") > before, "it did not begin anew"
            )
            client = server.register()
            token = server.tokens(client.id)["access_token"]
            assert one.status(token) == 200
            revoke(server, token, client.id)
            one.refuses_within(token, PROMISED_SECONDS)


def test_a_failover_that_loses_the_place_in_the_stream_makes_a_replica_ask_everything_anew() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ks-") as folder,
        sentinel(Site(Path(folder))) as stores,
        running_auth_server("", store=stores.settings) as server,
        replica(server.issuer, origin_of(server)) as one,
    ):
        client, person = server.register(), server.person()
        lost, kept, later = (server.tokens(client.id, person)["access_token"] for _ in range(3))
        assert [one.status(each) for each in (lost, kept, later)] == [200, 200, 200]
        beginnings = one.metric("revocation_events_total", result="beginning")
        master, other = stores.servers
        eventually(lambda: _offset(master) == _offset(other), "the replica does not follow")
        with other.killed():
            # What the store's replica never gets, the server's replica has heard of.
            revoke(server, lost, client.id)
            one.refuses_within(lost, 3)
            master.kill()
        eventually(lambda: stores.master() is other, "there was no failover", 30)
        eventually(
            lambda: one.metric("revocation_events_total", result="beginning") > beginnings, "it did not begin anew", 30
        )
        eventually(one.hears, "it does not hear again", 30)
        before = one.metric("introspection_cache_requests_total", result="miss")
        assert one.status(kept) == 200
        assert one.metric("introspection_cache_requests_total", result="miss") == before + 1
        assert one.status(later) == 200
        revoke(server, later, client.id)
        one.refuses_within(later, 2)


def _offset(server: Server) -> int:
    with server.client as client:
        return int(client.info("replication")["master_repl_offset"])


def test_in_a_cluster_revocations_are_heard_of_as_well() -> None:
    with (
        tempfile.TemporaryDirectory(prefix="ks-") as folder,
        cluster(Site(Path(folder))) as stores,
        running_auth_server("", store=stores.settings) as server,
        replica(server.issuer, origin_of(server)) as one,
    ):
        client, person = server.register(), server.person()
        for _ in range(10):
            tokens = server.tokens(client.id, person)
            assert one.status(tokens["access_token"]) == 200
            revoke(server, tokens["refresh_token"], client.id)
            one.refuses_within(tokens["access_token"], 3)
        token = server.tokens(client.id, person)["access_token"]
        assert one.status(token) == 200
        revoke(server, token, client.id)
        one.refuses_within(token, 3)
        assert one.metric("revocation_events_total", result="applied") == 11
