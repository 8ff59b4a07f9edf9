"""The authorization endpoint (RFC 6749 section 3.1, RFC 7636, RFC 8707, RFC 9207, RFC 9700)."""

from typing import Any
from urllib.parse import parse_qs, quote, urlencode, urlsplit

import httpx2
import pytest

from tests.auth_server import CALLBACK, OTHER_RESOURCE, RESOURCE, AuthServer, Pkce
from tests.operator import Operator
from tests.person import Person

WEB = "https://app.example.com/callback"


def ask(server: AuthServer, client_id: str, **parameters: Any) -> httpx2.Response:
    """What the endpoint answers a browser that is not signed in."""
    url = server.authorization_url(client_id, Pkce(), **parameters)
    return server.http.get(url, headers={"Accept": "text/html"})


def refusal(server: AuthServer, client_id: str, **parameters: Any) -> dict[str, list[str]]:
    """The error that the endpoint sends to the client."""
    answer = ask(server, client_id, **parameters)
    assert answer.status_code == 303, answer.text
    location = answer.headers["location"]
    assert location.startswith(f"{CALLBACK}?"), location
    return parse_qs(urlsplit(location).query)


def assert_shown_and_not_sent_on(answer: httpx2.Response) -> None:
    assert answer.status_code == 400
    assert "location" not in answer.headers
    assert "refresh" not in answer.headers
    assert "This application cannot be connected" in answer.text


@pytest.mark.parametrize(
    "requested",
    [
        WEB + "/",
        WEB + "?a=1",
        WEB + "#fragment",
        "https://APP.example.com/callback",
        "https://app.example.com/Callback",
        "https://app.example.com/a/%2e%2e/callback",
        "https://app.example.com/%63allback",
        "https://user@app.example.com/callback",
        "https://app.example.com@evil.example/callback",
        "https://app.example.com:444/callback",
        "http://app.example.com/callback",
        "https://evil.example/callback",
        "//evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
    ],
)
def test_a_redirect_uri_that_is_not_registered_is_an_error_on_a_page(auth_server: AuthServer, requested: str) -> None:
    client = auth_server.register(redirect_uris=[WEB])
    assert_shown_and_not_sent_on(ask(auth_server, client.id, redirect_uri=requested))


def test_the_port_of_a_loopback_redirect_uri_floats(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register(redirect_uris=["http://127.0.0.1/cb"])
    uri, pkce = "http://127.0.0.1:51234/cb", Pkce()
    callback = person.allow(auth_server.authorization_url(client.id, pkce, redirect_uri=uri))
    assert callback.startswith(f"{uri}?code=")
    code = parse_qs(urlsplit(callback).query)["code"][0]
    assert auth_server.redeem(client.id, code, pkce, redirect_uri=uri).status_code == 200


@pytest.mark.parametrize("requested", ["http://127.0.0.1:1@evil.example/cb", "http://127.0.0.1:51234/other"])
def test_nothing_else_of_a_loopback_redirect_uri_floats(auth_server: AuthServer, requested: str) -> None:
    client = auth_server.register(redirect_uris=["http://127.0.0.1/cb"])
    assert_shown_and_not_sent_on(ask(auth_server, client.id, redirect_uri=requested))


def test_the_redirect_uri_may_be_left_out_by_a_client_that_has_only_one(
    auth_server: AuthServer, person: Person
) -> None:
    client, pkce = auth_server.register(), Pkce()
    callback = person.allow(auth_server.authorization_url(client.id, pkce, redirect_uri=None))
    assert callback.startswith(f"{CALLBACK}?")
    several = auth_server.register(redirect_uris=[CALLBACK, WEB])
    assert_shown_and_not_sent_on(ask(auth_server, several.id, redirect_uri=None))


def test_the_query_of_a_redirect_uri_is_kept(auth_server: AuthServer, person: Person) -> None:
    uri = f"{WEB}?tenant=7&x=%20"
    client = auth_server.register(redirect_uris=[uri])
    callback = person.allow(auth_server.authorization_url(client.id, Pkce(), redirect_uri=uri))
    assert callback.startswith(f"{uri}&code=")


@pytest.mark.parametrize(
    "other_error",
    [
        {"response_type": "token"},
        {"code_challenge": None},
        {"resource": None},
        {"scope": "unknown"},
        {"state": "x" * 3000},
    ],
)
@pytest.mark.parametrize("who", ["unknown client", "no client", "unknown redirect_uri"])
def test_a_bad_client_or_redirect_uri_together_with_any_other_error_never_redirects(
    auth_server: AuthServer, other_error: dict[str, Any], who: str
) -> None:
    client_id = {"unknown client": "nobody", "no client": ""}.get(who, auth_server.register().id)
    uri = "https://evil.example/" if who == "unknown redirect_uri" else CALLBACK
    assert_shown_and_not_sent_on(ask(auth_server, client_id, **other_error, redirect_uri=uri))


def test_the_page_of_an_error_shows_what_a_stranger_wrote_as_text(auth_server: AuthServer) -> None:
    answer = ask(auth_server, "<script>alert(1)</script>")
    assert_shown_and_not_sent_on(answer)
    assert "<script>" not in answer.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"code_challenge": None},
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge_method": "s256"},
        {"code_challenge": "short"},
        {"code_challenge": "x" * 44},
        {"code_challenge": "+" * 43},
    ],
)
def test_a_request_without_an_s256_challenge_is_an_invalid_request(
    auth_server: AuthServer, parameters: dict[str, Any]
) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, **parameters)["error"] == ["invalid_request"]


@pytest.mark.parametrize("response_type", ["token", "code token", "id_token", "CODE", "none"])
def test_any_other_response_type_is_unsupported(auth_server: AuthServer, response_type: str) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, response_type=response_type)["error"] == ["unsupported_response_type"]


def test_a_missing_response_type_is_an_invalid_request(auth_server: AuthServer) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, response_type=None)["error"] == ["invalid_request"]


@pytest.mark.parametrize("name", ["request", "request_uri"])
def test_a_request_object_is_not_supported(auth_server: AuthServer, name: str) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, **{name: "https://app.example.com/r"})["error"] == [f"{name}_not_supported"]


@pytest.mark.parametrize("resource", [None, "", "https://unknown.example/mcp", RESOURCE + "/other", RESOURCE + "#x"])
def test_an_unknown_or_missing_resource_is_an_invalid_target(auth_server: AuthServer, resource: str | None) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, resource=resource)["error"] == ["invalid_target"]


@pytest.mark.parametrize("resource", [RESOURCE + "/", RESOURCE.upper().replace("/MCP", "/mcp")])
def test_a_token_is_for_the_resource_asked_for_however_that_is_spelt(
    auth_server: AuthServer, person: Person, resource: str
) -> None:
    tokens = auth_server.tokens(auth_server.register().id, person, resource=resource)
    assert auth_server.introspect(tokens["access_token"])["aud"] == RESOURCE


@pytest.mark.parametrize("scope", ["unknown", "mcp:basic unknown", "other:use", "mcp:basic  mcp:jobs", '"'])
def test_a_scope_that_the_resource_does_not_have_is_invalid(auth_server: AuthServer, scope: str) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, scope=scope)["error"] == ["invalid_scope"]


def test_without_a_scope_all_of_the_resource_is_asked_for(auth_server: AuthServer, person: Person) -> None:
    tokens = auth_server.tokens(auth_server.register().id, person, scope=None)
    assert tokens["scope"] == "mcp:basic mcp:jobs"


def test_an_error_carries_state_as_it_was_sent_and_iss_once(auth_server: AuthServer) -> None:
    client, state = auth_server.register(), "a b&iss=x#ü%41+"
    answer = refusal(auth_server, client.id, state=state, response_type="token")
    assert answer["state"] == [state]
    assert answer["iss"] == [auth_server.issuer]
    assert answer["error_description"] == ["response_type must be code"]
    assert "state" not in refusal(auth_server, client.id, state=None, response_type="token")


def test_a_state_beyond_2048_characters_is_an_invalid_request(auth_server: AuthServer) -> None:
    client = auth_server.register()
    assert refusal(auth_server, client.id, state="x" * 2049)["error"] == ["invalid_request"]


@pytest.mark.parametrize(
    "name", ["response_type", "state", "scope", "resource", "code_challenge", "code_challenge_method", "unknown"]
)
def test_each_parameter_given_twice_is_an_invalid_request(auth_server: AuthServer, name: str) -> None:
    client = auth_server.register()
    url = auth_server.authorization_url(client.id, Pkce(), unknown="x")
    value = parse_qs(urlsplit(url).query)[name][0]
    answer = auth_server.http.get(f"{url}&{urlencode({name: value})}")
    assert answer.status_code == 303
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["invalid_request"]


@pytest.mark.parametrize("name", ["client_id", "redirect_uri"])
def test_a_client_or_redirect_uri_given_twice_is_an_error_on_a_page(auth_server: AuthServer, name: str) -> None:
    url = auth_server.authorization_url(auth_server.register().id, Pkce())
    value = parse_qs(urlsplit(url).query)[name][0]
    assert_shown_and_not_sent_on(auth_server.http.get(f"{url}&{name}={quote(value)}"))


@pytest.mark.parametrize("junk", ["%FF", "a%00b", "&".join(["x=1"] * 51)])
def test_a_query_that_cannot_be_read_is_an_error_on_a_page(auth_server: AuthServer, junk: str) -> None:
    url = auth_server.authorization_url(auth_server.register().id, Pkce())
    assert_shown_and_not_sent_on(auth_server.http.get(f"{url}&junk={junk}"))


def test_unknown_parameters_are_ignored(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person, prompt="consent", nonce="n", access_type="offline", audience="x")
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


def test_a_client_that_signs_nobody_in_may_not_ask(auth_server: AuthServer, operator: Operator) -> None:
    machine, _ = operator.machine()
    assert_shown_and_not_sent_on(ask(auth_server, machine))


def test_what_bounds_an_operators_client_bounds_what_it_may_ask_users_for(
    auth_server: AuthServer, operator: Operator
) -> None:
    options = ["--redirect-uri", CALLBACK, "--resource", RESOURCE, "--scope", "mcp:basic"]
    client = operator.done("clients", "add", "Both", *options).value("client_id")
    assert refusal(auth_server, client, scope="mcp:jobs")["error"] == ["invalid_scope"]
    elsewhere = refusal(auth_server, client, resource=OTHER_RESOURCE, scope="other:use")
    assert elsewhere["error"] == ["invalid_target"]
    assert ask(auth_server, client).headers["location"].startswith("/login?")


def test_the_endpoint_answers_nothing_but_get(auth_server: AuthServer) -> None:
    answer = auth_server.http.post(f"{auth_server.issuer}/authorize", data={"client_id": "x"})
    assert answer.status_code == 405
    assert "GET" in answer.headers["allow"]


def test_every_answer_on_the_way_is_kept_out_of_caches_and_referrers(auth_server: AuthServer) -> None:
    client = auth_server.register()
    answers = [
        ask(auth_server, client.id),
        ask(auth_server, client.id, response_type="token"),
        ask(auth_server, "nobody"),
        auth_server.person("nobody").get(auth_server.authorization_url(client.id, Pkce())),
    ]
    for answer in answers:
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"


def test_no_page_may_be_framed_or_run_a_script(auth_server: AuthServer) -> None:
    client = auth_server.register(redirect_uris=[WEB])
    login = auth_server.person("nobody").get(auth_server.authorization_url(client.id, Pkce(), redirect_uri=WEB))
    for page in (login, ask(auth_server, "nobody")):
        policy = page.headers["content-security-policy"]
        assert "frame-ancestors 'none'" in policy
        assert "default-src 'none'" in policy
        assert "script-src" not in policy
        assert "base-uri 'none'" in policy
        assert page.headers["x-frame-options"] == "DENY"
        assert page.headers["x-content-type-options"] == "nosniff"
    # Browsers hold the redirects behind a form to form-action too, and a web application may redirect further.
    assert "form-action" not in login.headers["content-security-policy"]


def test_the_way_through_sign_in_and_consent_is_all_303(auth_server: AuthServer) -> None:
    person = auth_server.person()
    answers: list[httpx2.Response] = []
    person.browser.event_hooks = {"response": [answers.append]}
    person.allow(auth_server.authorization_url(auth_server.register().id, Pkce()))
    redirects = [answer for answer in answers if answer.is_redirect]
    assert [answer.status_code for answer in redirects] == [303, 303, 303]
    assert [answer.request.method for answer in redirects] == ["GET", "POST", "POST"]
