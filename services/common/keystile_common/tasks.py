"""The end of tasks that run for as long as something is open."""

import asyncio
from typing import Any

_AGAIN_SECONDS = 0.5


async def end(*tasks: asyncio.Task[Any]) -> None:
    """Cancel tasks, and return when they have ended; what they raise is theirs.

    One that goes on is cancelled again. `asyncio.wait_for` of Python 3.11, in which redis-py sends commands, forgets a
    cancellation that comes when the command has just been sent: whoever waited for that task would wait for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_AGAIN_SECONDS)
    await asyncio.gather(*tasks, return_exceptions=True)
