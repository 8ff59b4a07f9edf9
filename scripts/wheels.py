"""Proves that every pinned package has a wheel wherever Keystile runs: nobody needs a compiler.

But for identities of kind ldap: python-ldap has none, so requirements/ldap.txt is not among these files.

Asks the package index, as set up on this machine, for each platform and Python, and installs nothing.
"""

import shutil
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FILES = ("check", "run", "auth", "mcp", "embedded", "peers")
PLATFORMS = (
    "x86_64-manylinux_2_28",
    "aarch64-manylinux_2_28",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
)
PYTHONS = ("3.11", "3.12", "3.13", "3.14")


def missing(name: str, platform: str, python: str) -> str | None:
    """Why one file of pins cannot be installed from wheels alone, or None where it can.

    Args:
        name: the file's name in requirements/, without .txt.
        platform: uv's name of a platform.
        python: a Python version, such as "3.11".
    """
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    with tempfile.TemporaryDirectory() as target:
        command = [uv, "pip", "install", "--dry-run", "--require-hashes", "--only-binary", ":all:"]
        command += ["--python-platform", platform, "--python-version", python, "--target", target]
        command += ["--requirement", f"requirements/{name}.txt"]
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return answer.stderr.strip() if answer.returncode else None


def main() -> int:
    """Prints a line for each file, platform and Python; answers the exit status."""
    failed = 0
    for name, platform, python in product(FILES, PLATFORMS, PYTHONS):
        why = missing(name, platform, python)
        if why:
            failed += 1
            print(f"requirements/{name}.txt, {platform}, Python {python}:\n{why}", file=sys.stderr)
    tried = len(FILES) * len(PLATFORMS) * len(PYTHONS)
    print(f"Wheels: {tried - failed} of {tried} combinations of file, platform and Python are complete")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
