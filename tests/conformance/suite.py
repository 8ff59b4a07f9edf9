"""The official conformance suite: where it is, how it is run, what it found."""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

VERSION = "0.2.0-alpha.12"
PACKAGE = f"@modelcontextprotocol/conformance@{VERSION}"
LEAST_NODE = 22
BEARER = Path(__file__).with_name("bearer.mjs")

_FOLDER = re.compile(r"(?:authorization-server-|server-)(?P<scenario>.+)-\d{4}-\d\d-\d\dT[\d-]+Z")


@dataclass(frozen=True)
class Check:
    """One check of a scenario: SUCCESS, FAILURE, WARNING, SKIPPED or INFO, and why."""

    id: str
    status: str
    message: str


Results = dict[str, list[Check]]
"""Scenario to what was checked in it."""


@cache
def command() -> list[str] | None:
    """What runs the suite: the program if it is installed, else npx with a Node that is new enough; or None."""
    program = shutil.which("mcp-conformance")
    if program is not None:
        return [program]
    node, npx = shutil.which("node"), shutil.which("npx")
    if node is None or npx is None:
        return None
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=30).stdout
    return [npx, "-y", PACKAGE] if int(version.strip().lstrip("v").split(".")[0]) >= LEAST_NODE else None


def problem() -> str | None:
    """Why the suite cannot be run here, if it cannot."""
    return None if command() else f"no mcp-conformance on PATH, and no npx with Node {LEAST_NODE} or newer"


def arguments(*given: str) -> list[str]:
    """The command line of a run."""
    found = command()
    assert found is not None
    return [*found, *given]


def run_server(url: str, folder: Path, *options: str, token: str | None = None) -> Results:
    """Run scenarios against an MCP server.

    Args:
        url: its endpoint.
        folder: where the suite shall write.
        options: which scenarios, as the suite's command line names them.
        token: goes on every request.
    """
    environ = dict(os.environ)
    if token is not None:
        origin = url.removesuffix("/mcp")
        environ |= {
            "NODE_OPTIONS": f"--import {BEARER.as_uri()}",
            "CONFORMANCE_ORIGIN": origin,
            "CONFORMANCE_TOKEN": token,
        }
    line = arguments("server", "--url", url, "-o", str(folder), *options)
    ended = subprocess.run(line, env=environ, capture_output=True, text=True, timeout=420, check=False)
    (folder / "output.txt").write_text(ended.stdout + ended.stderr)
    return read_results(folder)


def read_results(folder: Path) -> Results:
    """What the suite wrote."""
    results: Results = {}
    for file in sorted(folder.glob("*/checks.json")):
        named = _FOLDER.fullmatch(file.parent.name)
        assert named, f"a folder of results that says no scenario: {file.parent.name}"
        checks: list[Mapping[str, str]] = json.loads(file.read_text())
        found = [Check(check["id"], check["status"], check.get("errorMessage") or "") for check in checks]
        results.setdefault(named["scenario"], []).extend(found)
    return results


def failures(checks: list[Check]) -> list[str]:
    """The checks that failed, each with its message."""
    return [f"{check.id}: {check.message}" for check in checks if check.status == "FAILURE"]
