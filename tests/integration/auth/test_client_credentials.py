"""The client credentials grant (RFC 6749 section 4.4)."""

import pytest

from tests.auth_server import CALLBACK, OTHER_RESOURCE, RESOURCE, AuthServer
from tests.operator import Operator


def test_an_operators_client_gets_a_token_for_itself_and_no_refresh_token(
    auth_server: AuthServer, operator: Operator
) -> None:
    machine = operator.machine("mcp:basic", "mcp:jobs")
    tokens = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE).json()
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope"}
    answer = auth_server.introspect(tokens["access_token"])
    assert answer["active"] is True
    assert answer["aud"] == RESOURCE
    assert answer["scope"] == "mcp:basic mcp:jobs"
    assert answer["client_id"] == answer["sub"] == machine[0]
    assert "username" not in answer


def test_introspection_says_what_it_could_be_granted_where_that_is_less_than_all(
    auth_server: AuthServer, operator: Operator
) -> None:
    def described(*own: str) -> dict[str, object]:
        machine = operator.machine(*own)
        answer = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE, scope=own[0])
        return auth_server.introspect(answer.json()["access_token"])

    assert described("mcp:basic")["grantable_scope"] == "mcp:basic"
    assert "grantable_scope" not in described("mcp:basic", "mcp:jobs")


def test_its_subject_can_never_be_a_users(auth_server: AuthServer, operator: Operator) -> None:
    machine = operator.machine()
    tokens = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE).json()
    assert auth_server.introspect(tokens["access_token"])["sub"].startswith("kst_client_")
    user = auth_server.tokens(auth_server.register().id)
    assert auth_server.introspect(user["access_token"])["sub"].startswith("user_")


def test_a_narrower_scope_may_be_asked_for(auth_server: AuthServer, operator: Operator) -> None:
    machine = operator.machine("mcp:basic", "mcp:jobs")
    tokens = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE, scope="mcp:jobs").json()
    assert tokens["scope"] == "mcp:jobs"


@pytest.mark.parametrize("scope", ["mcp:jobs", "mcp:basic mcp:jobs", "other:use", "unknown", "a  b"])
def test_a_scope_that_the_operator_did_not_give_is_invalid(
    auth_server: AuthServer, operator: Operator, scope: str
) -> None:
    machine = operator.machine("mcp:basic")
    answer = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE, scope=scope)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")


@pytest.mark.parametrize("resource", [OTHER_RESOURCE, "https://unknown.example/", None])
def test_a_resource_that_the_operator_did_not_give_is_an_invalid_target(
    auth_server: AuthServer, operator: Operator, resource: str | None
) -> None:
    answer = auth_server.token(operator.machine(), grant_type="client_credentials", resource=resource)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_target")


def test_its_resource_may_be_spelt_as_for_users(auth_server: AuthServer, operator: Operator) -> None:
    answer = auth_server.token(operator.machine(), grant_type="client_credentials", resource=f"{RESOURCE}/")
    assert auth_server.introspect(answer.json()["access_token"])["aud"] == RESOURCE


@pytest.mark.parametrize("method", ["none", "client_secret_basic"])
def test_a_client_that_registered_itself_may_not_act_for_itself(auth_server: AuthServer, method: str) -> None:
    grants = ["authorization_code", "client_credentials"]
    client = auth_server.register(token_endpoint_auth_method=method, grant_types=grants)
    auth = (client.id, client.secret) if client.secret else None
    name = None if auth else client.id
    answer = auth_server.token(auth, grant_type="client_credentials", client_id=name, resource=RESOURCE)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


def test_an_operators_client_for_users_may_not_act_for_itself(auth_server: AuthServer, operator: Operator) -> None:
    added = operator.done("clients", "add", "Web", "--redirect-uri", CALLBACK)
    auth = (added.value("client_id"), added.value("client_secret"))
    answer = auth_server.token(auth, grant_type="client_credentials", resource=RESOURCE)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


def test_deleting_the_client_ends_its_tokens(auth_server: AuthServer, operator: Operator) -> None:
    machine = operator.machine()
    tokens = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE).json()
    ended = operator.done("clients", "delete", machine[0])
    assert "1 grants and tokens ended" in ended.output
    assert not auth_server.is_active(tokens["access_token"])
    again = auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE)
    assert (again.status_code, again.json()["error"]) == (401, "invalid_client")
