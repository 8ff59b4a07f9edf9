"""Pins the requirements, and checks the pins.

lock.py              brings requirements/*.txt up to date with what asks for them
lock.py --upgrade    the same, and moves every pin to its newest version
lock.py --check      reads only: are the pins complete, consistent and up to date?
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "requirements"
OLDEST_PYTHON = "3.11"
OWN_PACKAGES = ("keystile-auth", "keystile-common", "keystile-embedded", "keystile-mcp")
PLATFORMS = FOLDER / "platforms.in"
FOREIGN = re.compile(r"://|^\s*-(?!-hash=)|\s@\s|^\s*[./~]")


def requirements(path: Path) -> Iterator[str]:
    """The lines of a hand-written file of requirements, without its comments."""
    for line in path.read_text().splitlines():
        if requirement := line.partition("#")[0].strip():
            yield requirement


@dataclass(frozen=True)
class Lock:
    """One pinned file and what it is made of.

    Attributes:
        name: the file's name in requirements/, without .txt.
        services: folders in services/ whose dependencies are in it.
        inputs: names in requirements/, without .in.
        extras: optional dependencies of those services that are in it.
        is_apart: whether it has packages that cannot be installed everywhere, and are not in the first.
        has_own_versions: whether it is for an environment of its own, with versions of its own.
        left_out: packages that others ask for, and nothing here uses.
    """

    name: str
    services: tuple[str, ...]
    inputs: tuple[str, ...] = ()
    extras: tuple[str, ...] = ()
    is_apart: bool = False
    has_own_versions: bool = False
    left_out: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The pinned file."""
        return FOLDER / f"{self.name}.txt"

    def text(self) -> str:
        """The pinned file's text; empty where there is none yet."""
        return self.path.read_text() if self.path.exists() else ""

    @property
    def sources(self) -> tuple[str, ...]:
        """What asks for packages, as paths from the root."""
        projects = (f"services/{service}/pyproject.toml" for service in self.services)
        return (*projects, *(f"requirements/{name}.in" for name in self.inputs))

    def wanted(self) -> Iterator[str]:
        """Every requirement of the sources, as written there."""
        for service in self.services:
            project = tomllib.loads((ROOT / f"services/{service}/pyproject.toml").read_text())["project"]
            yield from project["dependencies"]
            for extra in self.extras:
                yield from project.get("optional-dependencies", {}).get(extra, [])
        for name in self.inputs:
            yield from requirements(FOLDER / f"{name}.in")

    def digest(self) -> str:
        """A fingerprint of the sources; the pinned file carries the one it was made from."""
        wanted = sorted((*self.wanted(), *requirements(PLATFORMS)))
        return hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:32]

    def header(self) -> str:
        """The pinned file's first lines."""
        return (
            "# Made by `make lock`; do not edit.\n"
            f"# From: {' '.join(self.sources)}\n"
            f"# Fingerprint of those: {self.digest()}\n"
        )


# What typer asks for and we have turned off. structlog would have it in the memory of every server, for logs in colour.
RICH = ("markdown-it-py", "mdurl", "pygments", "rich")

# The first holds all the others but what stands apart: its versions are theirs.
ALL = ("common", "auth", "mcp", "embedded")
LOCKS = (
    Lock("check", ALL, ("build", "run", "test", "check"), ("embedded", "saml")),
    Lock("test", ALL, ("build", "run", "test"), ("embedded", "saml")),
    Lock("run", ALL, ("build", "run"), ("embedded",)),
    Lock("auth", ("common", "auth"), (), ("saml",), left_out=RICH),
    Lock("mcp", ("common", "mcp")),
    Lock("embedded", ALL, (), ("embedded", "saml"), left_out=RICH),
    Lock("build", (), ("build",)),
    Lock("ldap", (), ("ldap",), is_apart=True),
    Lock("ldap-build", (), ("ldap-build",), is_apart=True),
    Lock("peers", (), ("peers",), has_own_versions=True),
)


def compile_lock(lock: Lock, *, upgrade: bool) -> None:
    """Resolves one lock with uv and writes its file.

    Args:
        lock: what to resolve.
        upgrade: whether pins of the present file may be left for newer ones.

    Raises:
        subprocess.CalledProcessError: uv found no solution, or no network.
    """
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or "uv"
    command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version", OLDEST_PYTHON]
    command += ["--generate-hashes", "--no-annotate", "--no-header", "--no-emit-index-url"]
    for package in (*OWN_PACKAGES, *lock.left_out):
        command += ["--no-emit-package", package]
    for extra in lock.extras:
        command += ["--extra", extra]
    leads = lock.has_own_versions or lock is LOCKS[0]
    constraints = PLATFORMS if leads else LOCKS[0].path
    command += ["--constraints", str(constraints.relative_to(ROOT))]
    if upgrade and leads:
        command.append("--upgrade")
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / lock.path.name
        if lock.path.exists():
            shutil.copy(lock.path, output)
        command += ["--output-file", str(output), *lock.sources]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        lines = [line for line in output.read_text().splitlines() if not line.startswith("#")]
    lock.path.write_text(lock.header() + "\n".join(lines).strip() + "\n")


def entries(text: str) -> Iterator[str]:
    """The requirements of a pinned file, each with its hashes, on one line."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield line


def pins(lock: Lock) -> dict[str, set[str]]:
    """Package to its versions, of which a platform may have its own; leaves out what is no pin."""
    found: dict[str, set[str]] = {}
    for entry in entries(lock.text()):
        if match := re.match(r"([\w.-]+)==([\w.!+-]+)\s", entry):
            found.setdefault(canonicalize_name(match[1]), set()).add(match[2])
    return found


def faults(lock: Lock, versions: Mapping[str, set[str]]) -> Iterator[str]:
    """What is wrong with one pinned file, in sentences.

    Args:
        lock: the file to read.
        versions: package to versions, as the file that holds all the others pins them.
    """
    text = lock.text()
    if not text.startswith(lock.header()):
        yield "does not agree with what it is made from"
    for entry in entries(text):
        requirement, *hashes = entry.split(" --hash=")
        if FOREIGN.search(requirement):
            yield f"names an index, an address or a path: {requirement.strip()}"
        elif not re.match(r"[\w.-]+==[\w.!+-]+\s", requirement):
            yield f"does not pin {requirement.strip()}"
        elif not hashes or not all(re.fullmatch(r"sha256:[0-9a-f]{64}", value.strip()) for value in hashes):
            yield f"has no sha256 hashes for {requirement.strip()}"
    pinned = pins(lock)
    for name, own in pinned.items():
        if not lock.has_own_versions and not own <= versions.get(name, own if lock.is_apart else set()):
            yield f"has {name} {' and '.join(own)}, which {LOCKS[0].path.name} has not"
    for wanted in map(Requirement, lock.wanted()):
        own = pinned.get(canonicalize_name(wanted.name), set())
        if wanted.name not in OWN_PACKAGES and not (own and all(map(wanted.specifier.contains, own))):
            yield f"has {wanted.name} {' and '.join(own) or 'nowhere'}, asked for is {wanted}"


def check() -> int:
    """Prints every fault of the pinned files; answers the exit status."""
    versions = pins(LOCKS[0])
    found = [f"requirements/{lock.path.name} {fault}" for lock in LOCKS for fault in faults(lock, versions)]
    if found:
        print("\n".join(found), "Run `make lock`.", sep="\n", file=sys.stderr)
        return 1
    print(f"Pins: {len(LOCKS)} files, {len(versions)} packages, each with its version and hashes")
    return 0


def main() -> int:
    """Does what the command line says; answers the exit status."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--upgrade", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    if arguments.check:
        return check()
    try:
        for lock in LOCKS:
            compile_lock(lock, upgrade=arguments.upgrade)
    except subprocess.CalledProcessError:
        print("The pins could not be made; what uv says above is why.", file=sys.stderr)
        return 1
    return check()


if __name__ == "__main__":
    sys.exit(main())
