"""Peers under measurement, each a process on the servers' core."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator

from bench.authorization_server import RESOURCE, SCOPE, SECRET
from bench.load import ROOT, Server, wait_for
from bench.peers import environment
from tests import node
from tests.integration.mcp.resource_server import CLIENT_SECRET
from tests.made_run import free_ports


@contextlib.contextmanager
def _running(command: list[str], port: int, path: str = "") -> Iterator[Server]:
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(process, port)
        yield Server(process, f"http://127.0.0.1:{port}{path}")
    finally:
        process.terminate()
        process.wait(15)


@contextlib.contextmanager
def oidc_provider() -> Iterator[Server]:
    """npm `oidc-provider`, its store a map in its memory.

    Raises:
        MissingError: it cannot run here.
    """
    packages = environment.node_packages()
    [port] = free_ports(1)
    program = node.node()
    assert program is not None
    source = (environment.HERE / "oidc_provider.mjs").read_text()
    become = [sys.executable, "-m", "bench.peers.execute", str(packages)]
    command = [str(program), "--input-type=module", "--eval", source, str(port), SECRET, RESOURCE, SCOPE]
    with _running([*become, *command], port) as server:
        yield server


@contextlib.contextmanager
def sdk_example(codes: int) -> Iterator[Server]:
    """An authorization server as the MCP SDK's example of one is built, with so many codes to redeem."""
    [port] = free_ports(1)
    command = [sys.executable, "-m", "bench.pinned", "bench.peers.sdk_example", str(port), str(codes)]
    with _running(command, port) as server:
        yield server


@contextlib.contextmanager
def issuer(resources: list[str]) -> Iterator[str]:
    """The scripted authorization server that `fastmcp` asks, on the callers' core; gives its issuer."""
    command = [sys.executable, "-m", "bench.peers.issuer", *resources]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip()
    finally:
        process.terminate()
        process.communicate(timeout=15)


@contextlib.contextmanager
def fastmcp(asked: str, port: int, cached_seconds: int) -> Iterator[Server]:
    """PyPI `fastmcp` with its introspection verifier.

    Args:
        asked: the issuer of the authorization server that it asks.
        port: where it listens.
        cached_seconds: how long it keeps an answer; 0 for its default, which is not at all.

    Raises:
        MissingError: it cannot run here.
    """
    command = [str(environment.python()), "-m", "bench.pinned", "bench.peers.fastmcp_server"]
    with _running([*command, str(port), asked, CLIENT_SECRET, str(cached_seconds)], port, "/mcp") as server:
        yield server
