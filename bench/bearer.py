"""What the bearer check, and all that Keystile does, cost a tool call whose token's answer is in the cache.

In one process, without a network. A round answers the best of its parts: what disturbs a measurement only adds to it.
"""

import asyncio
import contextlib
import io
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from typing import TypeVar

from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bench.rounds import Result, interleaved, pin, ratios, result
from bench.serve import TOKEN, bare, settings
from keystile_common import traces
from keystile_common.audit import AuditLog, StreamSink
from keystile_common.limits import LimitsMiddleware
from keystile_common.metrics import McpMetrics
from keystile_common.settings import TraceSettings
from keystile_mcp.protection import Protection
from keystile_mcp.settings import MAX_BODY_BYTES, McpSettings
from keystile_mcp.streams import OpenStreams
from keystile_mcp.token_source import Tokens, token_source
from tests.integration.mcp.resource_server import authorization_server, modern_headers, tool_call

RESOURCE = "http://127.0.0.1:3232/mcp"
CORE = 1
_PARTS = 10

HeldT = TypeVar("HeldT")

_ANSWER = b'{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"hello"}],"isError":false}}'


async def answer(_: Scope, receive: Receive, send: Send) -> None:
    await receive()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(_ANSWER)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": _ANSWER})


class _Nothing:
    """A backend that answers and does nothing else, so that what is in front of it shows."""

    app: ASGIApp = staticmethod(answer)
    reads_elsewhere = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        yield

    async def tools(self) -> frozenset[str]:
        return frozenset({"echo"})


async def swallow(_: Message) -> None:
    pass


def request(token: str = TOKEN) -> tuple[Scope, bytes]:
    """A call of `echo` with this token."""
    body = json.dumps(tool_call("echo", {"text": "hello"})).encode()
    named = {"host": "127.0.0.1:3232", "content-type": "application/json", "content-length": str(len(body))}
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
        "headers": [(k.lower().encode(), v.encode()) for k, v in {**named, **modern_headers("echo", token)}.items()],
        "client": ("127.0.0.1", 50000),
        "server": ("127.0.0.1", 3232),
        "state": {},
    }
    return scope, body


def receiver(body: bytes) -> Callable[[], Awaitable[Message]]:
    unread = True

    async def receive() -> Message:
        nonlocal unread
        if not unread:
            await asyncio.get_running_loop().create_future()
        unread = False
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


def _timed(runner: asyncio.Runner, app: ASGIApp, calls: int) -> Callable[[], float]:
    scope, body = request()

    async def part() -> float:
        began = time.perf_counter()
        for _ in range(calls // _PARTS):
            await app({**scope}, receiver(body), swallow)
        return (time.perf_counter() - began) / (calls // _PARTS) * 1_000_000

    return lambda: min(runner.run(part()) for _ in range(_PARTS))


async def _protection(stack: AsyncExitStack) -> Protection:
    scripted = await stack.enter_async_context(authorization_server())
    scripted.resource = RESOURCE
    scripted.issue(token=TOKEN, exp=4_000_000_000)
    protection, _ = await protected(stack, settings(RESOURCE, scripted.issuer))
    return protection


async def protected(stack: AsyncExitStack, chosen: McpSettings) -> tuple[Protection, Tokens]:
    """All that is in front of the tools, before a backend that does nothing; and how it finds out about tokens."""
    metrics = McpMetrics(CollectorRegistry(), "bench")
    tracing = traces.configure(TraceSettings(), "keystile-mcp", "bench")
    tokens = token_source(chosen, metrics, tracing.tracer, time.time)
    protection = Protection(
        chosen,
        tokens,
        metrics,
        AuditLog([StreamSink("stdout", io.StringIO())], metrics.audit),
        streams=OpenStreams(),
        backend=_Nothing(),
    )
    await stack.enter_async_context(protection.running())
    return protection, tokens


@contextlib.contextmanager
def held(runner: asyncio.Runner, enter: Callable[[AsyncExitStack], Awaitable[HeldT]]) -> Iterator[HeldT]:
    """What `enter` makes, while the block runs `runner`'s loop now and then."""
    stop = asyncio.Event()
    ready: asyncio.Queue[HeldT] = asyncio.Queue()

    async def hold() -> None:
        # One task enters and leaves: the SDK's task groups ask for it.
        async with AsyncExitStack() as stack:
            await ready.put(await enter(stack))
            await stop.wait()

    async def start() -> tuple["asyncio.Task[None]", HeldT]:
        holding, getting = asyncio.create_task(hold()), asyncio.create_task(ready.get())
        await asyncio.wait([holding, getting], return_when=asyncio.FIRST_COMPLETED)
        if holding.done():
            getting.cancel()
            await holding
        return holding, await getting

    async def end(holding: "asyncio.Task[None]") -> None:
        stop.set()
        await holding

    holding, made = runner.run(start())
    try:
        yield made
    finally:
        runner.run(end(holding))


async def _apps(stack: AsyncExitStack) -> dict[str, ASGIApp]:
    protection, sdk = await _protection(stack), bare()
    await stack.enter_async_context(sdk.router.lifespan_context(sdk))
    limited = LimitsMiddleware(protection.endpoint, MAX_BODY_BYTES)
    return {"none": answer, "bearer": protection.guard(answer), "all": limited, "sdk": sdk}


def measure(quick: bool) -> list[Result]:
    """Microseconds of both, and the bearer's share of a call of a tool in the SDK's server."""
    pin(CORE)
    calls = 10_000 if quick else 40_000
    with asyncio.Runner() as runner, held(runner, _apps) as apps:
        sizes = {"sdk": calls // 20}
        found = interleaved({name: _timed(runner, app, sizes.get(name, calls)) for name, app in apps.items()})
    bearer = [with_it - without for with_it, without in zip(found["bearer"], found["none"], strict=True)]
    everything = [with_it - without for with_it, without in zip(found["all"], found["none"], strict=True)]
    return [
        result("bearer check, cached token", bearer, " µs", most=10),
        result(
            "its share of a tool call in the SDK, no network",
            [100 * each for each in ratios(bearer, found["sdk"])],
            " %",
            most=5,
        ),
        result("all that Keystile does for a tool call: bearer, policy, metrics, audit", everything, " µs"),
        result("a tool call in the SDK, no network", found["sdk"], " µs"),
    ]
