"""The chart as helm renders it, and the programs that judge it."""

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

CHART = Path(__file__).parents[2] / "charts" / "keystile"
VARIANTS = sorted(path.name for path in (CHART / "ci").glob("*-values.yaml"))
"""Values that stand for the ways in which the chart is used."""


def program(name: str) -> str:
    """The path of a program; the test is left out, aloud, where it is not there."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"no {name} on PATH")
    return found


def run(*command: str | Path, given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in the chart's folder to its end, whatever it ends with.

    Args:
        command: the program and its arguments.
        given: what it reads from standard input.
    """
    # Nothing of the user's own helm settings and clusters.
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
    return subprocess.run(
        command, cwd=CHART, env=environ, input=given, capture_output=True, text=True, check=False, timeout=120
    )


def template(*arguments: str, release: str = "keystile") -> subprocess.CompletedProcess[str]:
    """`helm template` of the chart, in the namespace demo."""
    return run(program("helm"), "template", release, CHART, "--namespace", "demo", *arguments)


def variant(name: str) -> tuple[str, ...]:
    """The arguments that choose one of VARIANTS."""
    return ("--values", str(CHART / "ci" / name))


@dataclass(frozen=True)
class Release:
    """What a release consists of.

    Attributes:
        text: the manifests as rendered.
        objects: the same, read; by kind and name.
    """

    text: str
    objects: dict[tuple[str, str], dict[str, Any]]

    def get(self, kind: str, name: str) -> dict[str, Any]:
        """One object."""
        return self.objects[kind, name]

    def of_kind(self, kind: str) -> list[dict[str, Any]]:
        """All objects of a kind."""
        return [each for (its_kind, _), each in self.objects.items() if its_kind == kind]


def render(*arguments: str, release: str = "keystile") -> Release:
    """Render the chart, which has to succeed."""
    answer = template(*arguments, release=release)
    assert answer.returncode == 0, answer.stderr
    documents = [each for each in yaml.safe_load_all(answer.stdout) if each]
    objects = {(each["kind"], each["metadata"]["name"]): each for each in documents}
    assert len(objects) == len(documents), "two objects of one kind have the same name"
    return Release(answer.stdout, objects)
