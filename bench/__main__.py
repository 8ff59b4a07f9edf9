"""`python -m bench [--quick] [NAME …]`: measure, and print the table."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path

from bench import authorization, bearer, charts, proxy, revocation, soak, startup, tool_calls
from bench.peers import authorization as peers_authorization
from bench.peers import tool_calls as peers_tool_calls
from bench.rounds import Result, surroundings

MEASURES: dict[str, Callable[[bool], Iterable[Result]]] = {
    "bearer": bearer.measure,
    "tool_calls": tool_calls.measure,
    "proxy": proxy.measure,
    "authorization": authorization.measure,
    "revocation": revocation.measure,
    "startup": startup.measure,
    "peers": peers_authorization.measure,
    "peers_tool_calls": peers_tool_calls.measure,
    "soak": soak.measure,
}
# These run when they are named; the others that are long are not in `--quick` either.
NAMED = ("soak",)
LONG = ("peers", "peers_tool_calls")
REFERENCE = Path(__file__).with_name("reference.json")
_WORSE = 0.7


def _row(line: Result) -> str:
    met = "" if line.met is None else ("met" if line.met else "MISSED")
    return f"| {line.name} | {line.value} | {line.spread} | {line.goal} | {met} |"


def defaults(*, quick: bool) -> list[str]:
    """What runs when nothing is named."""
    left_out = NAMED + (LONG if quick else ())
    return [name for name in MEASURES if name not in left_out]


def main() -> int:
    """Answers 1 when a goal is missed; with `--quick`, only when a ratio is 30 % under the one in `reference.json`."""
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes for all of them")
    parser.add_argument("--plots", action="store_true", help="draw docs/performance/*.svg of what is measured")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"some of {', '.join(MEASURES)}; by default all but {', '.join(NAMED)}, and with --quick "
        f"all but {', '.join(NAMED + LONG)}",
    )
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(MEASURES)
    if unknown:
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    heading = f"{datetime.now(UTC):%Y-%m-%d}, {surroundings()}; load {os.getloadavg()[0]:.1f} at the beginning"
    print(f"{heading}\n\n| what | median | spread | goal | |\n| --- | --- | --- | --- | --- |", flush=True)
    references: dict[str, float] = json.loads(REFERENCE.read_text())
    missed = False
    for name in chosen.names or defaults(quick=chosen.quick):
        affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
        lines = []
        for line in MEASURES[name](chosen.quick):
            print(_row(line), flush=True)
            lines.append(line)
            if chosen.quick:
                missed = missed or line.median < _WORSE * references.get(line.reference, 0.0)
            else:
                missed = missed or line.met is False
        if affinity is not None:
            os.sched_setaffinity(0, affinity)
        if chosen.plots:
            charts.write(name, lines, heading)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
