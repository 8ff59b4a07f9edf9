"""The end of a process is bounded: what has not ended in time is named in the log, and then ended by force."""

import asyncio
import faulthandler
from typing import Any

import structlog

CLOSING_SECONDS = 10
"""What may pass between the end of draining and the end of the process."""

_STANDARD_ERROR = 2

_log = structlog.get_logger()


def begin(drain_seconds: int) -> None:
    """Say after `drain_seconds` and half of `CLOSING_SECONDS` what still runs; end the process after all of both.

    Called in the event loop when it was told to stop. A supervisor would kill the process without a word.

    Args:
        drain_seconds: how long open requests may go on.
    """
    asyncio.get_running_loop().call_later(drain_seconds + CLOSING_SECONDS / 2, _name_what_runs)
    # A thread of its own that needs nothing of the interpreter, so that it acts when all else stands still.
    faulthandler.dump_traceback_later(drain_seconds + CLOSING_SECONDS, exit=True, file=_STANDARD_ERROR)


def finish() -> None:
    """The event loop has ended: nothing is ended by force any more."""
    faulthandler.cancel_dump_traceback_later()


def _name_what_runs() -> None:
    stacks = {task.get_name(): _places(task) for task in asyncio.all_tasks()}
    _log.error("still not stopped, and will be ended by force", tasks=stacks)


def _places(task: "asyncio.Task[Any]") -> list[str]:
    """Where a task stands, outermost first: names of functions and lines, no values."""
    places: list[str] = []
    waiting: Any = task.get_coro()
    while waiting is not None:
        frame = getattr(waiting, "cr_frame", None)
        if frame is not None:
            places.append(f"{frame.f_code.co_qualname}:{frame.f_lineno}")
        waiting = getattr(waiting, "cr_await", None)
    return places
