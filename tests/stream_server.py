"""A TCP server on loopback, in a thread with an event loop of its own."""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextmanager
def running_stream_server(handle: Handle, port: int = 0) -> Iterator[tuple[int, asyncio.AbstractEventLoop]]:
    """Serve each connection with `handle` while the block runs; gives the port and the loop.

    What still runs at the end is cancelled; `handle` closes what it has opened.
    """
    loop, ready, stopped = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    ports: list[int] = []

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", port)
        ports.append(int(server.sockets[0].getsockname()[1]))
        ready.set()
        await stopped.wait()
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.sleep(0.01)  # transports that were told to close do so in turns of the loop of their own

    thread = threading.Thread(target=loop.run_until_complete, args=(run(),), daemon=True)
    thread.start()
    assert ready.wait(5)
    try:
        yield ports[0], loop
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(timeout=5)
        loop.close()
