"""A TCP proxy in front of the store that can lose an answer: the command was done, the connection ends unanswered."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class LossyProxy:
    """The proxy. `lose_answer_to` arms it for one command; `lost` names those whose answers were lost."""

    port: int = 0
    lost: list[bytes] = field(default_factory=list)
    _armed: bytes | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def lose_answer_to(self, part: bytes) -> None:
        """Lose the answer to the next command that has `part` in it."""
        self._armed = part

    def sees(self, data: bytes) -> bool:
        if self._armed is not None and self._armed in data:
            self.lost.append(self._armed)
            self._armed = None
            return True
        return False


@contextmanager
def lossy_proxy(store_port: int) -> Iterator[LossyProxy]:
    """Run one on a port of its own while the block runs."""
    proxy = LossyProxy()
    loop = asyncio.new_event_loop()
    stopped = asyncio.Event()
    ready = threading.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there = await asyncio.open_connection("127.0.0.1", store_port)
        lossy = False

        async def back() -> None:
            while data := await there_reader.read(65536):
                if lossy:
                    return  # the store has done it; nobody hears of it
                writer.write(data)
                await writer.drain()

        task = asyncio.ensure_future(back())
        try:
            with suppress(OSError):
                while data := await reader.read(65536):
                    lossy = lossy or proxy.sees(data)
                    there.write(data)
                    await there.drain()
                    if lossy:
                        await task
                        break
        finally:
            task.cancel()
            for each in (writer, there):
                each.close()
            with suppress(OSError, asyncio.CancelledError):
                await task

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        proxy.port = int(server.sockets[0].getsockname()[1])
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
        yield proxy
    finally:
        loop.call_soon_threadsafe(stopped.set)
        thread.join(timeout=5)
        loop.close()
