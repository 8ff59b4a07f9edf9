"""How long a revoked token is still accepted: one auth process, three MCP servers of one resource, a Valkey.

Each a process of its own, as they are deployed. A token is used at all three, so that each has the answer about it in
its cache; then it is revoked, and used again and again at each until that is answered 401. Measured from before the
revocation is sent. Then the same with the polls cut on the wire, without an end that the servers could see: tokens
revoked at once, and tokens that came and were revoked while the servers hear of nothing.
"""

import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import httpx2

from bench.rounds import Result
from tests.auth_server import MASTER_KEY
from tests.cut_proxy import CutProxy, cut_proxy
from tests.integration.mcp.resource_server import modern_headers, tool_call
from tests.stores import Site, eventually, free_port, standalone

REPLICAS = 3
_RESOURCE = "http://127.0.0.1:3232/mcp"
_SECRET = "bench-secret-" + "s" * 32
_PAUSE_SECONDS = 0.005
_CUT_TOKENS = 20
_MESSAGE = json.dumps(tool_call("echo", {"text": "hello"})).encode()


@dataclass
class _Site:
    auth: str
    replicas: list[str]
    metrics: list[str]
    proxy: CutProxy


@contextmanager
def _process(folder: Path, name: str, settings: Mapping[str, object], ready: str, *command: str) -> Iterator[None]:
    file = folder / f"{name}.yaml"
    file.write_text(json.dumps(settings))  # JSON is YAML
    environ = {key: value for key, value in os.environ.items() if not key.startswith("KEYSTILE_")}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**environ, "KEYSTILE_CONFIG": str(file)},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        try:
            eventually(lambda: process.poll() is not None or _is_ready(ready), f"{name} did not start", 30)
            if process.poll() is not None:
                raise RuntimeError((folder / f"{name}.log").read_text())
            yield
        finally:
            process.terminate()
            process.wait()


def _is_ready(url: str) -> bool:
    try:
        return httpx2.get(url).status_code == httpx2.codes.OK
    except httpx2.HTTPError:
        return False


@contextmanager
def _running() -> Iterator[_Site]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ks-")))
        store = stack.enter_context(standalone(Site(folder)))
        port = free_port()
        issuer = f"http://127.0.0.1:{port}"
        auth = {
            "issuer": issuer,
            "master_key": MASTER_KEY,
            "store": store.settings,
            "listen": {"port": port},
            "metrics": {"port": free_port()},
            "resources": {
                "mcp": {"uri": _RESOURCE, "title": "Bench", "scopes": {"mcp:basic": "Use it"}, "secret": _SECRET}
            },
            "clients": {
                "bench": {"title": "Bench", "secret": _SECRET, "resources": [_RESOURCE], "scopes": ["mcp:basic"]},
            },
        }
        stack.enter_context(_process(folder, "auth", auth, f"{issuer}/readyz", "keystile_auth", "serve"))
        proxy = stack.enter_context(cut_proxy(port))
        origins, metrics = [], []
        for number in range(REPLICAS):
            here, measured = free_port(), free_port()
            mcp = {
                "resource": _RESOURCE,
                "authorization_server": issuer,
                "scopes": {"mcp:basic": "Use it"},
                "policy": {},
                "app": "bench.serve:served",
                "listen": {"port": here},
                "metrics": {"port": measured},
                "introspection": {"client_id": "mcp", "client_secret": _SECRET},
                "revocations": {"url": f"{proxy.origin}/events/poll"},
            }
            origin = f"http://127.0.0.1:{here}"
            stack.enter_context(_process(folder, f"mcp-{number}", mcp, f"{origin}/readyz", "keystile_mcp"))
            origins.append(origin)
            metrics.append(f"http://127.0.0.1:{measured}/metrics")
        site = _Site(issuer, origins, metrics, proxy)
        eventually(lambda: _all_hear(site), "they do not hear of revocations")
        yield site


def _all_hear(site: _Site) -> bool:
    return all("keystile_revocation_feed_up{" in text and "} 1.0" in text for text in _feeds(site))


def _none_hears(site: _Site) -> bool:
    return all("} 0.0" in text for text in _feeds(site))


def _feeds(site: _Site) -> list[str]:
    pages = [httpx2.get(url).text for url in site.metrics]
    return ["".join(line for line in page.splitlines() if "revocation_feed_up{" in line) for page in pages]


class _Client:
    """A machine client of the one and a user of the others."""

    def __init__(self, site: _Site, session: aiohttp.ClientSession) -> None:
        self._site = site
        self._session = session
        self._auth = aiohttp.BasicAuth("bench", _SECRET)

    async def token(self) -> str:
        form = {"grant_type": "client_credentials", "resource": _RESOURCE}
        async with self._session.post(f"{self._site.auth}/token", data=form, auth=self._auth) as answer:
            return str((await answer.json())["access_token"])

    async def revoke(self, token: str) -> None:
        async with self._session.post(f"{self._site.auth}/revoke", data={"token": token}, auth=self._auth) as answer:
            assert answer.status == httpx2.codes.OK

    async def status(self, origin: str, token: str) -> int:
        headers = {
            "Host": urlsplit(_RESOURCE).netloc,
            "Content-Type": "application/json",
            **modern_headers("echo", token),
        }
        async with self._session.post(f"{origin}/mcp", data=_MESSAGE, headers=headers) as answer:
            await answer.read()
            return answer.status

    async def used_everywhere(self) -> str:
        token = await self.token()
        used = [await self.status(origin, token) for origin in self._site.replicas]
        assert used == [httpx2.codes.OK] * REPLICAS, used
        return token

    async def refused(self, token: str, pause: float) -> float:
        """Seconds from now until the last of them refuses a token that is revoked now."""
        began = time.perf_counter()

        async def at(origin: str) -> float:
            while (status := await self.status(origin, token)) != httpx2.codes.UNAUTHORIZED:
                # On a busy machine an answer may come too late, which is no access either.
                assert status in {httpx2.codes.OK, httpx2.codes.SERVICE_UNAVAILABLE}, status
                await asyncio.sleep(pause)
            return time.perf_counter() - began

        revoking = asyncio.create_task(self.revoke(token))
        took = await asyncio.gather(*(at(origin) for origin in self._site.replicas))
        await revoking
        return max(took)


async def _measure(site: _Site, tokens: int) -> tuple[list[float], list[float]]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        client = _Client(site, session)
        heard = [await client.refused(await client.used_everywhere(), _PAUSE_SECONDS) for _ in range(tokens)]
        before = [await client.used_everywhere() for _ in range(_CUT_TOKENS)]
        site.proxy.is_silent = True
        cut = await asyncio.gather(*(client.refused(token, 0.05) for token in before))
        await asyncio.to_thread(eventually, lambda: _none_hears(site), "they still hear")
        after = [await client.used_everywhere() for _ in range(_CUT_TOKENS)]
        cut += await asyncio.gather(*(client.refused(token, 0.05) for token in after))
        return heard, cut


def measure(quick: bool) -> list[Result]:
    """Milliseconds and seconds until the last of three servers refuses a token."""
    logging.getLogger("httpx2").setLevel(logging.WARNING)
    with _running() as site:
        heard, cut = asyncio.run(_measure(site, 200 if quick else 1_000))
    hundredths = statistics.quantiles([1_000 * each for each in heard], n=100)
    median, last = hundredths[49], hundredths[98]
    many = f"{len(heard)} tokens"
    return [
        Result("revoked until refused by the last of three servers, median", f"{median:.3g} ms", many),
        Result("99th percentile", f"{last:.3g} ms", many, "at most 1000 ms", last <= 1_000),
        Result("the slowest", f"{1_000 * max(heard):.3g} ms", many),
        Result(
            "the same with the polls cut, the slowest",
            f"{max(cut):.3g} s",
            f"{min(cut):.3g} to {max(cut):.3g}",
            "at most 7 s",
            max(cut) <= 7,
        ),
    ]
