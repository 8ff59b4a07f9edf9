"""Compares the pinned packages with the public list of known vulnerabilities.

Fails for what is known. Without a network it says so, loudly, and passes: a list that cannot be
read is no reason to stop work.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lock import entries

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT = 120  # seconds


class UnreadableError(Exception):
    """The list of known vulnerabilities cannot be read; says why in a sentence."""


def ask(pins: Path, exceptions: Iterable[str]) -> list[dict[str, Any]]:
    """What the list says of each package of a file of pins.

    Args:
        pins: the file.
        exceptions: identifiers of vulnerabilities to leave out.

    Raises:
        UnreadableError: there was no answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(pins), "--require-hashes"]
    command += ["--disable-pip", "--format", "json", "--progress-spinner", "off"]
    for identifier in exceptions:
        command += ["--ignore-vuln", identifier]
    try:
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise UnreadableError(f"No answer within {TIMEOUT} seconds.") from error
    try:
        packages: list[dict[str, Any]] = json.loads(answer.stdout)["dependencies"]
    except json.JSONDecodeError as error:
        said = answer.stderr.strip().splitlines() or ["pip-audit said nothing."]
        raise UnreadableError(said[-1]) from error
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if len(skipped) == len(packages):
        raise UnreadableError("The package index of this machine does not carry it.")
    if skipped:
        print(f"Not on the list: {', '.join(skipped)}")
    return packages


def main() -> int:
    """Prints the vulnerabilities of requirements/check.txt, which has every pin; answers the exit status."""
    exceptions = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["keystile"]["audit-exceptions"]
    pins, *apart = (ROOT / "requirements" / f"{name}.txt" for name in ("check", "ldap", "ldap-build"))
    try:
        with tempfile.TemporaryDirectory() as folder:
            one = Path(folder) / "one.txt"  # first one package, so that a vain question is a short one
            one.write_text(next(entries(pins.read_text())))
            ask(one, exceptions)
        packages = [package for each in (pins, *apart) for package in ask(each, exceptions)]
    except UnreadableError as error:
        line = "!" * 78
        print(line, "The list of known vulnerabilities could not be read: NOTHING WAS CHECKED.", sep="\n")
        print(error, line, sep="\n")
        return 0
    known = [(package, each) for package in packages for each in package.get("vulns", ())]
    for package, each in known:
        fixed = ", ".join(each["fix_versions"]) or "no version yet"
        print(f"{package['name']} {package['version']}: {each['id']}, fixed in {fixed}")
    print(f"Known vulnerabilities in {len(packages)} packages: {len(known)}")
    return int(bool(known))


if __name__ == "__main__":
    sys.exit(main())
