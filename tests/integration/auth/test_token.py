"""The token endpoint (RFC 6749 section 3.2): what holds for every grant."""

from collections import Counter

import pytest

from tests.auth_server import CALLBACK, RESOURCE, AuthServer, Pkce
from tests.person import Person

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


def test_get_is_not_allowed(auth_server: AuthServer) -> None:
    answer = auth_server.http.get(f"{auth_server.issuer}/token?grant_type=authorization_code")
    assert answer.status_code == 405
    assert "POST" in answer.headers["allow"]
    assert answer.headers["cache-control"] == "no-store"


def test_a_json_body_is_an_invalid_request(auth_server: AuthServer) -> None:
    answer = auth_server.http.post(f"{auth_server.issuer}/token", json={"grant_type": "authorization_code"})
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(
    "grant_type", ["password", "implicit", "urn:ietf:params:oauth:grant-type:device_code", "Authorization_Code"]
)
def test_any_other_grant_type_is_unsupported(auth_server: AuthServer, grant_type: str) -> None:
    client = auth_server.register()
    answer = auth_server.token(grant_type=grant_type, client_id=client.id, username="u", password="p")
    assert (answer.status_code, answer.json()["error"]) == (400, "unsupported_grant_type")


def test_a_missing_grant_type_is_an_invalid_request(auth_server: AuthServer) -> None:
    answer = auth_server.token(client_id=auth_server.register().id)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize(("grant_type", "name"), [("authorization_code", "code"), ("refresh_token", "refresh_token")])
def test_a_missing_code_or_refresh_token_is_an_invalid_request(
    auth_server: AuthServer, grant_type: str, name: str
) -> None:
    answer = auth_server.token(grant_type=grant_type, client_id=auth_server.register().id)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert answer.json()["error_description"] == f"{name} is required"


@pytest.mark.parametrize(
    "name", ["grant_type", "code", "redirect_uri", "client_id", "code_verifier", "resource", "unknown"]
)
def test_each_parameter_given_twice_is_an_invalid_request_and_the_code_stays_unused(
    auth_server: AuthServer, person: Person, name: str
) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    values = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": CALLBACK,
        "client_id": client.id,
        "code_verifier": pkce.verifier,
        "resource": RESOURCE,
        "unknown": "x",
    }
    twice = {**values, name: [values[name], values[name]]}
    answer = auth_server.http.post(f"{auth_server.issuer}/token", data=twice)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert name in answer.json()["error_description"]
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


@pytest.mark.parametrize("name", ["refresh_token", "scope"])
def test_each_parameter_of_a_refresh_given_twice_is_an_invalid_request(auth_server: AuthServer, name: str) -> None:
    values = {"grant_type": "refresh_token", "client_id": auth_server.register().id, name: ["x", "x"]}
    answer = auth_server.http.post(f"{auth_server.issuer}/token", data=values)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_unknown_parameters_and_those_in_the_query_are_ignored(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    data = {
        "grant_type": "authorization_code",
        "client_id": client.id,
        "code": code,
        "code_verifier": pkce.verifier,
        "audience": "x",
    }
    url = f"{auth_server.issuer}/token"
    in_query = auth_server.http.post(f"{url}?code={code}", data={**data, "code": ""})
    assert in_query.json()["error"] == "invalid_request"
    assert auth_server.http.post(url, data=data).status_code == 200


def test_no_answer_may_be_kept_by_a_cache(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    answers = [
        auth_server.redeem(client.id, code, pkce),
        auth_server.redeem(client.id, "junk", pkce),
        auth_server.redeem("nobody", "junk", pkce),
        auth_server.http.post(f"{auth_server.issuer}/introspect", data={"token": "x"}),
    ]
    assert [answer.status_code for answer in answers] == [200, 400, 401, 401]
    for answer in answers:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/json"


@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect", "/register"])
def test_errors_are_json_though_a_program_says_that_it_reads_html_too(auth_server: AuthServer, path: str) -> None:
    headers = {**FORM, "Accept": "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2"}
    answer = auth_server.http.post(auth_server.issuer + path, content=b"client_id=nobody", headers=headers)
    assert answer.status_code in {400, 401}
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["error"]
    wrong_method = auth_server.http.patch(auth_server.issuer + path, headers=headers)
    assert wrong_method.status_code == 405
    assert wrong_method.headers["content-type"] == "application/json"


def test_a_success_names_token_type_lifetime_and_scope(auth_server: AuthServer, person: Person) -> None:
    tokens = auth_server.tokens(auth_server.register().id, person)
    assert set(tokens) == {"access_token", "token_type", "expires_in", "scope", "refresh_token"}
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 900
    assert tokens["scope"] == "mcp:basic"


def test_an_error_description_has_only_the_characters_that_the_specification_allows(auth_server: AuthServer) -> None:
    client = auth_server.register()
    answer = auth_server.token(
        grant_type="client_credentials", client_id=client.id, scope='"ü\\', resource='x"\\ü'
    ).json()
    assert all(" " <= character <= "~" and character not in '"\\' for character in answer["error_description"])


def test_a_code_and_a_refresh_ask_the_store_twice(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    before = store_operations(auth_server)
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert auth_server.refresh(client.id, tokens["refresh_token"]).status_code == 200
    asked = store_operations(auth_server) - before
    assert asked == Counter({"grant.find": 2, "grant.redeem": 1, "grant.rotate": 1})


def store_operations(server: AuthServer) -> Counter[str]:
    """How often each operation of the store was done."""
    return Counter(
        {
            sample.labels["operation"]: int(sample.value)
            for metric in server.metrics.registry.collect()
            for sample in metric.samples
            if sample.name == "keystile_store_operation_duration_seconds_count"
        }
    )
