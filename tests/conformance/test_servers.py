"""The official suite for MCP servers, against its fixture server behind Keystile: in the process, and as a proxy."""

from pathlib import Path

import pytest

from tests.conformance.conftest import Run
from tests.conformance.scenarios import ALSO_PASSED, COUNTS, NOT_SERVED, OF_2025_06_18, REQUIRED
from tests.conformance.suite import failures, run_server

pytestmark = pytest.mark.conformance

WAYS = ["direct", "proxy"]
SCENARIOS = [
    pytest.param(way, revision, scenario, id=f"{way}-{revision}-{scenario}")
    for way in WAYS
    for revision, scenarios in REQUIRED.items()
    for scenario in sorted(scenarios | ALSO_PASSED[revision])
]


@pytest.mark.parametrize(("way", "revision", "scenario"), SCENARIOS)
def test_every_scenario_passes(run: Run, way: str, revision: str, scenario: str) -> None:
    checks = run(way, "--requirements", revision).get(scenario)
    assert checks, "the suite has no result for it"
    assert not failures(checks)
    assert any(check.status == "SUCCESS" for check in checks)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("revision", "count"), COUNTS.items())
def test_as_many_scenarios_ran_as_the_revision_requires(run: Run, way: str, revision: str, count: int) -> None:
    results = set(run(way, "--requirements", revision))
    assert len(results & REQUIRED[revision]) == len(REQUIRED[revision]) == count
    assert results == REQUIRED[revision] | ALSO_PASSED[revision] | NOT_SERVED[revision]


def test_nothing_passes_without_a_token(endpoints: dict[str, str], tmp_path: Path) -> None:
    results = run_server(endpoints["direct"], tmp_path, "--scenario", "tools-list", "--spec-version", "2026-07-28")
    assert failures(results["tools-list"])


@pytest.mark.parametrize("way", WAYS)
def test_every_scenario_for_2025_06_18_passes(run: Run, way: str) -> None:
    results = run(way, "--suite", "all", "--spec-version", "2025-06-18")
    assert set(results) == OF_2025_06_18
    assert len(results) == 27
    assert not {scenario: failures(checks) for scenario, checks in results.items() if failures(checks)}
