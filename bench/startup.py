"""How long the authorization server takes from its exec until it is ready, beside a FastAPI that says hello.

On one core, with compiled bytecode: the start that warms up has written it, as building an image does.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

from bench.authorization_server import configured, valkey
from bench.load import CLIENT_CORE, ROOT, Server
from bench.rounds import SERVER_CORE, Result, interleaved, pin, ratios, result
from tests.made_run import free_ports

_QUESTION = b"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
_DEADLINE_SECONDS = 60
_PAUSE_SECONDS = 0.004
_GOAL_SECONDS = 0.8


@dataclass(frozen=True)
class Start:
    """A program, and where it says that it is ready.

    Attributes:
        command: what is executed.
        port: where it listens.
        environment: its variables.
        spent: seconds of processor time that each start took.
    """

    command: list[str]
    port: int
    environment: dict[str, str]
    spent: list[float] = field(default_factory=list)

    def once(self) -> float:
        """Start it; the seconds that took."""
        passed, spent = seconds_until_ready(self.command, self.port, self.environment)
        self.spent.append(spent)
        return passed


def seconds_until_ready(command: list[str], port: int, environment: dict[str, str]) -> tuple[float, float]:
    """From the exec of `command` until it answers 200 at /readyz: time that passed, and processor time; it is stopped.

    Raises:
        RuntimeError: it ended, or was not ready in a minute.
    """
    # A program begins on its parent's core: so it needs no wrapper, whose own start would be measured too.
    pin(SERVER_CORE)
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    pin(CLIENT_CORE)
    try:
        while not is_ready(port):
            if process.poll() is not None or time.perf_counter() > began + _DEADLINE_SECONDS:
                raise RuntimeError(f"{' '.join(command)} did not become ready")
            time.sleep(_PAUSE_SECONDS)
        return time.perf_counter() - began, Server(process, "").cpu_seconds()
    finally:
        process.terminate()
        process.wait(15)


def is_ready(port: int) -> bool:
    """Whether what listens on `port` of loopback says that it is ready."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(_QUESTION)
            return connection.recv(64).startswith(b"HTTP/1.1 200 ")
    except OSError:
        return False


def measure(quick: bool) -> Iterator[Result]:  # noqa: ARG001 (it is quick as it is)
    """Seconds of both, and their ratio."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    [hello_port] = free_ports(1)
    hello = Start([sys.executable, "-m", "bench.fastapi_hello", str(hello_port)], hello_port, dict(os.environ))
    with valkey() as store_port, configured(store_port) as (port, environment):
        auth = Start([sys.executable, "-m", "keystile_auth", "serve"], port, environment)
        found = interleaved({"hello": hello.once, "auth": auth.once})
    # The first was the warm-up.
    spent = {"hello": hello.spent[1:], "auth": auth.spent[1:]}
    yield result("FastAPI's hello, ready after exec", found["hello"], " s")
    yield result("authorization server, ready after exec", found["auth"], " s", most=_GOAL_SECONDS)
    yield result("start of the authorization server, of FastAPI's hello", ratios(found["auth"], found["hello"]), "")
    yield result("processor time until ready, FastAPI's hello", spent["hello"], " s")
    yield result("processor time until ready, authorization server", spent["auth"], " s")
