"""Tasks end, though one of their cancellations gets lost."""

import asyncio

from keystile_common import tasks


async def test_a_task_that_loses_a_cancellation_is_cancelled_again() -> None:
    lost = 0

    async def run() -> None:
        nonlocal lost
        while True:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost += 1

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.end(task)
    assert task.cancelled()
    assert lost == 1


async def test_what_tasks_raise_is_theirs_and_those_that_have_ended_may_be_named() -> None:
    async def fail() -> None:
        raise ValueError

    async def run() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            raise ValueError

    over, running = asyncio.create_task(fail()), asyncio.create_task(run())
    await asyncio.sleep(0)
    async with asyncio.timeout(5):
        await tasks.end(over, running)
        await tasks.end()
    assert over.done()
    assert running.done()
