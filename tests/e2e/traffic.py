"""Constant traffic from several clients, every answer counted."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx2

from tests.e2e.site import SignedIn, Site

_PACE_SECONDS = 0.05
_TOKEN_AGE_SECONDS = 4


@dataclass
class Tally:
    """What the clients got.

    Attributes:
        requests: method and path to the number of requests.
        failures: requests that got no answer, or one that a client cannot go on with.
        rounds: how often each kind of client came to its end.
    """

    requests: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    rounds: Counter[str] = field(default_factory=Counter)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, request: httpx2.Request, failure: str | None) -> None:
        """Count one request."""
        what = f"{request.method} {request.url.path}"
        with self.lock:
            self.requests[what] += 1
            if failure:
                self.failures.append(f"{time.strftime('%H:%M:%S')} {what}: {failure}")

    def __str__(self) -> str:
        rounds = ", ".join(f"{count} {name}" for name, count in sorted(self.rounds.items()))
        return f"{len(self.failures)} of {self.requests.total()} requests failed ({rounds})"


class Counted(httpx2.BaseTransport):
    """The way to the site, each answer counted: an error of the server, or none at all, is a failure."""

    def __init__(self, site: Site, tally: Tally) -> None:
        self._tally = tally
        self._http = httpx2.HTTPTransport(verify=site.tls)

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            answer = self._http.handle_request(request)
        except httpx2.TransportError as error:
            self._tally.add(request, repr(error))
            raise
        refused = answer.status_code >= 400
        self._tally.add(request, f"{answer.status_code}" if refused else None)
        return answer

    def close(self) -> None:
        self._http.close()


def _logins(site: Site, tally: Tally, client_id: str) -> Callable[[], None]:
    def log_in() -> None:
        # A new browser and a new connection each time, as with people.
        with site.http(Counted(site, tally)) as http:
            site.sign_in(http, client_id, transport=Counted(site, tally))

    return log_in


def _refreshes(site: Site, http: httpx2.Client, client: SignedIn) -> Callable[[], None]:
    def refresh() -> None:
        assert site.refresh(http, client).status_code == 200

    return refresh


def _tool_calls(site: Site, http: httpx2.Client, client: SignedIn) -> Callable[[], None]:
    refreshed = 0.0

    def call() -> None:
        nonlocal refreshed
        if time.monotonic() - refreshed > _TOKEN_AGE_SECONDS:
            assert site.refresh(http, client).status_code == 200
            refreshed = time.monotonic()
        assert site.call_tool(http, client.access_token).status_code == 200

    return call


@contextmanager
def traffic(site: Site) -> Iterator[Tally]:
    """Logins, refreshes and tool calls at once, and without end, while the block runs."""
    tally, stop = Tally(), threading.Event()
    with site.http() as http:
        client_id = site.register(http, "Signs in again and again")
        clients = [site.sign_in(http, client_id) for _ in range(4)]

    def work(name: str, once: Callable[[], None]) -> None:
        while not stop.wait(_PACE_SECONDS):
            # What failed is counted where it was seen; the client tries again.
            with suppress(AssertionError, httpx2.TransportError):
                once()
                with tally.lock:
                    tally.rounds[name] += 1

    connections = [site.http(Counted(site, tally)) for _ in clients]
    workers = [
        ("logins", _logins(site, tally, client_id)),
        ("refreshes", _refreshes(site, connections[0], clients[0])),
        ("refreshes", _refreshes(site, connections[1], clients[1])),
        ("tool calls", _tool_calls(site, connections[2], clients[2])),
        ("tool calls", _tool_calls(site, connections[3], clients[3])),
    ]
    threads = [threading.Thread(target=work, args=worker) for worker in workers]
    for thread in threads:
        thread.start()
    try:
        yield tally
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        for connection in connections:
            connection.close()
