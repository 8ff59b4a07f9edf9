"""A TCP proxy whose wire can be cut: with an end that shows, or without one."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.stream_server import running_stream_server


@dataclass
class CutProxy:
    """The proxy. While `is_silent` nothing passes either way and nothing ends; `refuse` ends what there is, too."""

    port: int = 0
    is_silent: bool = False
    is_refusing: bool = False
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def refuse(self) -> None:
        """End every connection, and each new one at once."""
        self.is_refusing = True
        self.reset()

    def mend(self) -> None:
        """Let everything pass again; connections that were silent are over."""
        self.is_refusing = self.is_silent = False
        self.reset()

    def reset(self) -> None:
        """End every connection."""
        assert self._loop is not None
        for each in list(self._writers):
            self._loop.call_soon_threadsafe(each.transport.abort)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        if self.is_refusing:
            writer.transport.abort()
            return
        ends = {writer}
        try:
            with suppress(OSError, asyncio.CancelledError):
                there_reader, there = await asyncio.open_connection("127.0.0.1", port)
                ends.add(there)
                self._writers |= ends
                await asyncio.gather(self._pass(reader, there), self._pass(there_reader, writer))
        finally:
            self._writers -= ends
            for each in ends:
                each.close()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                while self.is_silent:  # noqa: ASYNC110 (set by another thread)
                    await asyncio.sleep(0.05)
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def cut_proxy(port: int) -> Iterator[CutProxy]:
    """Run one in front of `port`, in a thread, while the block runs."""
    proxy = CutProxy()
    with running_stream_server(lambda r, w: proxy.handle(r, w, port)) as (proxy.port, proxy._loop):
        yield proxy
