"""Holds the modules named in pyproject.toml to the coverage promised there.

Reads .coverage.json, which `make test` writes. A name stands for the module and all that is in it.
"""

import json
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def share(name: str, files: Mapping[str, Mapping[str, Mapping[str, int]]]) -> float | None:
    """The covered part of a module's lines and branches, in percent; None where it has none.

    Args:
        name: dotted name of a module or package.
        files: the report's files, path to numbers.
    """
    folder = name.replace(".", "/")
    covered = total = 0
    for path, numbers in files.items():
        slashed = f"/{path}"
        if f"/{folder}/" in slashed or slashed.endswith(f"/{folder}.py"):
            summary = numbers["summary"]
            covered += summary["covered_lines"] + summary["covered_branches"]
            total += summary["num_statements"] + summary["num_branches"]
    return 100 * covered / total if total else None


def main() -> int:
    """Prints each floor and what stands on it; answers the exit status."""
    floors = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["keystile"]["coverage-floors"]
    files = json.loads((ROOT / ".coverage.json").read_text())["files"]
    failed = False
    for name, floor in floors.items():
        reached = share(name, files)
        if reached is None:
            print(f"coverage of {name}: nothing was measured, {floor} % are asked for")
            failed = True
        else:
            low = reached < floor
            failed |= low
            print(f"coverage of {name}: {reached:.1f} %{f', {floor} % are asked for' if low else ''}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
