"""What `make run` and `keystile dev` start, on ports and in a folder of the test's own."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qs, urlsplit

import httpx2

from tests.auth_server import Pkce
from tests.person import Person

ROOT = Path(__file__).resolve().parent.parent
CALLBACK = "http://127.0.0.1:49154/callback"
_READY_SECONDS = 60


Topology = Literal["embedded", "separate"]


@dataclass
class MadeRun:
    """A running `make run` (`embedded`), or `keystile dev` (`separate`)."""

    topology: Topology

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
def made_run(
    folder: Path, topology: Topology = "embedded", ports: list[int] | None = None, **environment: str
) -> Iterator[MadeRun]:
    """Run it while the block runs, from the moment it has printed where to point a client."""
    auth, mcp, auth_metrics, mcp_metrics = ports or free_ports(4)
    if topology == "embedded":
        auth = mcp
        command = ["make", "--no-print-directory", "run"]
        environment |= {"KEYSTILE_LISTEN__PORT": str(mcp), "KEYSTILE_METRICS__PORT": str(mcp_metrics)}
    else:
        command = [sys.executable, "-m", "keystile_auth", "dev", f"--auth-port={auth}", f"--mcp-port={mcp}"]
        command += [f"--auth-metrics-port={auth_metrics}", f"--mcp-metrics-port={mcp_metrics}"]
    # What was printed goes to a file: a pipe that nobody reads would stop the writer.
    output = folder.with_suffix(f".{time.monotonic_ns()}.out")
    with output.open("w") as printed:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env={**os.environ, "KEYSTILE_DATA_DIR": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    run = MadeRun(topology, process, folder, f"http://127.0.0.1:{auth}", f"http://127.0.0.1:{mcp}/mcp", "", output)
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


@dataclass
class SignedIn:
    """What a client has once the demo user let it in."""

    client_id: str
    access_token: str
    refresh_token: str


def sign_in(run: MadeRun, http: httpx2.Client) -> SignedIn:
    """Register a client and let the demo user allow it the basic tools."""
    document = {
        "client_name": "Stays",
        "redirect_uris": [CALLBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
    }
    client_id = http.post(f"{run.issuer}/register", json=document).json()["client_id"]
    pkce, person = Pkce(), Person(run.issuer, "demo", run.password)
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": CALLBACK,
        "resource": run.resource,
        "scope": "mcp:basic",
        "code_challenge": pkce.challenge,
        "code_challenge_method": "S256",
    }
    callback = person.allow(str(httpx2.URL(f"{run.issuer}/authorize", params=parameters)))
    person.browser.close()
    data = {
        "grant_type": "authorization_code",
        "client_id": client_id,
        "code": parse_qs(urlsplit(callback).query)["code"][0],
        "code_verifier": pkce.verifier,
    }
    tokens = http.post(f"{run.issuer}/token", data=data).json()
    return SignedIn(client_id, tokens["access_token"], tokens["refresh_token"])


def answers(url: str) -> bool:
    """Whether anything listens there."""
    try:
        httpx2.get(url, timeout=2)
    except httpx2.TransportError:
        return False
    return True
