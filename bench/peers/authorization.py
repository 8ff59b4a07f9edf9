"""Authorization servers that others made, and Keystile's, against a bare uvicorn hello on the same core.

Each in the same rounds, asked the same questions in the same way.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from urllib.parse import urlsplit

from bench.authorization import (
    ASKED,
    CONNECTIONS,
    GOALS,
    Measured,
    client_credentials,
    constant,
    hello_requests,
    introspections,
    redemptions,
    rotations,
)
from bench.authorization_server import RESOURCE, SCOPE, Contents, authorization_server, basic, valkey
from bench.http_load import Next, bodies_of, form_request
from bench.load import CLIENT_CORE, Server, server
from bench.peers import servers
from bench.peers.environment import MissingError, oidc_provider_version
from bench.peers.sdk_example import code_text
from bench.rounds import ROUNDS, Result, interleaved, pin, ratios, result

HELLO = "hello"
KEYSTILE = "Keystile"
OIDC_PROVIDER = "oidc-provider"
SDK = "MCP SDK's example"
_WARM_UP_AND_ROUNDS = ROUNDS + 1


def tokens_in(bodies: list[bytes]) -> list[str]:
    """The access tokens of answers of a token endpoint."""
    return [str(json.loads(body)["access_token"]) for body in bodies]


class _Rows:
    """What is measured, by the name of its row."""

    def __init__(self, requests: int) -> None:
        self._requests = requests
        self.measured: dict[str, Measured] = {}

    def add(self, name: str, target: Server, path: str, share: float, makers: Callable[[], list[Next]]) -> None:
        """A row; `share` is how many requests it sends in a round, of those that introspection sends."""
        self.measured[name] = Measured(target, path, int(self._requests * share), makers)


def measure(quick: bool) -> Iterator[Result]:
    """Ratios to hello. A peer that cannot run here is named, and left out."""
    pin(CLIENT_CORE)
    requests = 2_000 if quick else 10_000
    grants = requests // 5
    with ExitStack() as stack:
        rows = _Rows(requests)
        rows.add(HELLO, stack.enter_context(server("hello")), "/", 2, constant(hello_requests()))
        _keystile(stack, rows, grants)
        try:
            _oidc_provider(stack, rows)
            yield Result(OIDC_PROVIDER, oidc_provider_version(), "")
        except MissingError as why:
            yield Result(f"{OIDC_PROVIDER} is left out: {why}", "", "")
        _sdk(stack, rows, grants)
        found = interleaved({name: row.once for name, row in rows.measured.items()})
        for name in sorted(found.keys() - {HELLO}):
            yield result(f"{name}, of hello", ratios(found[HELLO], found[name]), "", least=goal(name))
            yield result(f"{name}, a second", rows.measured[name].rates[-ROUNDS:], "/s")


def goal(name: str) -> float | None:
    """The least that a row of Keystile's should be; others have no goal."""
    question, _, whose = name.partition(", ")
    return GOALS[question] if whose == KEYSTILE else None


def _keystile(stack: ExitStack, rows: _Rows, grants: int) -> None:
    store_port = stack.enter_context(valkey())
    target = stack.enter_context(authorization_server(store_port))
    contents = Contents(store_port)
    tokens = contents.access_tokens(ASKED, target.url)
    measured = grants * _WARM_UP_AND_ROUNDS
    codes, families = contents.codes(measured), contents.codes(measured + CONNECTIONS)
    rows.add(f"introspection, {KEYSTILE}", target, "/introspect", 1, constant(introspections(target.url, tokens)))
    rows.add(
        f"client_credentials, {KEYSTILE}", target, "/token", 0.5, constant(client_credentials(target.url, RESOURCE))
    )
    rows.add(f"code and PKCE, {KEYSTILE}", target, "/token", 0.2, redemptions(target.url, codes))
    rows.add(f"refresh, {KEYSTILE}", target, "/token", 0.2, rotations(target.url, families))


def _oidc_provider(stack: ExitStack, rows: _Rows) -> None:
    target = stack.enter_context(servers.oidc_provider())
    parameters = {"grant_type": "client_credentials", "resource": RESOURCE, "scope": SCOPE}
    asking = form_request(f"{target.url}/token", parameters, basic("machine"))
    tokens = tokens_in(bodies_of(target.url, [asking] * (ASKED + 1), 1))
    path = "/token/introspection"
    questions = [form_request(f"{target.url}{path}", {"token": each}, basic("tools")) for each in tokens]
    assert_active(target.url, questions[0])
    rows.add(f"introspection, {OIDC_PROVIDER}", target, path, 1, constant(questions))
    rows.add(f"client_credentials, {OIDC_PROVIDER}", target, "/token", 0.5, constant([asking]))


def _sdk(stack: ExitStack, rows: _Rows, grants: int) -> None:
    measured = grants * _WARM_UP_AND_ROUNDS
    families = measured + CONNECTIONS
    codes = [code_text(number) for number in range(measured + families + ASKED + 1)]
    target = stack.enter_context(servers.sdk_example(len(codes)))
    asked = redemptions(target.url, codes[measured + families :])()[0]
    tokens = tokens_in(bodies_of(target.url, [asked(None) for _ in range(ASKED + 1)], 1))
    questions = introspections(target.url, tokens)
    assert_active(target.url, questions[0])
    rows.add(f"introspection, {SDK}", target, "/introspect", 1, constant(questions))
    rows.add(f"code and PKCE, {SDK}", target, "/token", 0.2, redemptions(target.url, codes[:measured]))
    rows.add(f"refresh, {SDK}", target, "/token", 0.2, rotations(target.url, codes[measured : measured + families]))


def assert_active(url: str, question: bytes) -> None:
    """See that the first question about a token is answered as it must be, so that no refusal is measured."""
    answer = json.loads(bodies_of(url, [question] * 2, 1)[0])
    assert answer["active"] is True, answer
    assert answer["aud"] == RESOURCE, answer
    assert urlsplit(answer["iss"]).netloc == urlsplit(url).netloc, answer
