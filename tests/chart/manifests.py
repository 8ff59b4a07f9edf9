"""Manifests that are not the chart's own rendering, and how they are judged."""

import os
from pathlib import Path
from typing import Any

import yaml

from tests.chart.release import CHART, program, run

REPOSITORY = CHART.parents[1]


def read(text: str) -> list[dict[str, Any]]:
    """The objects of a stream of YAML documents."""
    return [each for each in yaml.safe_load_all(text) if each]


def kustomize(folder: Path) -> str:
    """What `kubectl apply -k` would apply."""
    answer = run(program("kubectl"), "kustomize", folder)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


def assert_fits(manifests: str, *, unknown_kinds: bool = False) -> None:
    """Fail unless the manifests fit the schemas of their kinds.

    Args:
        manifests: YAML documents.
        unknown_kinds: whether a kind whose schema is not there is let through.
    """
    # Places beyond kubeconform's own, one a word.
    places = [f"-schema-location={place}" for place in os.environ.get("KUBECONFORM_SCHEMA_LOCATION", "").split()]
    options = ["-strict", "-summary", *places, *(["-ignore-missing-schemas"] if unknown_kinds else [])]
    answer = run(program("kubeconform"), *options, given=manifests)
    assert ", Invalid: 0, Errors: 0" in answer.stdout, answer.stdout + answer.stderr
    assert unknown_kinds or ", Skipped: 0" in answer.stdout, answer.stdout
