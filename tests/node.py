"""Node.js, and the packages of other people that tests run with it."""

import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

from tests import installed

OLDEST = (22, 19)
CLIENTS = Path(__file__).parent / "clients"
_NAMES = ("node", "node22", "node24", "node26", "nodejs")


@cache
def node() -> Path | None:
    """A Node.js that is new enough, or None."""
    for name in _NAMES:
        found = shutil.which(name)
        if found and _version(found) >= OLDEST:
            return Path(found).resolve()
    return None


def problem() -> str | None:
    """Why tests with Node.js cannot run here, as a sentence's beginning; None when they can."""
    if node() is None:
        return f"no Node.js {OLDEST[0]}.{OLDEST[1]} or newer on PATH (looked for {', '.join(_NAMES)})"
    return None if _npm() else "no npm on PATH"


def environment() -> dict[str, str]:
    """Variables for programs of Node.js: this very Node.js comes first on PATH."""
    found = node()
    assert found is not None
    return {**os.environ, "PATH": f"{found.parent}{os.pathsep}{os.environ['PATH']}", "NO_COLOR": "1"}


@cache
def packages(source: Path = CLIENTS) -> Path:
    """The folder with the packages of `source`'s package-lock.json in it, installed once a machine."""
    pins = (source / "package-lock.json").read_bytes() + (source / "package.json").read_bytes()
    return installed.once(source.name, pins, lambda folder: _install(source, folder))


def _install(source: Path, folder: Path) -> None:
    for name in ("package.json", "package-lock.json"):
        shutil.copy(source / name, folder)
    npm = _npm()
    assert npm is not None
    # Nothing of what is installed runs while it is being installed.
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    answer = subprocess.run(
        command, cwd=folder, env=environment(), capture_output=True, text=True, timeout=600, check=False
    )
    assert answer.returncode == 0, answer.stdout + answer.stderr


@cache
def _npm() -> str | None:
    found = node()
    return shutil.which("npm", path=environment()["PATH"]) if found else None


def _version(program: str) -> tuple[int, ...]:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.match(r"v(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0,)
