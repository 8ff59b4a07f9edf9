"""Ten minutes of 10,000 grants and 1,000 streams on two replicas: does anything fail, and does memory grow?

One authorization server, two `keystile-mcp` that share their sessions, one Valkey. Each token is used at one of them.
"""

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from bench.authorization_server import RESOURCE, SECRET, Contents, authorization_server, valkey_server
from bench.load import CLIENT_CORE, ROOT, Server, wait_for
from bench.rounds import Result, pin, result
from bench.soak_load import Callers, some_at_once
from tests.made_run import free_ports

REPLICAS = 2
_GROWTH_PERCENT = 5.0
_TOKEN_SECONDS = "7200"
_SAMPLE_SECONDS = 1.0


@dataclass(frozen=True)
class Plan:
    """How much of it.

    Attributes:
        seconds: from when everything is open.
        settled: after so many of those, memory is looked at for the first time.
        grants: live ones, each with a token.
        streams: half of either kind, as many on one replica as on the other.
        calls_a_second: with all the tokens in turn.
    """

    seconds: float
    settled: float
    grants: int
    streams: int
    calls_a_second: float


FULL = Plan(seconds=600, settled=120, grants=10_000, streams=1_000, calls_a_second=50)
QUICK = Plan(seconds=60, settled=20, grants=2_000, streams=200, calls_a_second=50)


@dataclass
class Memory:
    """Resident bytes of some processes over time.

    Attributes:
        samples: for each process, a list of (seconds since the beginning, bytes).
    """

    servers: dict[str, Server]
    samples: dict[str, list[tuple[float, int]]] = field(default_factory=dict)

    async def watch(self, seconds: float) -> None:
        """Take samples for so long."""
        began = time.monotonic()
        while (now := time.monotonic() - began) < seconds:
            for name, server in self.servers.items():
                self.samples.setdefault(name, []).append((now, server.resident_bytes()))
            await asyncio.sleep(_SAMPLE_SECONDS)


def growth(samples: Sequence[tuple[float, int]], settled: float) -> tuple[float, float]:
    """Megabytes at two ends: the median of the first tenth after `settled` seconds, and of the last tenth.

    Raises:
        ValueError: there is no sample after that.
    """
    after = [size / 1e6 for when, size in samples if when >= settled]
    if not after:
        raise ValueError(f"no sample after {settled:g} s")
    part = max(1, len(after) // 10)
    return statistics.median(after[:part]), statistics.median(after[-part:])


@contextlib.contextmanager
def _replica(issuer: str, store_port: int) -> Iterator[Server]:
    """One `keystile-mcp` with its reference server."""
    port, metrics_port, handover_port = free_ports(3)
    variables = {
        "RESOURCE": RESOURCE,
        "AUTHORIZATION_SERVER": issuer,
        "INTROSPECTION__CLIENT_ID": "tools",
        "INTROSPECTION__CLIENT_SECRET": SECRET,
        "SESSIONS": "shared",
        "STORE__URL": f"redis://127.0.0.1:{store_port}/0",
        "HANDOVER__PORT": str(handover_port),
        "LISTEN__PORT": str(port),
        "METRICS__PORT": str(metrics_port),
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.pinned", "keystile_mcp"],
        cwd=ROOT,
        env={**os.environ, **{f"KEYSTILE_{name}": value for name, value in variables.items()}},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(process, port)
        yield Server(process, f"http://127.0.0.1:{port}/mcp")
    finally:
        process.terminate()
        process.wait(30)


def measure(quick: bool) -> Iterator[Result]:
    """Errors, streams that are open at the end, and growth of each process."""
    pin(CLIENT_CORE)
    plan = QUICK if quick else FULL
    with ExitStack() as stack:
        store = stack.enter_context(valkey_server())
        store_port = int(store.url.rpartition(":")[2])
        auth = stack.enter_context(
            authorization_server(store_port, KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=_TOKEN_SECONDS)
        )
        replicas = [stack.enter_context(_replica(auth.url, store_port)) for _ in range(REPLICAS)]
        codes = Contents(store_port).codes(plan.grants)
        named = {f"MCP server {number}": each for number, each in enumerate(replicas, 1)}
        memory = Memory({"authorization server": auth, **named, "store": store})
        callers, still_open = asyncio.run(_soak(plan, auth.url, [each.url for each in replicas], codes, memory))
    for what, times in callers.errors.most_common(5):
        print(f"soak: {times} times {what}", file=sys.stderr)
    yield Result("soak", f"{plan.seconds:g} s", f"{plan.grants} grants", "")
    yield result("soak, calls", [float(callers.calls)], "")
    yield result("soak, errors", [float(callers.errors.total())], "", most=0)
    yield result("soak, streams open at the end", [float(still_open)], "", least=plan.streams)
    for name, samples in memory.samples.items():
        first, last = growth(samples, plan.settled)
        percent = (last / first - 1) * 100
        met = percent <= _GROWTH_PERCENT
        spread = f"{first:.1f} MB to {last:.1f} MB"
        # That the store's memory is flat is the store's business; it has the grants, whose number does not change.
        yield Result(f"soak, growth of the {name}", f"{percent:.2g} %", spread, "at most 5 %", met, median=percent)


async def _soak(
    plan: Plan, issuer: str, urls: Sequence[str], codes: Sequence[str], memory: Memory
) -> tuple[Callers, int]:
    async with Callers.started() as callers:
        tokens = await callers.redeem(issuer, codes)
        asked = [(urls[number % len(urls)], token) for number, token in enumerate(tokens)]
        await some_at_once(lambda each: callers.call(*each), asked)
        streams = [(*each, number // len(urls) % 2 == 0) for number, each in enumerate(asked[: plan.streams])]
        await some_at_once(lambda each: callers.open_stream(each[0], each[1], session=each[2]), streams)
        # What went wrong while all came at once is no part of the soak; a stream that is missing shows at the end.
        callers.errors.clear()
        callers.calls = 0
        async with asyncio.TaskGroup() as group:
            group.create_task(memory.watch(plan.seconds))
            group.create_task(callers.call_steadily(asked, plan.calls_a_second, plan.seconds))
        return callers, callers.open_streams
