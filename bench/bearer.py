"""What the bearer check costs a request whose token's answer is in the cache; in one process, without a network."""

import asyncio
import io
import json
import time
from collections.abc import Awaitable, Callable

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.load import tool_call
from bench.rounds import Result, interleaved, pin, ratios, result
from bench.serve import TOKEN, bare, settings
from keystile_common.audit import AuditLog, StreamSink
from keystile_common.metrics import McpMetrics
from keystile_mcp.bearer import Bearer
from keystile_mcp.challenge import Challenge
from keystile_mcp.denials import Denials
from keystile_mcp.introspection_answer import ActiveToken
from keystile_mcp.introspection_cache import IntrospectionCache
from keystile_mcp.streams import OpenStreams
from keystile_mcp.validation import TokenValidator
from tests.integration.mcp.resource_server import modern_headers

RESOURCE, ISSUER = "http://127.0.0.1:3232/mcp", "http://127.0.0.1:3001"


async def _nothing(_: Scope, __: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _swallow(_: Message) -> None:
    pass


def _bearer(app: ASGIApp) -> ASGIApp:
    chosen, metrics = settings(RESOURCE, ISSUER), McpMetrics(CollectorRegistry(), "bench")
    active = ActiveToken(ISSUER, RESOURCE, "client", "alice", ("mcp:basic",), None, 4_000_000_000)

    async def introspect(_: str) -> ActiveToken:
        return active

    cache = IntrospectionCache(introspect, chosen, metrics, time.time)
    log = AuditLog([StreamSink("stdout", io.StringIO())], metrics.audit)
    return Bearer(
        app,
        TokenValidator(cache, chosen, metrics, time.time),
        Challenge("-", []),
        Denials(log, RESOURCE, time.time),
        streams=OpenStreams(),
        clock=time.time,
    )


def _scope() -> tuple[Scope, bytes]:
    body = json.dumps(tool_call("echo", {"text": "hello"})).encode()
    named = {"host": "127.0.0.1:3232", "content-type": "application/json", "content-length": str(len(body))}
    headers = [(k.lower().encode(), v.encode()) for k, v in {**named, **modern_headers("echo", TOKEN)}.items()]
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": "/mcp",
        "raw_path": b"/mcp",
        "query_string": b"",
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 3232),
        "state": {},
    }
    return scope, body


def _timed(runner: asyncio.Runner, app: ASGIApp, calls: int) -> Callable[[], float]:
    scope, body = _scope()

    def receiver() -> Callable[[], Awaitable[Message]]:
        read = False

        async def receive() -> Message:
            nonlocal read
            if read:
                await asyncio.get_running_loop().create_future()
            read = True
            return {"type": "http.request", "body": body, "more_body": False}

        return receive

    async def call() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            await app({**scope}, receiver(), _swallow)
        return (time.perf_counter() - began) / calls * 1_000_000

    return lambda: runner.run(call())


async def _begin(app: Starlette, stop: asyncio.Event) -> "asyncio.Task[None]":
    begun = asyncio.Event()

    async def hold() -> None:
        async with app.router.lifespan_context(app):
            begun.set()
            await stop.wait()

    task = asyncio.create_task(hold())
    await begun.wait()
    return task


async def _end(running: "asyncio.Task[None]", stop: asyncio.Event) -> None:
    stop.set()
    await running


def measure(quick: bool) -> list[Result]:
    """The bearer's microseconds, and its share of a call of a tool in the SDK's server."""
    pin(1)
    calls = 10_000 if quick else 40_000
    app = bare()
    with asyncio.Runner() as runner:
        stop = asyncio.Event()
        running = runner.run(_begin(app, stop))
        measures = {
            "none": _timed(runner, _nothing, calls),
            "bearer": _timed(runner, _bearer(_nothing), calls),
            "sdk": _timed(runner, app, calls // 40),
        }
        found = interleaved(measures)
        runner.run(_end(running, stop))
    cost = [with_it - without for with_it, without in zip(found["bearer"], found["none"], strict=True)]
    share = [100 * each for each in ratios(cost, found["sdk"])]
    return [
        result("bearer check, cached token", cost, " µs", most=10),
        result("its share of a tool call in the SDK, no network", share, " %", most=5),
    ]
