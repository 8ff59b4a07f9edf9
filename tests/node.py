"""Node.js, and the packages of other people that tests run with it."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

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
def packages() -> Path:
    """The folder with the packages of `tests/clients/package-lock.json` in it, installed once a machine."""
    lock = (CLIENTS / "package-lock.json").read_bytes() + (CLIENTS / "package.json").read_bytes()
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "keystile" / f"clients-{hashlib.sha256(lock).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / "clients.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            _install(folder)
    return folder


def _install(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(CLIENTS / name, made)
        npm = _npm()
        assert npm is not None
        # Nothing of what is installed runs while it is being installed.
        command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
        answer = subprocess.run(
            command, cwd=made, env=environment(), capture_output=True, text=True, timeout=600, check=False
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        Path(made).rename(folder)
        Path(made).mkdir()


@cache
def _npm() -> str | None:
    found = node()
    return shutil.which("npm", path=environment()["PATH"]) if found else None


def _version(program: str) -> tuple[int, ...]:
    answer = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=30, check=False)
    match = re.match(r"v(\d+)\.(\d+)", answer.stdout)
    return (int(match[1]), int(match[2])) if match else (0,)
