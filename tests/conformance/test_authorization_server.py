"""The official suite for authorization servers, with a person who signs in and consents."""

import pytest

from tests.conformance.scenarios import AUTHORIZATION
from tests.conformance.suite import Results, failures

pytestmark = pytest.mark.conformance


def test_the_suite_has_the_scenarios_that_are_known(authorization: Results) -> None:
    assert set(authorization) == AUTHORIZATION


@pytest.mark.parametrize("scenario", sorted(AUTHORIZATION))
def test_every_scenario_passes(authorization: Results, scenario: str) -> None:
    checks = authorization[scenario]
    assert not failures(checks)
    assert {check.status for check in checks} == {"SUCCESS"}
