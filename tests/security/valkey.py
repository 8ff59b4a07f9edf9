"""A Valkey of a test's own on a TCP port, to be stopped, killed and filled."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from keystile_auth.store.embedded import find_binary


@dataclass
class Valkey:
    """The server; `start` begins one on the append-only file that the last one left."""

    folder: Path
    port: int
    options: list[str] = field(default_factory=list)
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def client(self) -> "Redis":
        return Redis(host="127.0.0.1", port=self.port, socket_timeout=5, decode_responses=True)

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                str(find_binary()), "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder),
                "--appendonly", "yes", "--appendfsync", "everysec", "--save", "", "--maxmemory-policy", "noeviction",
                "--logfile", str(self.folder / "valkey.log"), *self.options,
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        with self.client as client:
            while True:
                try:
                    client.ping()
                except (RedisError, OSError):
                    assert time.monotonic() < deadline, "valkey-server did not start"
                    time.sleep(0.02)
                else:
                    return

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.kill(self.process.pid, number)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """It neither answers nor goes away while the block runs."""
        self.signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """As a power cut would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            with suppress(ProcessLookupError):
                self.signal(signal.SIGCONT)
            self.kill()


@contextmanager
def valkey(folder: Path, *options: str) -> Iterator[Valkey]:
    """Run one while the block runs."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = int(listener.getsockname()[1])
    server = Valkey(folder, port, list(options))
    server.start()
    try:
        yield server
    finally:
        server.stop()
