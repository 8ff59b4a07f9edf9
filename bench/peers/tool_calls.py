"""Tool calls over HTTP with a token: FastMCP behind its introspection verifier, beside the SDK alone and Keystile."""

from collections.abc import Iterator
from contextlib import ExitStack

from bench.load import CLIENT_CORE, Server, run, server
from bench.peers import servers
from bench.peers.environment import MissingError, fastmcp_version
from bench.rounds import ROUNDS, Result, interleaved, pin, ratios, result
from bench.tool_calls import CONNECTIONS
from tests.made_run import free_ports

SDK = "SDK alone"
FASTMCP = "FastMCP"
_CACHED_SECONDS = {"as it comes": 0, "with its cache on": 30}


class _Calls:
    """Calls of a server's tool, as many as go into some seconds.

    Attributes:
        rates: calls a second, one a round.
    """

    def __init__(self, target: Server, seconds: float) -> None:
        self._target = target
        self._seconds = seconds
        self.rates: list[float] = []

    def once(self) -> float:
        """Microseconds of the server's processor for a call."""
        before = self._target.cpu_seconds()
        calls = len(run(self._target.url, self._seconds, CONNECTIONS))
        self.rates.append(calls / self._seconds)
        return (self._target.cpu_seconds() - before) / calls * 1_000_000


def measure(quick: bool) -> Iterator[Result]:
    """Ratios of processor time, and calls a second. FastMCP is named, and left out, where it cannot run."""
    pin(CLIENT_CORE)
    seconds = 2.0 if quick else 6.0
    with ExitStack() as stack:
        targets = {SDK: stack.enter_context(server("bare")), "Keystile": stack.enter_context(server("keystile"))}
        try:
            targets |= _fastmcp(stack)
            yield Result(FASTMCP, fastmcp_version(), "")
        except MissingError as why:
            yield Result(f"{FASTMCP} is left out: {why}", "", "")
        measured = {name: _Calls(target, seconds) for name, target in targets.items()}
        found = interleaved({name: each.once for name, each in measured.items()})
        for name in found:
            if name != SDK:
                yield result(f"tool calls, {name}, of the {SDK}", ratios(found[SDK], found[name]), "")
            yield result(f"tool calls, {name}, processor time", found[name], " µs")
            yield result(f"tool calls, {name}, a second", measured[name].rates[-ROUNDS:], "/s")


def _fastmcp(stack: ExitStack) -> dict[str, Server]:
    ports = free_ports(len(_CACHED_SECONDS))
    issuer = stack.enter_context(servers.issuer([f"http://127.0.0.1:{port}/mcp" for port in ports]))
    return {
        f"{FASTMCP} {how}": stack.enter_context(servers.fastmcp(issuer, port, cached))
        for port, (how, cached) in zip(ports, _CACHED_SECONDS.items(), strict=True)
    }
