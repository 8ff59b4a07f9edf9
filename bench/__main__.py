"""`python -m bench [--quick] [NAME …]`: measure, and print the table."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from types import FrameType

from bench import (
    authorization,
    bearer,
    charts,
    connections,
    grants,
    pods,
    proxy,
    reference,
    revocation,
    soak,
    startup,
    tokens,
    tool_calls,
    uncached,
)
from bench.peers import authorization as peers_authorization
from bench.peers import tool_calls as peers_tool_calls
from bench.rounds import Result, surroundings

MEASURES: dict[str, Callable[[bool], Iterable[Result]]] = {
    "bearer": bearer.measure,
    "uncached": uncached.measure,
    "tool_calls": tool_calls.measure,
    "proxy": proxy.measure,
    "authorization": authorization.measure,
    "connections": connections.measure,
    "startup": startup.measure,
    "revocation": revocation.measure,
    "pods": pods.measure,
    "tokens": tokens.measure,
    "grants": grants.measure,
    "peers": peers_authorization.measure,
    "peers_tool_calls": peers_tool_calls.measure,
    "soak": soak.measure,
}
# These run when they are named; the others that are long are not in `--quick` either.
NAMED = ("soak",)
LONG = ("revocation", "pods", "tokens", "grants", "peers", "peers_tool_calls")
# A quick run takes two minutes, and begins nothing after so many seconds.
BEGINS_WITHIN_SECONDS = 300


@dataclass(frozen=True)
class Chosen:
    """What the command line asks for.

    Attributes:
        names: the measures, in their order.
        quick: whether rounds are short, and references decide.
        plots: whether charts are drawn.
        writes_reference: whether the ratios are written to `reference.json`.
    """

    names: list[str]
    quick: bool
    plots: bool
    writes_reference: bool


def _row(line: Result) -> str:
    met = "" if line.met is None else ("met" if line.met else "MISSED")
    return f"| {line.name} | {line.value} | {line.spread} | {line.goal} | {met} |"


def defaults(*, quick: bool) -> list[str]:
    """What runs when nothing is named."""
    left_out = NAMED + (LONG if quick else ())
    return [name for name in MEASURES if name not in left_out]


def chosen(arguments: list[str] | None = None) -> Chosen:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two minutes for those that are in it; see docs/performance.md"
    )
    parser.add_argument("--plots", action="store_true", help="draw docs/performance/*.svg of what is measured")
    parser.add_argument("--reference", action="store_true", help="as --quick, and write bench/reference.json from it")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"some of {', '.join(MEASURES)}; by default all but {', '.join(NAMED)}, and with --quick "
        f"all but {', '.join(NAMED + LONG)}",
    )
    given = parser.parse_args(arguments)
    unknown = set(given.names) - set(MEASURES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    quick = given.quick or given.reference
    return Chosen(given.names or defaults(quick=quick), quick, given.plots, given.reference)


def measured(name: str, *, quick: bool) -> list[Result]:
    """Print the rows of a measure as they come."""
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    lines = []
    try:
        for line in MEASURES[name](quick):
            print(_row(line), flush=True)
            lines.append(line)
    finally:
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
    return lines


def repeated(name: str, first: set[str], references: dict[str, float]) -> bool:
    """Measure once more what was under its reference or broke off; whether it fails, as `bench.reference` says."""
    print(f"\n{name} once more, because of: {', '.join(sorted(first))}\n", flush=True)
    others = reference.Others()
    lines = measured(name, quick=True)
    share = others.share()
    failed, excused = reference.judged(first, lines, references, share)
    for word, found in (("FAILED", failed), ("not counted, on a machine this busy", excused)):
        for each in sorted(found):
            print(f"{word}: {each} (reference {references[each]}); others took {share:.0%} of the machine", flush=True)
    return bool(failed)


def main() -> int:
    """Answers 1 when a goal is missed; with `--quick`, only when a ratio is 30 % under its reference, twice."""
    asked = chosen()
    # Also when it is told to stop, what it has started is to end with it.
    signal.signal(signal.SIGTERM, _stop)
    heading = f"{datetime.now(UTC):%Y-%m-%d}, {surroundings()}; load {os.getloadavg()[0]:.1f} at the beginning"
    print(f"{heading}\n\n| what | median | spread | goal | |\n| --- | --- | --- | --- | --- |", flush=True)
    began = time.monotonic()
    found: dict[str, list[Result]] = {}
    broken: set[str] = set()
    for name in asked.names:
        if asked.quick and time.monotonic() > began + BEGINS_WITHIN_SECONDS:
            print(f"{name} is left out: the machine is too busy, or too slow", flush=True)
            continue
        try:
            found[name] = measured(name, quick=asked.quick)
        except Exception as problem:  # a machine that stands still for seconds lets any of them fail
            if not asked.quick or asked.writes_reference:
                raise
            print(f"{name} broke off: {problem!r}", flush=True)
            broken.add(name)
            found[name] = []
        if asked.plots:
            charts.write(name, found[name], heading)
    if asked.writes_reference:
        reference.write(line for lines in found.values() for line in lines)
        return 0
    if not asked.quick:
        return int(any(line.met is False for lines in found.values() for line in lines))
    references = reference.load()
    low = {name: reference.under(lines, references) for name, lines in found.items()}
    low |= {name: set(references) for name in broken}
    return int(_any_fails({name: first for name, first in low.items() if first}, references, began))


def _any_fails(low: dict[str, set[str]], references: dict[str, float], began: float) -> bool:
    failures = []
    for name, first in low.items():
        if time.monotonic() > began + BEGINS_WITHIN_SECONDS:
            print(f"not measured again, so not counted: {name}; the machine is too busy, or too slow", flush=True)
        else:
            failures.append(repeated(name, first, references))
    return any(failures)


def _stop(_: int, __: FrameType | None) -> None:
    sys.exit(143)


if __name__ == "__main__":
    sys.exit(main())
