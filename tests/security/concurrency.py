"""Many requests at the same moment, over real connections."""

import asyncio
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import aiohttp


@dataclass(frozen=True, slots=True)
class Answer:
    """What one of them got, and after how many seconds."""

    status: int
    text: str
    seconds: float

    @property
    def body(self) -> dict[str, Any]:
        """The JSON object in it."""
        return dict(json.loads(self.text))


def at_once(
    url: str,
    form: Mapping[str, str],
    times: int,
    auth: tuple[str, str] | None = None,
    headers: Mapping[str, str] | None = None,
) -> list[Answer]:
    """Send the same form `times` times at once, each on a connection of its own that is open before the start."""

    async def run() -> list[Answer]:
        connector = aiohttp.TCPConnector(limit=0)
        basic = {"Authorization": aiohttp.encode_basic_auth(*auth)} if auth else {}
        timeout = aiohttp.ClientTimeout(total=30)
        everywhere = {**(headers or {}), **basic}
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=everywhere) as session:

            async def warm() -> None:
                async with session.get(url):
                    pass

            async def send() -> Answer:
                started = time.monotonic()
                async with session.post(url, data=form) as answer:
                    text = await answer.text()
                return Answer(answer.status, text, time.monotonic() - started)

            await asyncio.gather(*(warm() for _ in range(times)))
            return await asyncio.gather(*(send() for _ in range(times)))

    return asyncio.run(run())
