"""What peers need on this machine: Node.js packages, and an environment of Python's own for them, made once."""

import json
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

from bench.load import ROOT
from tests import installed, node

_PINS = ROOT / "requirements" / "peers.txt"
HERE = Path(__file__).parent


class MissingError(Exception):
    """A peer cannot run here; says why in a sentence."""


@cache
def node_packages() -> Path:
    """The folder with `package-lock.json`'s packages in it.

    Raises:
        MissingError: there is no Node.js, or no registry to install from.
    """
    if problem := node.problem():
        raise MissingError(f"There is {problem}.")
    try:
        return node.packages(HERE)
    except (AssertionError, OSError, subprocess.SubprocessError):
        raise MissingError("npm could not install it.") from None


@cache
def python() -> Path:
    """A Python that has what `requirements/peers.txt` pins.

    Raises:
        MissingError: there is no registry to install from.
    """
    made_from = _PINS.read_bytes() + f"{sys.base_prefix} {sys.version}".encode()
    try:
        return installed.once("python-peers", made_from, _install) / "bin" / "python"
    except (OSError, subprocess.SubprocessError):
        raise MissingError("pip could not install it.") from None


def oidc_provider_version() -> str:
    """The version of `oidc-provider` that is installed, and of the Node.js that runs it."""
    package = json.loads((node_packages() / "node_modules" / "oidc-provider" / "package.json").read_text())
    runs_on = subprocess.run([str(node.node()), "--version"], capture_output=True, text=True, check=True).stdout.strip()
    return f"{package['version']}, Node.js {runs_on.removeprefix('v')}"


def pinned_version(package: str, pins: str) -> str:
    """The version of a package in a file of pins.

    Raises:
        MissingError: it is not there.
    """
    if found := re.search(rf"^{re.escape(package)}==(\S+)", pins, re.MULTILINE):
        return found[1]
    raise MissingError(f"{package} is not pinned.")


def fastmcp_version() -> str:
    """The version of `fastmcp`."""
    return pinned_version("fastmcp", _PINS.read_text())


def _install(folder: Path) -> None:
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    _run([*pip, "--require-hashes", "--no-deps", "-r", str(_PINS)])


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=600)
