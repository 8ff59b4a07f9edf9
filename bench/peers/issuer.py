"""The authorization server that peers ask, with one token that is always active: RESOURCE …. Prints its issuer."""

import asyncio
import sys

from bench.load import CLIENT_CORE
from bench.rounds import pin
from bench.serve import TOKEN
from tests.integration.mcp.resource_server import authorization_server


async def _serve() -> None:
    async with authorization_server() as scripted:
        scripted.issue(token=TOKEN, exp=4_000_000_000, aud=sys.argv[1:])
        print(scripted.issuer, flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    pin(CLIENT_CORE)
    asyncio.run(_serve())
