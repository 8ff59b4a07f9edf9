"""Whether introspection takes longer when ten times as many tokens are alive: two stores, the same number of questions.

Needs 1.5 GB of memory: the larger store, and a copy of what it changes while it writes its file anew.
"""

import time
from collections.abc import Iterator
from contextlib import ExitStack

from bench.authorization import ASKED, Measured, constant, introspections
from bench.authorization_server import Contents, authorization_server, valkey_server
from bench.load import CLIENT_CORE
from bench.rounds import ROUNDS, Result, interleaved, pin, ratios, result

FEW, MANY = 100_000, 1_000_000
_NAMES = {FEW: "100k tokens", MANY: "1M tokens"}
MOST = 1.1
_TOKEN_SECONDS = "7200"
_REWRITE_SECONDS = 120


class Filled:
    """A store with so many live tokens, and an authorization server before it."""

    def __init__(self, stack: ExitStack, count: int, requests: int) -> None:
        self._store = stack.enter_context(valkey_server())
        port = int(self._store.url.rpartition(":")[2])
        target = stack.enter_context(authorization_server(port, KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=_TOKEN_SECONDS))
        contents = Contents(port)
        empty = contents.used_bytes()
        asked = contents.sample(contents.access_tokens(count, target.url), ASKED)
        self.megabytes = (contents.used_bytes() - empty) / 1e6
        settle(contents)
        self._requests = requests
        self._asked = Measured(target, "/introspect", requests, constant(introspections(target.url, asked)))
        self.of_store: list[float] = []

    def once(self) -> float:
        """Microseconds of the authorization server's processor for an introspection."""
        before = self._store.cpu_seconds()
        spent = self._asked.once()
        self.of_store.append((self._store.cpu_seconds() - before) / self._requests * 1_000_000)
        return spent


def settle(contents: Contents) -> None:
    """Wait until the store is done with writing its append-only file anew, which filling it has begun.

    Raises:
        TimeoutError: it goes on for two minutes.
    """
    deadline = time.monotonic() + _REWRITE_SECONDS
    while contents.client.info("persistence")["aof_rewrite_in_progress"]:
        if time.monotonic() > deadline:
            raise TimeoutError("the store still writes its append-only file")
        time.sleep(0.2)


def measure(quick: bool) -> Iterator[Result]:
    """Processor time a request before either store, of both processes, and the ratios."""
    pin(CLIENT_CORE)
    requests = 4_000 if quick else 20_000
    with ExitStack() as stack:
        stores = {name: Filled(stack, count, requests) for count, name in _NAMES.items()}
        found = interleaved({name: store.once for name, store in stores.items()})
    few, many = _NAMES.values()
    yield result(f"introspection among {few}, processor time", found[few], " µs")
    yield result(f"introspection among {many}, processor time", found[many], " µs")
    yield result(f"introspection among {many}, of {few}", ratios(found[many], found[few]), "", most=MOST)
    spent = {name: store.of_store[-ROUNDS:] for name, store in stores.items()}
    yield result(f"the store's processor time for it, {few}", spent[few], " µs")
    yield result(f"the store's processor time for it, {many}", spent[many], " µs")
    yield result(f"store, {many}, for each 100k of them", [stores[many].megabytes * FEW / MANY], " MB")
