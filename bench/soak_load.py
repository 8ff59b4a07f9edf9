"""The callers of the soak: codes redeemed, streams held open, calls at a steady rate. Counts what goes wrong."""

import asyncio
import contextlib
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from itertools import cycle
from typing import Any, Self, TypeVar
from urllib.parse import urlsplit

import aiohttp

from bench.authorization_server import CALLBACK, CLIENT, PKCE, RESOURCE
from tests.integration.mcp.resource_server import modern_headers, tool_call

_AT_ONCE = 8
_TRIES = 10
_CALL_SECONDS = 30
_TEXT = "still here"
_HOST = {"Host": urlsplit(RESOURCE).netloc}
_SESSIONS_REVISION = "2025-11-25"

_Asked = TypeVar("_Asked")
_Answer = TypeVar("_Answer")


class Callers:
    """All of them, in one event loop, on connections of their own.

    Attributes:
        open_streams: how many are open now.
        calls: how many were answered as they should be.
        errors: what went wrong, and how often.
    """

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http
        self._streams: set[asyncio.Task[None]] = set()
        self.open_streams = 0
        self.calls = 0
        self.errors: Counter[str] = Counter()

    @classmethod
    @contextlib.asynccontextmanager
    async def started(cls) -> AsyncIterator[Self]:
        """Have them while the block runs; the streams that are open at its end are left."""
        no_limit = aiohttp.ClientTimeout(total=None, sock_connect=_CALL_SECONDS)
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=no_limit) as http:
            callers = cls(http)
            try:
                yield callers
            finally:
                for stream in callers._streams:
                    stream.cancel()
                await asyncio.gather(*callers._streams, return_exceptions=True)

    async def redeem(self, issuer: str, codes: Sequence[str]) -> list[str]:
        """The access tokens of these codes, in their order."""

        async def one(code: str) -> str:
            form = {
                "grant_type": "authorization_code", "client_id": CLIENT, "code": code, "redirect_uri": CALLBACK,
                "code_verifier": PKCE.verifier, "resource": RESOURCE,
            }  # fmt: skip
            body, _ = await self._asked(f"{issuer}/token", data=form)
            return str(json.loads(body)["access_token"])

        return await some_at_once(one, codes)

    async def open_stream(self, url: str, token: str, *, session: bool) -> None:
        """Open a stream and hold it: GET in a session of 2025-11-25, or `subscriptions/listen` of 2026-07-28."""
        opened = asyncio.get_running_loop().create_future()
        method, headers, body = await self._session(url, token) if session else _listening(token)

        async def hold() -> None:
            try:
                async with self._http.request(method, url, headers=headers, json=body) as answer:
                    if answer.status != 200:
                        raise aiohttp.ClientError(f"stream refused with {answer.status}: {await answer.text()}")
                    self.open_streams += 1
                    opened.set_result(None)
                    try:
                        async for _ in answer.content.iter_any():
                            pass
                        self.errors["stream ended"] += 1
                    finally:
                        self.open_streams -= 1
            except aiohttp.ClientError as problem:
                self.errors[f"stream: {type(problem).__name__} {problem}"] += 1
            finally:
                if not opened.done():
                    opened.set_result(None)

        self._streams.add(asyncio.create_task(hold()))
        await opened

    async def _session(self, url: str, token: str) -> tuple[str, dict[str, str], None]:
        headers = {
            **_HOST,
            "Accept": "application/json, text/event-stream",
            "Authorization": f"Bearer {token}",
            "Mcp-Protocol-Version": _SESSIONS_REVISION,
        }
        parameters = {
            "protocolVersion": _SESSIONS_REVISION,
            "capabilities": {},
            "clientInfo": {"name": "soak", "version": "1"},
        }
        opening = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}
        _, answered = await self._asked(url, headers=headers, json=opening)
        return "GET", {**headers, "Mcp-Session-Id": answered["mcp-session-id"]}, None

    async def _asked(self, url: str, **message: Any) -> tuple[bytes, Mapping[str, str]]:
        """Body and headers of an answer; asked again where it is 503, as it may be while all come at once."""
        for _ in range(_TRIES):
            async with self._http.post(url, **message) as answer:
                if answer.status != HTTPStatus.SERVICE_UNAVAILABLE:
                    answer.raise_for_status()
                    return await answer.read(), answer.headers
            await asyncio.sleep(float(answer.headers.get("Retry-After", "1")))
        raise RuntimeError(f"{url} answered 503 {_TRIES} times")

    async def call(self, url: str, token: str) -> None:
        """Call a tool once, as revision 2026-07-28 has it."""
        headers, body = modern_headers("echo", token) | _HOST, tool_call("echo", {"text": _TEXT})
        limit = aiohttp.ClientTimeout(total=_CALL_SECONDS)
        try:
            async with self._http.post(url, headers=headers, json=body, timeout=limit) as answer:
                text = await answer.text()
                if answer.status == 200 and _TEXT in text:
                    self.calls += 1
                else:
                    self.errors[f"call: {answer.status} {text[:200]}"] += 1
        except (aiohttp.ClientError, TimeoutError) as problem:
            self.errors[f"call: {type(problem).__name__} {problem}"] += 1

    async def call_steadily(self, asked: Sequence[tuple[str, str]], a_second: float, seconds: float) -> None:
        """Call with each URL and token in turn, at a rate that does not wait for answers, but for too many of them."""
        room = asyncio.Semaphore(_AT_ONCE)
        began, turn = time.monotonic(), cycle(asked)

        async def one(url: str, token: str) -> None:
            try:
                await self.call(url, token)
            finally:
                room.release()

        async with asyncio.TaskGroup() as group:
            for number in range(int(a_second * seconds)):
                await asyncio.sleep(max(0.0, began + number / a_second - time.monotonic()))
                await room.acquire()
                if time.monotonic() > began + seconds:
                    break
                group.create_task(one(*next(turn)))


async def some_at_once(do: Callable[[_Asked], Awaitable[_Answer]], over: Sequence[_Asked]) -> list[_Answer]:
    """What `do` answers to each, in their order, with a few of them under way at a time."""
    room = asyncio.Semaphore(_AT_ONCE)

    async def one(each: _Asked) -> _Answer:
        async with room:
            return await do(each)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(each)) for each in over]
    return [task.result() for task in tasks]


def _listening(token: str) -> tuple[str, dict[str, str], dict[str, Any]]:
    headers, body = modern_headers("", token) | _HOST, tool_call("", {})
    headers["Mcp-Method"] = body["method"] = "subscriptions/listen"
    del headers["Mcp-Name"]
    body["params"] = {"_meta": body["params"]["_meta"], "notifications": {"toolsListChanged": True}}
    return "POST", headers, body
