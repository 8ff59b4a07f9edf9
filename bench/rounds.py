"""Rounds: everything measured in turn, on one core, so that what disturbs one disturbs its neighbours too."""

import os
import platform
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version

ROUNDS = 5
SERVER_CORE = 1
_CORES = "BENCH_CORES"


@dataclass(frozen=True)
class Result:
    """One line of the table.

    Attributes:
        name: what was measured.
        value: the median of the rounds, with its unit.
        spread: the least and the most of the rounds.
        goal: what it should be, or "" where there is no goal.
        met: whether it is; None where there is no goal.
        reference: the name in `reference.json` that a ratio is compared with by `--quick`, or "".
        median: the median as a number.
        least: the least of the rounds.
        most: the most of them.
        bound: the number in `goal`; None where there is no goal.
    """

    name: str
    value: str
    spread: str
    goal: str = ""
    met: bool | None = None
    reference: str = ""
    median: float = 0.0
    least: float = 0.0
    most: float = 0.0
    bound: float | None = None


def interleaved(measures: dict[str, Callable[[], float]]) -> dict[str, list[float]]:
    """Run each measure once to warm it up, then all of them in turn, `ROUNDS` times; what each answered."""
    for measure in measures.values():
        measure()
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(ROUNDS):
        for name, measure in measures.items():
            found[name].append(measure())
    return found


def result(
    name: str,
    values: list[float],
    unit: str,
    *,
    most: float | None = None,
    least: float | None = None,
    reference: str = "",
) -> Result:
    """A line about `values`, one a round, with a bound for their median."""
    median = statistics.median(values)
    spread = f"{min(values):.3g} to {max(values):.3g}"
    goal, met = "", None
    if most is not None:
        goal, met = f"at most {most:g}{unit}", median <= most
    elif least is not None:
        goal, met = f"at least {least:g}{unit}", median >= least
    bound = least if most is None else most
    return Result(name, f"{median:.3g}{unit}", spread, goal, met, reference, median, min(values), max(values), bound)


def ratios(of: list[float], to: list[float]) -> list[float]:
    """Round by round."""
    return [one / other for one, other in zip(of, to, strict=True)]


def cores() -> int:
    """How many there are to choose from."""
    known = os.environ.get(_CORES)
    if known:
        return len(known.split(","))
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def pin(core: int) -> None:
    """Stay on one core (Linux; elsewhere the kernel decides). There may be fewer cores than asked for."""
    if hasattr(os, "sched_setaffinity"):
        # A child inherits its parent's one core: which there are to choose from is what the first process saw.
        known = os.environ.setdefault(_CORES, ",".join(map(str, sorted(os.sched_getaffinity(0)))))
        cores = [int(each) for each in known.split(",")]
        os.sched_setaffinity(0, {cores[core % len(cores)]})


def surroundings() -> str:
    """The machine and what runs on it."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("mcp", "uvicorn", "starlette", "pydantic"))
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {python}; {packages}"
