"""A client that asks again and again on one connection is answered as if each request were its first."""

import base64
import json
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from tests.auth_server import OTHER_SECRET, RESOURCE, RESOURCE_SECRET, AuthServer, running_auth_server
from tests.kept_connection import Answer, KeptConnection, post
from tests.operator import Operator
from tests.stores import BUSY_SECONDS


def basic(name: str | bytes, secret: str | bytes) -> str:
    def text(value: str | bytes) -> str:
        return value if isinstance(value, str) else value.decode()

    return "Basic " + base64.b64encode(f"{text(name)}:{text(secret)}".encode()).decode()


AS_MCP = basic("mcp", RESOURCE_SECRET)
introspect: Callable[[str], bytes] = partial(post, "/introspect", Authorization=AS_MCP)


@pytest.fixture(params=[0, 1000], ids=["from the store", "in memory"])
def server(request: pytest.FixtureRequest, store_url: str) -> Iterator[AuthServer]:
    """A server that reads each access token from its store, and one that keeps them in memory."""
    with running_auth_server(store_url, tokens={"client_cache": request.param}) as server:
        yield server


@pytest.fixture
def kept(server: AuthServer) -> Iterator[KeptConnection]:
    """A connection whose next introspection is a like of the one before."""
    with KeptConnection(server.issuer) as connection:
        for _ in range(3):
            assert connection.ask(introspect(f"token={'x' * 56}")).status == 200
        yield connection


def is_active(answer: Answer) -> bool:
    assert answer.status == 200
    return bool(json.loads(answer.body)["active"])


def access_token(server: AuthServer) -> str:
    return str(server.tokens(server.register().id)["access_token"])


def first(server: AuthServer, request: bytes) -> Answer:
    with KeptConnection(server.issuer) as connection:
        return connection.ask(request)


def test_each_token_is_answered_as_on_a_connection_of_its_own(server: AuthServer, kept: KeptConnection) -> None:
    tokens = [access_token(server) for _ in range(2)]
    junk = [tokens[0][:-1] + ("A" if tokens[0][-1] != "A" else "B"), "kst_rt_" + "A" * 49, "x" * 56, "%" * 56]
    for token in [*tokens, *junk, *tokens, *tokens]:
        request = introspect(f"token={token}")
        assert kept.ask(request) == first(server, request), token
    assert is_active(kept.ask(introspect(f"token={tokens[0]}")))


@pytest.mark.parametrize(
    "body",
    [
        "token=\0{0}", "token={0}&token={0}", "toke={0}x", "token={0}&token_type_hint=access_token",
        "token=%6b{1}", "client_secret=x&token={0}", "",
    ],
)  # fmt: skip
def test_each_body_is_read_as_strictly(server: AuthServer, kept: KeptConnection, body: str) -> None:
    token = access_token(server)
    request = introspect(body.format(token, token[1:]))
    kept.ask(introspect(f"token={token}"))
    assert kept.ask(request) == kept.ask(request) == first(server, request)
    assert is_active(kept.ask(introspect(f"token={token}")))


def test_a_revoked_token_is_not_active_any_more(server: AuthServer, kept: KeptConnection) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    request = introspect(f"token={tokens['access_token']}")
    for _ in range(3):
        assert is_active(kept.ask(request))
    data = {"client_id": client.id, "token": tokens["refresh_token"]}
    assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
    assert not is_active(kept.ask(request))


def test_an_expired_token_is_not_active_any_more(store_url: str) -> None:
    with running_auth_server(store_url, tokens={"access_token_seconds": 4, "client_cache": 10}) as server:
        request = introspect(f"token={access_token(server)}")
        with KeptConnection(server.issuer) as kept:
            kept.ask(request)
            deadline = time.monotonic() + 5 + BUSY_SECONDS
            while is_active(kept.ask(request)):
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_another_servers_token_is_none(server: AuthServer, kept: KeptConnection) -> None:
    request = f"token={access_token(server)}"
    assert is_active(kept.ask(introspect(request)))
    as_other = post("/introspect", request, Authorization=basic("other", OTHER_SECRET))
    for _ in range(3):
        assert not is_active(kept.ask(as_other))
    assert is_active(kept.ask(introspect(request)))


def test_a_secret_that_is_wrong_in_one_character_is_refused(server: AuthServer, kept: KeptConnection) -> None:
    token = access_token(server)
    wrong = post("/introspect", f"token={token}", Authorization=basic("mcp", RESOURCE_SECRET[:-1] + "!"))
    assert is_active(kept.ask(introspect(f"token={token}")))
    for _ in range(3):
        assert kept.ask(wrong).status == 401


def test_a_script_in_a_browser_gets_the_headers_of_cors_each_time(server: AuthServer, operator: Operator) -> None:
    machine = operator.machine()
    form = f"grant_type=client_credentials&resource={RESOURCE}"
    request = post("/token", form, Authorization=basic(*machine), Origin="https://app.example.com")
    with KeptConnection(server.issuer) as kept:
        for _ in range(3):
            answer = kept.ask(request)
            assert answer.status == 200
            assert any(line.lower().startswith(b"access-control-allow-origin: ") for line in answer.headers)


def test_each_request_is_counted(server: AuthServer, kept: KeptConnection) -> None:
    def counted() -> list[float]:
        sample = server.metrics.registry.get_sample_value
        name = "keystile_introspection_requests_total"
        values = [sample(name, {"result": result}) for result in ("active", "inactive")]
        return [value or 0 for value in (*values, sample("keystile_introspection_duration_seconds_count"))]

    request, before = introspect(f"token={access_token(server)}"), counted()
    for _ in range(4):
        kept.ask(request)
    kept.ask(introspect(f"token={'x' * 56}"))
    assert [now - was for now, was in zip(counted(), before, strict=True)] == [4, 1, 5]


def test_requests_that_do_not_wait_for_answers_are_answered_in_their_order(
    server: AuthServer, kept: KeptConnection
) -> None:
    tokens = [access_token(server) for _ in range(2)]
    asked = [*tokens, "x" * 56, *tokens] * 4
    for token in asked:
        kept.send(introspect(f"token={token}"))
        time.sleep(0.001)
    names = [json.loads(kept.read().body).get("jti") for _ in asked]
    assert names == [*names[:2], None, *names[:2]] * 4
    assert len(set(names)) == 3


def test_each_token_request_gets_a_token_of_its_own_and_is_recorded(server: AuthServer, operator: Operator) -> None:
    machine = operator.machine("mcp:basic")
    request = post("/token", f"grant_type=client_credentials&resource={RESOURCE}", Authorization=basic(*machine))
    refused = post("/token", f"grant_type=client_credentials&resource={RESOURCE[:-1]}x", Authorization=basic(*machine))
    assert len(request) == len(refused)
    with KeptConnection(server.issuer) as kept:
        answers = [kept.ask(request) for _ in range(5)]
        assert kept.ask(refused) == first(server, refused)
        answers.append(kept.ask(request))
    tokens = {json.loads(answer.body)["access_token"] for answer in answers}
    assert len(tokens) == 6
    assert all(server.is_active(token) for token in tokens)
    recorded = [each for each in server.events("token.issued") if each["actor"]["client_id"] == machine[0]]
    assert [each["actor"]["ip"] for each in recorded] == ["127.0.0.1"] * 6
    assert answers[-1].headers == first(server, request).headers


def test_a_refresh_token_that_comes_twice_is_reuse(server: AuthServer) -> None:
    client = server.register()
    tokens = server.tokens(client.id)
    with KeptConnection(server.issuer) as kept:

        def refresh(token: str) -> Answer:
            return kept.ask(post("/token", f"grant_type=refresh_token&client_id={client.id}&refresh_token={token}"))

        chain = [tokens["refresh_token"]]
        for _ in range(4):
            chain.append(json.loads(refresh(chain[-1]).body)["refresh_token"])
        assert len(set(chain)) == 5
        assert refresh(chain[0]).status == 400
        assert refresh(chain[-1]).status == 400
    assert [each["actor"]["client_id"] for each in server.events("refresh_token.reuse_detected")] == [client.id]


def test_a_client_that_was_deleted_is_refused(server: AuthServer, operator: Operator) -> None:
    client = server.register()
    refresh_token = server.tokens(client.id)["refresh_token"]
    with KeptConnection(server.issuer) as kept:
        for _ in range(2):
            form = f"grant_type=refresh_token&client_id={client.id}&refresh_token={refresh_token}"
            refresh_token = json.loads(kept.ask(post("/token", form)).body)["refresh_token"]
        headers = {"Authorization": f"Bearer {client.registration_token}"}
        assert server.http.delete(client.registration_uri, headers=headers).status_code == 204
        form = f"grant_type=refresh_token&client_id={client.id}&refresh_token={refresh_token}"
        assert kept.ask(post("/token", form)).status == 401


def test_each_request_has_a_span_where_there_are_traces(store_url: str) -> None:
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    with running_auth_server(store_url, tracer=provider.get_tracer("t")) as server:
        request = introspect(f"token={access_token(server)}")
        spans.clear()
        with KeptConnection(server.issuer) as kept:
            for _ in range(5):
                assert is_active(kept.ask(request))
    names = [span.name for span in spans.get_finished_spans()]
    provider.shutdown()
    assert names.count("POST /introspect") == 5


def test_each_event_names_the_trace_of_its_request(server: AuthServer, operator: Operator) -> None:
    machine = operator.machine("mcp:basic")
    form = f"grant_type=client_credentials&resource={RESOURCE}"
    traces = [f"{number:032x}" for number in (1, 2, 2, 2)]
    with KeptConnection(server.issuer) as kept:
        for trace in traces:
            headers = {"Authorization": basic(*machine), "traceparent": f"00-{trace}-b7ad6b7169203331-01"}
            assert kept.ask(post("/token", form, **headers)).status == 200
    recorded = [each for each in server.events("token.issued") if each["actor"]["client_id"] == machine[0]]
    assert [each["trace_id"] for each in recorded] == traces
