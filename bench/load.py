"""Load: one tool call over and over on kept connections, cheap enough to leave the server's core the bottleneck."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from bench.serve import TOKEN
from tests.integration.mcp.resource_server import modern_headers, tool_call
from tests.made_run import free_ports

CLIENT_CORE = 0
ROOT = Path(__file__).resolve().parent.parent
_TICKS = os.sysconf("SC_CLK_TCK")


class Server:
    """A server under measurement."""

    def __init__(self, process: "subprocess.Popen[bytes]", url: str) -> None:
        self.process = process
        self.url = url

    def cpu_seconds(self) -> float:
        """What it has used of its core, where /proc tells."""
        folder = Path(f"/proc/{self.process.pid}")
        if not folder.exists():
            return float("nan")
        threads = list(folder.glob("task/*/schedstat"))
        if threads:  # in nanoseconds, where the kernel counts them
            return sum(int(each.read_text().split()[0]) for each in threads) / 1e9
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_bytes(self) -> int:
        """What it has in memory, where /proc tells."""
        path = Path(f"/proc/{self.process.pid}/statm")
        return int(path.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if path.exists() else 0


@contextlib.contextmanager
def server(kind: str, upstream: str | None = None) -> Iterator[Server]:
    """Run a server of `bench.serve` while the block runs."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "bench.serve", kind, str(port), *([upstream] if upstream else [])]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/mcp"
    try:
        wait_for(process, port)
        yield Server(process, url)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(15)


def wait_for(process: "subprocess.Popen[bytes]", port: int) -> None:
    """Return once something listens on `port`."""
    deadline = time.monotonic() + 60
    while not _listens(port):
        assert process.poll() is None, "the server stopped"
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with contextlib.closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def request(url: str) -> bytes:
    """A call of `echo` as revision 2026-07-28 has it."""
    body = json.dumps(tool_call("echo", {"text": "hello"})).encode()
    headers = {
        "Host": urlsplit(url).netloc,
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        **modern_headers("echo", TOKEN),
    }
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST /mcp HTTP/1.1\r\n{head}\r\n".encode() + body


async def _calls(url: str, seconds: float, taken: list[float]) -> None:
    """Call until the time is over, one after another on one connection; append how long each took."""
    to = urlsplit(url)
    reader, writer = await asyncio.open_connection(to.hostname, to.port)
    message = request(url)
    ends = time.perf_counter() + seconds
    try:
        while (began := time.perf_counter()) < ends:
            writer.write(message)
            head = await reader.readuntil(b"\r\n\r\n")
            body = await _body(reader, head)
            assert head.startswith(b"HTTP/1.1 200"), head + body
            assert b'"hello"' in body, body
            taken.append(time.perf_counter() - began)
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, head: bytes) -> bytes:
    lower = head.lower()
    if b"content-length: " in lower:
        return await reader.readexactly(int(lower.split(b"content-length: ", 1)[1].split(b"\r\n", 1)[0]))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += (await reader.readexactly(size + 2))[:-2]
    await reader.readexactly(2)
    return body


def run(url: str, seconds: float, connections: int) -> list[float]:
    """The durations of all calls, in seconds."""
    taken: list[float] = []

    async def together() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(connections):
                group.create_task(_calls(url, seconds, taken))

    asyncio.run(together())
    return taken


def median_ms(url: str, seconds: float) -> float:
    """The median duration of a call when there is one at a time."""
    return statistics.median(run(url, seconds, 1)) * 1000
