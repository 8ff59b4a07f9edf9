"""A TCP proxy in front of the store that can lose an answer: the command was done, the connection ends unanswered."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.stream_server import running_stream_server


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

    with running_stream_server(handle) as (proxy.port, _):
        yield proxy
