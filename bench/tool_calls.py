"""Tool calls over HTTP: Keystile with everything on, against the SDK's server with no authorization."""

from collections.abc import Callable

from bench.load import CLIENT_CORE, Server, run, server
from bench.rounds import Result, interleaved, pin, ratios, result

CONNECTIONS = 16


def measure(quick: bool) -> list[Result]:
    """Calls a second of both, their ratio, and the ratio of what a call takes of the server's core."""
    pin(CLIENT_CORE)
    seconds = 0.7 if quick else 6.0
    cpu: dict[str, list[float]] = {"bare": [], "keystile": []}

    def measured(name: str, target: Server) -> Callable[[], float]:
        def once() -> float:
            before = target.cpu_seconds()
            calls = len(run(target.url, seconds, CONNECTIONS))
            cpu[name].append((target.cpu_seconds() - before) / calls * 1_000_000)
            return calls / seconds

        return once

    with server("bare") as bare, server("keystile") as keystile:
        found = interleaved({"bare": measured("bare", bare), "keystile": measured("keystile", keystile)})
    # The first was the warm-up.
    spent = {name: values[1:] for name, values in cpu.items()}
    return [
        result("tool calls a second, SDK alone", found["bare"], "/s"),
        result("tool calls a second, Keystile", found["keystile"], "/s"),
        result("their ratio", ratios(found["keystile"], found["bare"]), "", least=0.9),
        result("processor time a call, SDK alone", spent["bare"], " µs"),
        result("processor time a call, Keystile", spent["keystile"], " µs"),
        result("their ratio", ratios(spent["bare"], spent["keystile"]), "", least=0.9, reference="tool calls"),
    ]
