"""The store's process is killed."""

import threading
import time
from collections import Counter

import httpx2

from tests.e2e.kubernetes import eventually
from tests.e2e.site import CALLBACK, Site

_PACE_SECONDS = 0.02


class Watch(threading.Thread):
    """Asks for what needs the store, again and again; counts statuses and remembers when it was refused."""

    def __init__(self, site: Site, client_id: str) -> None:
        super().__init__()
        self.statuses: Counter[int] = Counter()
        self.refused: list[float] = []
        self.problems: list[str] = []
        self.stop = threading.Event()
        self._site = site
        self._parameters = {"response_type": "code", "client_id": client_id, "redirect_uri": CALLBACK}

    def run(self) -> None:
        with self._site.http() as http:
            while not self.stop.wait(_PACE_SECONDS):
                # An incomplete request: the client is looked up, then told by redirect what is missing.
                try:
                    status = http.get(f"{self._site.issuer}/authorize", params=self._parameters).status_code
                except httpx2.TransportError as error:
                    self.problems.append(repr(error))
                    continue
                self.statuses[status] += 1
                if status == 503:
                    self.refused.append(time.monotonic())


def test_without_its_store_it_answers_503_and_afterwards_every_grant_is_there(site: Site, http: httpx2.Client) -> None:
    clients = [site.sign_in(http) for _ in range(5)]
    before = {each: site.kubernetes.restarts(each) for each in ("auth", "mcp")}
    valkey = site.kubernetes.restarts("valkey")
    watch = Watch(site, clients[0].client_id)
    watch.start()
    try:
        eventually("requests are answered", lambda: watch.statuses.total() >= 5)
        site.kubernetes.run("docker", "exec", site.kubernetes.node, "pkill", "-KILL", "-x", "valkey-server")
        eventually("503", lambda: watch.statuses[503])
        eventually("Valkey is back", lambda: site.kubernetes.restarts("valkey") != valkey)
        site.kubernetes.kubectl("wait", "pod/keystile-valkey-0", "--for=condition=Ready", "--timeout=60s")
        served = watch.statuses.total() - watch.statuses[503]
        eventually("requests are served again", lambda: watch.statuses.total() - watch.statuses[503] >= served + 20)
    finally:
        watch.stop.set()
        watch.join()
    assert not watch.problems
    assert set(watch.statuses) <= {302, 303, 503}, watch.statuses
    site.figures["503 after kill -9 of Valkey"] = (
        f"{watch.statuses[503]} answers, from first to last {watch.refused[-1] - watch.refused[0]:.1f} s"
    )
    for client in clients:
        assert site.refresh(http, client).status_code == 200
        assert site.call_tool(http, client.access_token).status_code == 200
    assert {each: site.kubernetes.restarts(each) for each in ("auth", "mcp")} == before
