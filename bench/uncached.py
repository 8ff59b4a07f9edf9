"""What the bearer check costs an MCP server's process when it has to ask the authorization server about a token.

By processor time of this process alone, in which a token is checked as in `bearer`; the authorization server, with a
Valkey, is a process of its own on another core. Beside it the bare client library, sending and getting the same.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import cache

import aiohttp
import uvloop

from bench.authorization_server import RESOURCE, SECRET, Contents, basic, valkey
from bench.authorization_server import authorization_server as serving
from bench.bearer import answer, held, protected, receiver, request, swallow
from bench.load import CLIENT_CORE
from bench.rounds import Result, interleaved, pin, ratios, result
from keystile_mcp.introspection_cache import IntrospectionCache
from keystile_mcp.settings import McpSettings

AT_ONCE = 16
MOST_US = 400.0
REFERENCE = "uncached validation"
_RESOURCE_CLIENT = "tools"

Check = Callable[[str], Awaitable[None]]
"""Finds out about one token."""


@dataclass(frozen=True)
class Ways:
    """How a token is found out about.

    Attributes:
        keystile: by the bearer check.
        library: by aiohttp's client, with nothing around it.
        forget: makes the bearer check ask anew.
    """

    keystile: Check
    library: Check
    forget: Callable[[], None]


def settings(issuer: str) -> McpSettings:
    """Those of an MCP server that asks `issuer`."""
    return McpSettings.model_validate(
        {
            "resource": RESOURCE,
            "authorization_server": issuer,
            "introspection": {"client_id": _RESOURCE_CLIENT, "client_secret": SECRET},
            "revocations": {"poll": False},
            "app": "bench.serve:served",
        }
    )


async def ways(stack: AsyncExitStack, issuer: str) -> Ways:
    """Both, ready to be used until `stack` is closed."""
    protection, tokens = await protected(stack, settings(issuer))
    guarded, answers, made = protection.guard(answer), tokens.source, cache(request)
    assert isinstance(answers, IntrospectionCache)
    session = await stack.enter_async_context(
        aiohttp.ClientSession(headers={"Authorization": basic(_RESOURCE_CLIENT)}, cookie_jar=aiohttp.DummyCookieJar())
    )

    async def keystile(token: str) -> None:
        scope, body = made(token)
        await guarded({**scope}, receiver(body), swallow)
        assert answers.find(token) is not None, "the token was refused"

    async def library(token: str) -> None:
        form = {"token": token, "token_type_hint": "access_token"}
        async with session.post(f"{issuer}/introspect", data=form) as response:
            assert b'"active":true' in await response.read()

    return Ways(keystile, library, answers.flush)


async def microseconds(check: Check, tokens: Iterable[str], at_once: int) -> float:
    """Processor time of this process for a token, `at_once` of them at a time."""
    waiting = list(tokens)
    count = len(waiting)

    async def one_after_another() -> None:
        while waiting:
            await check(waiting.pop())

    began = time.process_time()
    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(one_after_another())
    return (time.process_time() - began) / count * 1_000_000


def measure(quick: bool) -> list[Result]:
    """Microseconds for a token, one at a time and several at a time."""
    pin(CLIENT_CORE)
    count = 600 if quick else 3_000
    with valkey() as store_port, serving(store_port) as target:
        tokens = Contents(store_port).access_tokens(count, target.url)
        with (
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
            held(runner, lambda stack: ways(stack, target.url)) as both,
        ):

            def measured(check: Check, at_once: int) -> Callable[[], float]:
                def once() -> float:
                    both.forget()
                    return runner.run(microseconds(check, tokens, at_once))

                return once

            found = interleaved(
                {
                    "library": measured(both.library, 1),
                    "keystile": measured(both.keystile, 1),
                    "library, several": measured(both.library, AT_ONCE),
                    "keystile, several": measured(both.keystile, AT_ONCE),
                }
            )
    return [
        result("bearer check, token not in the cache, processor time", found["keystile"], " µs", most=MOST_US),
        result("aiohttp's client alone, the same question", found["library"], " µs"),
        result(
            "aiohttp's client alone, of the bearer check",
            ratios(found["library"], found["keystile"]),
            "",
            reference=REFERENCE,
        ),
        result(f"bearer check, {AT_ONCE} at a time", found["keystile, several"], " µs"),
        result(f"aiohttp's client alone, {AT_ONCE} at a time", found["library, several"], " µs"),
    ]
