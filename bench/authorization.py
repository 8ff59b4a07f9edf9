"""The authorization server's endpoints against a bare uvicorn that says hello, on the same core in the same rounds.

Ratios are of processor time a request, which other programs on the machine disturb less than requests a second.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from urllib.parse import urlsplit

from bench.authorization_server import (
    CALLBACK,
    CLIENT,
    PKCE,
    PODS_RESOURCE,
    RESOURCE,
    SIGNED_RESOURCE,
    Contents,
    authorization_server,
    basic,
    valkey,
)
from bench.http_load import Next, bodies_of, form_request, run
from bench.load import CLIENT_CORE, Server, server
from bench.rounds import ROUNDS, Result, interleaved, pin, ratios, result
from keystile_auth.clients.authentication import JWT_BEARER
from tests.cluster import running_cluster

CONNECTIONS = 64
_LIVE = 100_000
ASKED = 4_096
CACHED = 10_000
_MAY_FAIL = 0.01  # on a machine that stands still for a second because of something else
BY_POD = "introspection, proved by a pod's token"
WITH_CACHE = "introspection with tokens in memory"


class Measured:
    """One row: a server, and what is asked of it in each round."""

    def __init__(self, target: Server, path: str, requests: int, makers: Callable[[], list[Next]]) -> None:
        self._target = target
        self._url = f"{origin(target.url)}{path}"
        self._requests = requests
        self._makers = makers
        self.rates: list[float] = []

    def once(self) -> float:
        """Microseconds of the server's processor for a request."""
        before = self._target.cpu_seconds()
        answers = run(self._url, self._requests, self._makers())
        spent = self._target.cpu_seconds() - before
        assert len(answers.refused) <= _MAY_FAIL * self._requests, answers.refused[0]
        self.rates.append(self._requests / answers.seconds)
        return spent / self._requests * 1_000_000


def origin(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def constant(messages: list[bytes], connections: int = CONNECTIONS) -> Callable[[], list[Next]]:
    """Each connection sends the messages in turn, from a place of its own."""

    def makers() -> list[Next]:
        step = max(1, len(messages) // connections)
        return [_turning(messages[n * step :] + messages[: n * step]) for n in range(connections)]

    return makers


def _turning(messages: list[bytes]) -> Next:
    turn = cycle(messages)
    return lambda _: next(turn)


def hello_requests() -> list[bytes]:
    return [b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"]


def introspections(url: str, tokens: list[str]) -> list[bytes]:
    """A question about each token, as `tools` asks it."""
    return [form_request(f"{url}/introspect", {"token": each}, basic("tools")) for each in tokens]


def introspections_by_pod(url: str, tokens: list[str], pods_token: str) -> list[bytes]:
    """A question about each token, as a pod asks it that has no secret: in a cluster, all servers of the chart."""
    proof = {"client_id": "pods", "client_assertion_type": JWT_BEARER, "client_assertion": pods_token}
    form = {"token_type_hint": "access_token", **proof}
    return [form_request(f"{url}/introspect", {"token": each, **form}) for each in tokens]


def client_credentials(url: str, resource: str) -> list[bytes]:
    return [form_request(f"{url}/token", {"grant_type": "client_credentials", "resource": resource}, basic("machine"))]


def redemption(url: str, code: str) -> bytes:
    parameters = {
        "grant_type": "authorization_code", "client_id": CLIENT, "code": code, "redirect_uri": CALLBACK,
        "code_verifier": PKCE.verifier, "resource": RESOURCE,
    }  # fmt: skip
    return form_request(f"{url}/token", parameters)


def refresh(url: str, token: str) -> bytes:
    parameters = {"grant_type": "refresh_token", "client_id": CLIENT, "refresh_token": token, "resource": RESOURCE}
    return form_request(f"{url}/token", parameters)


def redemptions(url: str, codes: list[str]) -> Callable[[], list[Next]]:
    messages = iter([redemption(url, each) for each in codes])
    return lambda: [lambda _: next(messages)] * CONNECTIONS


def rotations(url: str, codes: list[str]) -> Callable[[], list[Next]]:
    """Refresh tokens, as the codes are redeemed for them now; each is used once, as clients do while a token lives."""
    bodies = bodies_of(f"{url}/token", [redemption(url, each) for each in codes], CONNECTIONS)
    messages = iter([refresh(url, json.loads(each)["refresh_token"]) for each in bodies])
    return lambda: [lambda _: next(messages)] * CONNECTIONS


def _rows(name: str, found: dict[str, list[float]], measured: Measured, goal: float | None) -> Iterator[Result]:
    yield result(f"{name}, of hello", ratios(found["hello"], found[name]), "", least=goal, reference=name)
    yield result(f"{name}, processor time", found[name], " µs")
    yield result(f"{name}, a second", measured.rates[-ROUNDS:], "/s")


GOALS = {
    "introspection": 0.50,
    BY_POD: 0.50,
    WITH_CACHE: 0.75,
    "client_credentials": 0.40,
    "code and PKCE": 0.25,
    "refresh": 0.28,
    "client_credentials with an ES256 JWT": 0.22,
}


def measure(quick: bool) -> Iterator[Result]:
    """Ratios to hello, then memory."""
    pin(CLIENT_CORE)
    requests = 2_500 if quick else 20_000
    grants = 500 if quick else 4_000
    with ExitStack() as stack:
        hello = stack.enter_context(server("hello"))
        store_port = stack.enter_context(valkey())
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ks-bench-"))
        cluster = stack.enter_context(running_cluster(Path(folder)))
        plain = stack.enter_context(authorization_server(store_port, cluster=cluster))
        caching = stack.enter_context(authorization_server(store_port, CACHED))
        contents = Contents(store_port)
        empty = contents.used_bytes()
        tokens = contents.access_tokens(_LIVE, plain.url)
        taken = contents.used_bytes() - empty
        asked = contents.sample(tokens, ASKED)
        of_pods = contents.access_tokens(ASKED, plain.url, PODS_RESOURCE)
        by_pod = introspections_by_pod(plain.url, of_pods, cluster.token(plain.url))
        codes = contents.codes(grants * (ROUNDS + 1))
        families = contents.codes(grants * (ROUNDS + 1) + CONNECTIONS)
        rows = {
            "hello": Measured(hello, "/", 2 * requests, constant(hello_requests())),
            "hello, asked the same": Measured(hello, "/", requests, constant(introspections(hello.url, asked))),
            "introspection": Measured(plain, "/introspect", requests, constant(introspections(plain.url, asked))),
            BY_POD: Measured(plain, "/introspect", requests, constant(by_pod)),
            WITH_CACHE: Measured(caching, "/introspect", requests, constant(introspections(caching.url, asked))),
            "client_credentials": Measured(
                plain, "/token", requests // 2, constant(client_credentials(plain.url, RESOURCE))
            ),
            "client_credentials with an ES256 JWT": Measured(
                plain, "/token", requests // 2, constant(client_credentials(plain.url, SIGNED_RESOURCE))
            ),
            "code and PKCE": Measured(plain, "/token", grants, redemptions(plain.url, codes)),
            "refresh": Measured(plain, "/token", grants, rotations(plain.url, families)),
        }
        found = interleaved({name: row.once for name, row in rows.items()})
        yield result("hello, processor time", found["hello"], " µs")
        yield result("hello, a second", rows["hello"].rates[-ROUNDS:], "/s")
        for name in list(rows)[1:]:
            yield from _rows(name, found, rows[name], GOALS.get(name))
        yield result("store, 100k access tokens", [taken / 1e6 * 100_000 / _LIVE], " MB", most=60)
        yield result("memory of the process", [plain.resident_bytes() / 1e6], " MB", most=80)
