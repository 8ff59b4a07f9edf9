"""What `make run` starts: the processes of a newcomer, on ports and in a folder of the test's own."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

ROOT = Path(__file__).resolve().parent.parent
_READY_SECONDS = 60


@dataclass
class MadeRun:
    """A running `make run`."""

    process: "subprocess.Popen[str]"
    folder: Path
    issuer: str
    resource: str
    password: str
    output: Path

    def interrupt(self) -> int:
        """Press Ctrl-C: the signal goes to every process of the terminal's group. Answers the exit code."""
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on, all different."""
    listeners = [socket.socket() for _ in range(count)]
    try:
        for listener in listeners:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@contextmanager
def made_run(folder: Path, ports: list[int] | None = None, **environment: str) -> Iterator[MadeRun]:
    """Run `make run` while the block runs, from the moment it has printed where to point a client."""
    auth, mcp, auth_metrics, mcp_metrics = ports or free_ports(4)
    arguments = (
        f"--auth-port {auth} --mcp-port {mcp} --auth-metrics-port {auth_metrics} --mcp-metrics-port {mcp_metrics}"
    )
    # What was printed goes to a file: a pipe that nobody reads would stop the writer.
    output = folder.with_suffix(f".{time.monotonic_ns()}.out")
    with output.open("w") as printed:
        process = subprocess.Popen(
            ["make", "--no-print-directory", "run", f"ARGS={arguments}"],
            cwd=ROOT,
            env={**os.environ, "KEYSTILE_DATA_DIR": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    run = MadeRun(process, folder, f"http://127.0.0.1:{auth}", f"http://127.0.0.1:{mcp}/mcp", "", output)
    try:
        deadline = time.monotonic() + _READY_SECONDS
        while "Keystile is running" not in output.read_text():
            assert process.poll() is None, output.read_text()
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.05)
        lines = [line.split() for line in output.read_text().splitlines()]
        run.password = next(line[1] for line in lines if line[:1] == ["Password"])
        yield run
    finally:
        if process.poll() is None:
            run.interrupt()


def answers(url: str) -> bool:
    """Whether anything listens there."""
    try:
        httpx2.get(url, timeout=2)
    except httpx2.TransportError:
        return False
    return True
