"""What callers on 512 kept connections see: whether any is refused, and how long the slowest hundredth waits.

Each connection sends its next request when it has the answer to the last, so the server always has all it can do: how
long a request waits is how long the server takes for those of the other connections.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack

from bench.authorization import ASKED, CACHED, WITH_CACHE, client_credentials, constant, introspections
from bench.authorization_server import RESOURCE, Contents, authorization_server, valkey
from bench.http_load import Answers, Load, run_together
from bench.load import CLIENT_CORE
from bench.rounds import ROUNDS, Result, interleaved, pin, result

CONNECTIONS = 512
MOST_MS = 60.0


class Callers:
    """One row: what all of them ask of `url`."""

    def __init__(self, url: str, requests: int, messages: list[bytes]) -> None:
        self._load = Load(url, requests, constant(messages, CONNECTIONS)())
        self.answers: list[Answers] = []

    def once(self) -> float:
        """The 99th percentile, in milliseconds."""
        answers = run_together([self._load], used_before=True)
        self.answers.append(answers)
        return answers.percentile_ms(0.99)

    def rows(self, name: str, late: list[float], most: float) -> Iterator[Result]:
        counted = self.answers[-ROUNDS:]
        refused = [float(len(each.refused)) for each in counted]
        yield result(f"{name}, {CONNECTIONS} connections, refused", refused, "", most=0)
        yield result(f"{name}, {CONNECTIONS} connections, p99", late, " ms", most=most)
        middle = [each.percentile_ms(0.5) for each in counted]
        yield result(f"{name}, {CONNECTIONS} connections, median", middle, " ms")


def measure(quick: bool) -> Iterator[Result]:
    """Refusals of any kind, which no round may have, and milliseconds."""
    pin(CLIENT_CORE)
    requests = 3_000 if quick else 20_000
    with ExitStack() as stack:
        store_port = stack.enter_context(valkey())
        plain = stack.enter_context(authorization_server(store_port))
        caching = stack.enter_context(authorization_server(store_port, CACHED))
        tokens = Contents(store_port).access_tokens(ASKED, plain.url)
        machine = client_credentials(plain.url, RESOURCE)
        callers = {
            "introspection": Callers(f"{plain.url}/introspect", requests, introspections(plain.url, tokens)),
            WITH_CACHE: Callers(f"{caching.url}/introspect", requests, introspections(caching.url, tokens)),
            "client_credentials": Callers(f"{plain.url}/token", requests // 3, machine),
        }
        measures: dict[str, Callable[[], float]] = {name: each.once for name, each in callers.items()}
        found = interleaved(measures)
    for name, each in callers.items():
        yield from each.rows(name, found[name], MOST_MS)
