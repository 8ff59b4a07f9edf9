"""`keystile doctor` at servers that are as they should be."""

import asyncio

import pytest

from keystile_common.doctor.finding import Outcome
from keystile_common.doctor.scene import Credentials
from tests.auth_server import OTHER_RESOURCE, RESOURCE_SECRET
from tests.integration.doctor.conftest import MACHINE_SECRET
from tests.integration.doctor.way import Passed, Way

JOB = Credentials("job", MACHINE_SECRET)


def other_token(way: Way) -> str:
    answer = way.auth.token(
        grant_type="client_credentials",
        resource=OTHER_RESOURCE,
        scope="other:use",
        auth=("job", MACHINE_SECRET),
    )
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])


async def test_with_everything_given_every_check_of_a_healthy_pair_is_ok(way: Way) -> None:
    seen = await way.examine(
        register=True,
        client=JOB,
        other_token=await asyncio.to_thread(other_token, way),
        introspect_as=Credentials("mcp", RESOURCE_SECRET),
    )
    assert {name for name, each in seen.findings.items() if each.outcome is not Outcome.OK} == set()
    assert len(seen.findings) > 30
    assert seen.report.outcome is Outcome.OK


async def test_with_nothing_given_the_rest_cannot_be_told_and_is_no_problem(way: Way) -> None:
    seen = await way.examine()
    assert seen.problems == seen.warnings == set()
    assert seen.names(Outcome.UNKNOWN) == {
        "registration",
        "pkce-required",
        "resource-parameter",
        "token",
        "token-resource",
        "audience",
        "introspection",
        "streams",
    }
    assert all(seen[name].advice for name in seen.names(Outcome.UNKNOWN))


async def test_nothing_is_written_unless_that_is_asked_for(way: Way) -> None:
    await way.examine()
    assert ("POST", "/register") not in way.requests


async def test_the_client_that_is_registered_is_deleted_again(way: Way) -> None:
    seen = await way.examine(register=True)
    assert seen["registration"].seen == "A client was registered, and deleted again."
    (deleted,) = [path for method, path in way.requests if method == "DELETE" and path.startswith("/register/")]
    assert way.auth.http.get(way.auth.issuer + deleted).status_code == 401


@pytest.mark.parametrize("path", ["/.well-known/oauth-protected-resource", "/.well-known/openid-configuration"])
async def test_the_forms_of_well_known_that_few_clients_ask_for_may_be_missing(way: Way, path: str) -> None:
    def missing(passed: Passed) -> None:
        if passed.path == path:
            passed.status = 404

    way.change = missing
    seen = await way.examine()
    assert seen.problems == seen.warnings == set()


async def test_no_session_is_left_open(way: Way) -> None:
    await way.examine(client=JOB)
    assert way.mcp is not None
    assert way.mcp.metric("keystile_mcp_sessions") == 0
