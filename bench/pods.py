"""How much more two authorization servers on one store answer than one does.

With four cores it is measured: each server, the store and the caller have one, and answers a second are compared. With
fewer it is worked out from the processor time that a request takes of a server and of the store. What a process could
answer with a core of its own is a second divided by that time; two servers and their store, the less of what they can.
Both servers are on one core then, which costs each something, so the one server that they are compared with has a
neighbour there too, with as much to do and a store of its own: what differs is the store alone.
"""

import copy
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.authorization import ASKED, CONNECTIONS, client_credentials, constant, introspections
from bench.authorization_server import RESOURCE, Contents, authorization_server, valkey_server
from bench.http_load import Load, run_together
from bench.load import CLIENT_CORE, Server
from bench.rounds import ROUNDS, SERVER_CORE, Result, cores, interleaved, pin, result

LEAST = 1.8
_ENOUGH_CORES = 4
_SECOND_CORE, _STORE_CORE = 2, 3
_MAY_FAIL = 0.01
_INTROSPECTION = "introspection"
NAMES = (_INTROSPECTION, "client_credentials")


@dataclass
class Pods:
    """Some servers under the same load each.

    Attributes:
        servers: these.
        stores: one that they share, or one for each.
        load: what each is sent in a round.
        of_server: microseconds of a server's processor for a request, one a round.
        of_store: of a store's.
        rates: answers a second of all of them.
    """

    servers: list[Server]
    stores: list[Server]
    load: list[Load]
    of_server: list[float] = field(default_factory=list)
    of_store: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)

    def once(self) -> float:
        """Answers a second."""
        before, before_of_stores = _spent(self.servers), _spent(self.stores)
        answers = run_together(self.load, used_before=True)
        # What was sent before the counted requests was answered too.
        count = len(answers.taken) + sum(len(each.makers) for each in self.load)
        assert len(answers.refused) <= _MAY_FAIL * count, answers.refused[0]
        self.of_server.append((_spent(self.servers) - before) / count * 1_000_000)
        self.of_store.append((_spent(self.stores) - before_of_stores) / count * 1_000_000)
        self.rates.append(len(answers.taken) / answers.seconds)
        return self.rates[-1]

    def possible(self) -> list[float]:
        """Answers a second on one store, for each round, if every process had a core of its own."""
        rounds = zip(self.of_server[-ROUNDS:], self.of_store[-ROUNDS:], strict=True)
        return [at_most(len(self.servers) // len(self.stores), server, store) for server, store in rounds]


def _spent(processes: list[Server]) -> float:
    return sum(each.cpu_seconds() for each in processes)


class _Site:
    """A store, and so many servers on it."""

    def __init__(self, stack: ExitStack, servers: int, *, is_direct: bool) -> None:
        pin(_STORE_CORE if is_direct else CLIENT_CORE)
        self.store = stack.enter_context(valkey_server())
        pin(CLIENT_CORE)
        port = int(self.store.url.rpartition(":")[2])
        places = [SERVER_CORE, _SECOND_CORE if is_direct else SERVER_CORE][:servers]
        self.servers = [stack.enter_context(authorization_server(port, BENCH_CORE=str(each))) for each in places]
        self._tokens = Contents(port).access_tokens(ASKED, self.servers[0].url)

    def first(self) -> "_Site":
        """The same with its first server alone."""
        alone = copy.copy(self)
        alone.servers = self.servers[:1]
        return alone

    def load(self, name: str, requests: int) -> list[Load]:
        """So many introspections for each server, or half as many tokens."""
        if name == _INTROSPECTION:
            return [
                Load(f"{each.url}/introspect", requests, constant(introspections(each.url, self._tokens))())
                for each in self.servers
            ]
        return [
            Load(f"{each.url}/token", requests // 2, constant(client_credentials(each.url, RESOURCE))())
            for each in self.servers
        ]


def _pods(sites: list[_Site], name: str, requests: int) -> Pods:
    servers = [server for site in sites for server in site.servers]
    load = [load for site in sites for load in site.load(name, requests)]
    return Pods(servers, [site.store for site in sites], load)


def at_most(servers: int, of_server: float, of_store: float) -> float:
    """Requests a second that so many servers and one store have processor time for, with a core each.

    Args:
        servers: how many.
        of_server: microseconds of one server's processor for a request.
        of_store: of the store's.
    """
    return min(servers * 1_000_000 / of_server, 1_000_000 / of_store)


def measure(quick: bool) -> Iterator[Result]:
    """Two against one for introspection and client_credentials."""
    is_direct = cores() >= _ENOUGH_CORES
    requests = 4_000 if quick else 20_000
    with ExitStack() as stack:
        shared = _Site(stack, 2, is_direct=is_direct)
        # With a core for each, one is measured alone.
        apart = [shared.first()] if is_direct else [shared.first(), _Site(stack, 1, is_direct=False)]
        rows = {
            (name, count): _pods(sites, name, requests)
            for name in NAMES
            for count, sites in ((1, apart), (2, [shared]))
        }
        interleaved({f"{name}, {count}": each.once for (name, count), each in rows.items()})
    for name in NAMES:
        yield from _compared(name, rows[name, 1], rows[name, 2], is_direct=is_direct)


def _compared(name: str, one: Pods, two: Pods, *, is_direct: bool) -> Iterator[Result]:
    how = "answers a second" if is_direct else f"by processor time, {CONNECTIONS} connections each"
    of = [each.rates[-ROUNDS:] if is_direct else each.possible() for each in (one, two)]
    scaled = [both / alone for alone, both in zip(*of, strict=True)]
    yield result(f"{name}, two servers of one: {how}", scaled, "", least=LEAST)
    yield result(f"{name}, one server, its processor time", one.of_server[-ROUNDS:], " µs")
    yield result(f"{name}, two servers, their processor time", two.of_server[-ROUNDS:], " µs")
    yield result(f"{name}, two servers, the store's", two.of_store[-ROUNDS:], " µs")
