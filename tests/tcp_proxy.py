"""A TCP proxy on loopback whose connections a test can cut, hold up and count."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from tests.stream_server import running_stream_server


@dataclass
class TcpProxy:
    """The proxy. While it `is_mute` it accepts and passes nothing on."""

    port: int = 0
    accepted: int = 0
    is_mute: bool = False
    seen: bytearray = field(default_factory=bytearray)
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def open(self) -> int:
        """How many connections clients have."""
        return len(self._writers) // 2

    def cut(self) -> None:
        """Cut every connection, as a firewall that forgets them."""
        done = threading.Event()

        def work() -> None:
            for writer in list(self._writers):
                writer.transport.abort()
            done.set()

        assert self._loop is not None
        self._loop.call_soon_threadsafe(work)
        assert done.wait(5)

    async def pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_client: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if is_client:
                    self.seen += data
                while self.is_mute:  # noqa: ASYNC110 (it is a test in another thread that says so)
                    await asyncio.sleep(0.02)
                writer.write(data)
                await writer.drain()
        writer.close()


@contextmanager
def tcp_proxy(to_port: int, port: int = 0) -> Iterator[TcpProxy]:
    """Run one in front of a port of this machine while the block runs."""
    proxy = TcpProxy()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.accepted += 1
        ends = {writer}
        try:
            there_reader, there = await asyncio.open_connection("127.0.0.1", to_port)
            ends.add(there)
            proxy._writers |= ends
            await asyncio.gather(
                proxy.pass_on(reader, there, is_client=True), proxy.pass_on(there_reader, writer, is_client=False)
            )
        finally:
            proxy._writers -= ends
            for each in ends:
                each.close()

    with running_stream_server(handle, port) as (proxy.port, proxy._loop):
        yield proxy
