"""Consent: what a person sees, decides, and is not asked twice."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from tests.auth_server import CALLBACK, OTHER_RESOURCE, RESOURCE, AuthServer, Pkce
from tests.conftest import StartAuthServer
from tests.document_host import DocumentHost
from tests.operator import Operator
from tests.person import Person, form

WEB = "https://app.example.com/cb"


def open_page(server: AuthServer, person: Person, client_id: str, **parameters: Any) -> httpx2.Response:
    """What a person who is signed in sees of a request: the consent page, or the answer to the client."""
    page = person.get(server.authorization_url(client_id, Pkce(), **parameters))
    return person.sign_in(page) if "/login" in str(page.url) else page


def was_asked(answer: httpx2.Response) -> bool:
    if answer.status_code == 303:
        assert "code=" in answer.headers["location"]
        return False
    assert answer.status_code == 200, answer.text
    return "/consent" in str(answer.url)


def decide(person: Person, page: httpx2.Response, decision: str) -> httpx2.Response:
    return person.submit(form(page, "/consent"), decision=decision)


def answer_of(response: httpx2.Response) -> dict[str, list[str]]:
    assert response.status_code == 303, response.text
    return parse_qs(urlsplit(response.headers["location"]).query)


def test_the_page_names_client_redirect_host_resource_user_and_each_scope_in_words(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register(
        client_name="Werkzeug <b>",
        client_uri="https://werkzeug.example/",
        redirect_uris=["https://app.example.com:8443/cb"],
    )
    uri, scope = "https://app.example.com:8443/cb", "mcp:basic mcp:jobs"
    text = open_page(auth_server, person, client.id, redirect_uri=uri, scope=scope).text
    shown = ["Werkzeug &lt;b&gt;", "werkzeug.example", "app.example.com:8443", "Team tools", RESOURCE]
    for each in (*shown, person.username, "Use the basic tools", "Start long-running jobs", "mcp:basic", "mcp:jobs"):
        assert each in text, each
    assert "It registered itself here, as anyone can." in text
    assert "Did you just start this yourself?" not in text
    assert client.id not in text


def test_the_page_warns_where_a_program_on_the_users_machine_gets_the_access(
    auth_server: AuthServer, person: Person
) -> None:
    assert "Did you just start this yourself?" in open_page(auth_server, person, auth_server.register().id).text
    native = auth_server.register(redirect_uris=["cursor://oauth/cb"])
    page = open_page(auth_server, person, native.id, redirect_uri="cursor://oauth/cb")
    assert "Did you just start this yourself?" in page.text
    assert "cursor:" in page.text


def test_the_page_says_who_vouches_for_the_client(
    auth_server: AuthServer, document_host: DocumentHost, operator: Operator, person: Person
) -> None:
    document = open_page(auth_server, person, document_host.client()).text
    assert urlsplit(document_host.origin).netloc in document
    assert "as anyone can" not in document
    operators = operator.done("clients", "add", "Web", "--redirect-uri", CALLBACK).value("client_id")
    assert "The people who run this service" in open_page(auth_server, person, operators).text


def test_consent_is_remembered_for_user_client_and_resource(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    page = open_page(auth_server, person, client.id)
    assert was_asked(page)
    assert "code" in answer_of(decide(person, page, "allow"))
    assert not was_asked(open_page(auth_server, person, client.id))
    assert was_asked(open_page(auth_server, person, auth_server.register().id))
    assert was_asked(open_page(auth_server, person, client.id, resource=OTHER_RESOURCE, scope="other:use"))
    assert was_asked(open_page(auth_server, auth_server.person(), client.id))


def test_a_scope_that_is_new_is_asked_for_and_one_granted_before_is_not(
    auth_server: AuthServer, person: Person
) -> None:
    client = auth_server.register()
    decide(person, open_page(auth_server, person, client.id, scope="mcp:basic"), "allow")
    page = open_page(auth_server, person, client.id, scope="mcp:basic mcp:jobs")
    assert was_asked(page)
    assert page.text.index("Start long-running jobs") < page.text.index('class="granted"')
    assert page.text.index('class="granted"') < page.text.index("Use the basic tools")
    decide(person, page, "allow")
    for scope in ("mcp:jobs", "mcp:basic", "mcp:basic mcp:jobs", None):
        assert not was_asked(open_page(auth_server, person, client.id, scope=scope))


def test_a_denial_is_answered_to_the_client_and_not_remembered(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    answer = answer_of(decide(person, open_page(auth_server, person, client.id), "deny"))
    assert answer["error"] == ["access_denied"]
    assert answer["state"] == ["st4te"]
    assert answer["iss"] == [auth_server.issuer]
    assert was_asked(open_page(auth_server, person, client.id))


def test_a_denial_leaves_what_was_granted_before(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    decide(person, open_page(auth_server, person, client.id), "allow")
    decide(person, open_page(auth_server, person, client.id, scope="mcp:jobs"), "deny")
    assert not was_asked(open_page(auth_server, person, client.id))
    assert was_asked(open_page(auth_server, person, client.id, scope="mcp:jobs"))


def test_native_clients_are_always_asked_about_where_the_settings_say_so(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(sign_in={"always_ask_native_clients": True})
    person, client = server.person(), server.register(redirect_uris=[CALLBACK, WEB, "cursor://oauth/cb"])
    decide(person, open_page(server, person, client.id), "allow")
    again = open_page(server, person, client.id)
    assert was_asked(again)
    assert "Nothing new" in again.text
    assert was_asked(open_page(server, person, client.id, redirect_uri="cursor://oauth/cb"))
    assert not was_asked(open_page(server, person, client.id, redirect_uri=WEB))


def test_a_request_is_bound_to_the_browser_that_began_it(auth_server: AuthServer, person: Person) -> None:
    other = auth_server.person()
    open_page(auth_server, other, auth_server.register().id)
    page = open_page(auth_server, person, auth_server.register().id)
    for stolen in (other.get(str(page.url)), other.get(str(page.url).replace("/consent", "/login"))):
        assert stolen.status_code == 400
        assert "begun in another browser" in stolen.text
    own = form(open_page(auth_server, other, auth_server.register().id), "/consent")
    own.fields["request"] = form(page, "/consent").fields["request"]
    assert other.submit(own, decision="allow").status_code == 400
    # Nor has the attempt used it up.
    assert "code" in answer_of(decide(person, page, "allow"))


def test_a_request_takes_one_decision(auth_server: AuthServer, person: Person) -> None:
    page = open_page(auth_server, person, auth_server.register().id)
    assert "code" in answer_of(decide(person, page, "allow"))
    for decision in ("allow", "deny"):
        again = decide(person, page, decision)
        assert again.status_code == 400
        assert "This request is over" in again.text


@pytest.mark.parametrize("request_id", ["", "unknown", "x" * 5000])
def test_an_unknown_request_is_an_error_on_a_page(auth_server: AuthServer, person: Person, request_id: str) -> None:
    page = person.get(f"{auth_server.issuer}/consent?request={request_id}")
    assert page.status_code == 400
    assert "This request is over" in page.text


@pytest.mark.parametrize("decision", ["", "maybe", "ALLOW"])
def test_a_decision_is_allow_or_deny_and_nothing_else_uses_the_request_up(
    auth_server: AuthServer, person: Person, decision: str
) -> None:
    page = open_page(auth_server, person, auth_server.register().id)
    assert decide(person, page, decision).status_code == 400
    assert "code" in answer_of(decide(person, page, "allow"))


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_decision_without_the_forms_token_is_refused(auth_server: AuthServer, person: Person, token: str) -> None:
    page = open_page(auth_server, person, auth_server.register().id)
    refused = person.submit(form(page, "/consent"), decision="allow", csrf=token)
    assert refused.status_code == 403
    assert "This form has expired" in refused.text
    assert "code" in answer_of(decide(person, page, "allow"))


def test_a_decision_after_the_session_ended_is_refused(auth_server: AuthServer, operator: Operator) -> None:
    person = auth_server.person()
    page = open_page(auth_server, person, auth_server.register().id)
    operator.done("users", "disable", person.username)
    refused = decide(person, page, "allow")
    assert refused.status_code == 401
    assert "You are signed out" in refused.text
    assert "/login" in str(person.get(str(page.url)).url)


def test_somebody_else_may_take_the_request_over_by_switching_user(auth_server: AuthServer, person: Person) -> None:
    first = auth_server.person()
    pkce, client = Pkce(), auth_server.register()
    page = first.sign_in(first.get(auth_server.authorization_url(client.id, pkce)))
    before = dict(first.browser.cookies)
    login = first.submit(form(page, "/consent/switch-user"))
    assert "/login" in str(login.url)
    assert dict(first.browser.cookies) != before
    consent = first.submit(form(login, "/login"), username=person.username, password=person.password)
    assert person.username in consent.text
    code = answer_of(decide(first, consent, "allow"))["code"][0]
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert auth_server.introspect(tokens["access_token"])["username"] == person.username
    assert [each["reason"] for each in auth_server.events("user.logout")][-1] == "switch_user"
