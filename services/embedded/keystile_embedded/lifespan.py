"""An application inside of another: its start and its end."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.types import ASGIApp, Message


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[None]:
    """Start `app`, as a server would (ASGI lifespan protocol), and stop it after the block.

    Raises:
        Exception: what stopped it from starting, or from stopping in order.
    """
    heard: asyncio.Queue[Message] = asyncio.Queue()
    told: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": {}}

    async def live() -> None:
        await app(scope, heard.get, told.put)

    async def step(phase: str) -> None:
        await heard.put({"type": f"lifespan.{phase}"})
        if (await told.get())["type"] == f"lifespan.{phase}.failed":
            await life

    life = asyncio.create_task(live())
    await step("startup")
    try:
        yield
    finally:
        await step("shutdown")
        await life
