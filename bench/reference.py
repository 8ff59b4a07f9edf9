"""What `--quick` holds against a run: ratios of processor time that were measured before, and how busy the machine is.

A ratio fails the run when it is 30 % under its reference, and again when its measure is repeated once, at the end; so
is a measure that broke off. What else runs on the machine takes from the processor's caches and so lowers ratios, by
about a quarter at a load of 16 on two cores: while others take more than a quarter of the machine during the
repetition, only what is 65 % under fails.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from bench.rounds import Result

FILE = Path(__file__).with_name("reference.json")
WORSE = 0.7
WORSE_WHILE_BUSY = 0.35
BUSY = 0.25
_IDLE = (3, 4)  # in the first line of /proc/stat: idle, and waiting for a disk
_COUNTED = 8  # what follows is contained in others before it


def load(file: Path = FILE) -> dict[str, float]:
    """The ratios by their names."""
    ratios: dict[str, float] = json.loads(file.read_text())
    return ratios


def write(lines: Iterable[Result], file: Path = FILE) -> None:
    """Put the medians of `lines` that have a reference in the place of those that are there; others stay."""
    measured = {line.reference: float(f"{line.median:.3g}") for line in lines if line.reference}
    file.write_text(json.dumps({**load(file), **measured}, indent=2) + "\n")


def under(lines: Iterable[Result], references: Mapping[str, float], share: float = WORSE) -> set[str]:
    """The references that `lines` are under by more than they may: a median below `share` of it."""
    return {line.reference for line in lines if line.median < share * references.get(line.reference, 0.0)}


def judged(
    first: set[str], again: Iterable[Result], references: Mapping[str, float], others: float
) -> tuple[set[str], set[str]]:
    """Which ratios have failed, and which would have, if the machine had been left alone.

    Args:
        first: the references that the first measurement was under.
        again: the second measurement.
        references: what was measured before.
        others: the share of the machine that other programs took during the second.
    """
    lines = list(again)
    low = first & under(lines, references)
    failed = low & under(lines, references, WORSE_WHILE_BUSY) if others > BUSY else low
    return failed, low - failed


class Others:
    """The share of all processors that programs which are not ours take, from now on; Linux alone tells.

    Ours are this process and its children, which count once they have ended and been waited for.
    """

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._busy, self._all = self._ticks()
        self._ours = _our_seconds()

    def share(self) -> float:
        """From 0 to 1; 0 where nothing tells."""
        busy, everything = self._ticks()
        passed = everything - self._all
        if passed <= 0:
            return 0.0
        ours = (_our_seconds() - self._ours) * os.sysconf("SC_CLK_TCK")
        return min(1.0, max(0.0, (busy - self._busy - ours) / passed))

    def _ticks(self) -> tuple[int, int]:
        if not self._stat.exists():
            return 0, 0
        counts = [int(each) for each in self._stat.read_text().splitlines()[0].split()[1:]][:_COUNTED]
        everything = sum(counts)
        return everything - sum(counts[each] for each in _IDLE), everything


def _our_seconds() -> float:
    return sum(os.times()[:4])
