"""The account page: what a person has connected, where the person is signed in, and the end of each."""

import re
import time

import httpx2
import pytest

from tests.auth_server import OTHER_RESOURCE, RESOURCE, AuthServer, Pkce
from tests.document_host import DocumentHost
from tests.operator import Operator
from tests.person import Form, Person, form, forms

TODAY = time.strftime("%Y-%m-%dT", time.gmtime())


def account(server: AuthServer, person: Person) -> httpx2.Response:
    """The page, after signing in where that is needed."""
    page = person.get(f"{server.issuer}/account")
    return person.sign_in(page) if "/login" in str(page.url) else page


def connections(page: httpx2.Response) -> list[Form]:
    return [each for each in forms(page) if each.action.endswith("/account/end-connection")]


def other_sessions(page: httpx2.Response) -> list[Form]:
    return [each for each in forms(page) if each.action.endswith("/account/end-session")]


def test_without_a_session_the_page_leads_to_signing_in_and_back(auth_server: AuthServer) -> None:
    person = auth_server.person()
    page = person.get(f"{auth_server.issuer}/account")
    assert str(page.url) == f"{auth_server.issuer}/login"
    landed = person.sign_in(page)
    assert str(landed.url) == f"{auth_server.issuer}/account"
    assert f'Signed in as <bdi class="user">{person.username}</bdi>' in landed.text
    assert "No application has access." in landed.text


def test_a_connection_shows_client_resource_scopes_since_and_last_used(auth_server: AuthServer) -> None:
    person = auth_server.person()
    client = auth_server.register(client_name="Werkzeug <b>", client_uri="https://werkzeug.example/")
    auth_server.tokens(client.id, person, scope="mcp:basic")
    auth_server.tokens(client.id, person, scope="mcp:jobs")
    page = account(auth_server, person)
    # Two grants to one client for one resource are one connection.
    assert len(connections(page)) == 1
    for shown in ("Werkzeug &lt;b&gt;", "werkzeug.example", "Team tools", RESOURCE, "Use the basic tools"):
        assert shown in page.text, shown
    assert "Start long-running jobs" in page.text
    since, used, *_ = re.findall(r'<time datetime="([^"]+)"', page.text)
    assert since.startswith(TODAY)
    assert used.startswith(TODAY)
    assert "Not yet" not in page.text


def test_ending_a_connection_ends_its_tokens_and_the_remembered_consent_and_no_others(
    auth_server: AuthServer,
) -> None:
    person = auth_server.person()
    ended, kept = auth_server.register(client_name="Ended"), auth_server.register(client_name="Kept")
    first, second = auth_server.tokens(ended.id, person), auth_server.tokens(ended.id, person)
    elsewhere = auth_server.tokens(ended.id, person, resource=OTHER_RESOURCE, scope="other:use")
    others = auth_server.tokens(kept.id, person)
    page = account(auth_server, person)
    assert len(connections(page)) == 3
    after = person.submit(connections(page)[0])
    assert "Access has ended." in after.text
    assert len(connections(after)) == 2
    for tokens in (first, second):
        assert not auth_server.is_active(tokens["access_token"])
        assert auth_server.refresh(ended.id, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert auth_server.is_active(others["access_token"])
    assert auth_server.refresh(ended.id, elsewhere["refresh_token"]).status_code == 200
    asked = person.get(auth_server.authorization_url(ended.id, Pkce()))
    assert "/consent" in str(asked.url)
    assert person.get(auth_server.authorization_url(kept.id, Pkce())).status_code == 303
    events = [each for each in auth_server.events("grant.ended") if each["actor"]["client_id"] == ended.id]
    assert [event["reason"] for event in events] == ["user", "user"]


def test_a_code_on_its_way_is_ended_with_its_connection(auth_server: AuthServer) -> None:
    person, client, pkce = auth_server.person(), auth_server.register(), Pkce()
    auth_server.tokens(client.id, person)
    code = auth_server.code(client.id, pkce, person)
    person.submit(connections(account(auth_server, person))[0])
    answer = auth_server.redeem(client.id, code, pkce)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_the_connection_of_another_person_cannot_be_ended(auth_server: AuthServer, person: Person) -> None:
    other, client = auth_server.person(), auth_server.register()
    theirs = auth_server.tokens(client.id, other)
    auth_server.tokens(client.id, person)
    own = connections(account(auth_server, person))[0]
    own.fields["id"] = connections(account(auth_server, other))[0].fields["id"]
    person.submit(own)
    assert auth_server.is_active(theirs["access_token"])
    unknown = form(account(auth_server, other), "/end-connection")
    other.submit(unknown, id="unknown")
    assert auth_server.is_active(theirs["access_token"])


def test_a_connection_of_a_client_that_cannot_be_found_is_seen_and_ended_all_the_same(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    person = auth_server.person()
    client = document_host.client({"Cache-Control": "no-store"})
    tokens = auth_server.tokens(client, person)
    document_host.serve(client, b"gone", 404)
    page = account(auth_server, person)
    assert client[:80] in page.text
    person.submit(connections(page)[0])
    assert not auth_server.is_active(tokens["access_token"])


def test_a_host_that_is_checked_stands_beside_the_name(auth_server: AuthServer, document_host: DocumentHost) -> None:
    person = auth_server.person()
    auth_server.tokens(document_host.client(client_uri="https://elsewhere.example/"), person)
    page = account(auth_server, person).text
    assert document_host.origin.removeprefix("https://") in page
    assert "elsewhere.example" not in page


def test_sessions_are_listed_and_one_can_be_ended(auth_server: AuthServer) -> None:
    here = auth_server.person()
    there = auth_server.person(here.username)
    there.browser.headers["User-Agent"] = "Mozilla/5.0 (X11; Linux x86_64; rv:130.0) Gecko/20100101 Firefox/130.0"
    account(auth_server, there)
    page = account(auth_server, here)
    assert "Firefox on Linux" in page.text
    assert page.text.count("This browser") == 1
    (session,) = other_sessions(page)
    after = here.submit(session)
    assert "That session has ended." in after.text
    assert other_sessions(after) == []
    assert "/login" in str(there.get(f"{auth_server.issuer}/account").url)
    assert "/account" in str(here.get(f"{auth_server.issuer}/account").url)


def test_ending_the_session_of_this_browser_signs_it_out(auth_server: AuthServer) -> None:
    here = auth_server.person()
    there = auth_server.person(here.username)
    account(auth_server, here)
    (session,) = other_sessions(account(auth_server, there))
    own = other_sessions(account(auth_server, here))[0]
    page = here.submit(own, id=session.fields["id"])
    assert "You are signed out" in page.text


def test_the_session_of_another_person_cannot_be_ended(auth_server: AuthServer) -> None:
    one, other = auth_server.person(), auth_server.person()
    other_browser = auth_server.person(other.username)
    account(auth_server, other)
    (theirs,) = other_sessions(account(auth_server, other_browser))
    account(auth_server, auth_server.person(one.username))
    (own,) = other_sessions(account(auth_server, one))
    for session in (theirs.fields["id"], "unknown", "x" * 500):
        one.submit(own, id=session)
    assert "/account" in str(other.get(f"{auth_server.issuer}/account").url)


def test_signing_out_ends_the_session_of_this_browser_alone(auth_server: AuthServer) -> None:
    here = auth_server.person()
    there = auth_server.person(here.username)
    account(auth_server, there)
    tokens = auth_server.tokens(auth_server.register().id, here)
    page = account(auth_server, here)
    cookies = "; ".join(f"{name}={value}" for name, value in here.browser.cookies.items())
    out = here.submit(form(page, "/account/sign-out"))
    assert "You are signed out" in out.text
    assert "/login" in str(here.get(f"{auth_server.issuer}/account").url)
    # The old cookie is worth nothing, the other browser and the connections are untouched.
    again = auth_server.http.get(f"{auth_server.issuer}/account", headers={"Cookie": cookies})
    assert again.headers["location"] == "/login"
    assert "/account" in str(there.get(f"{auth_server.issuer}/account").url)
    assert auth_server.is_active(tokens["access_token"])


def test_signing_out_everywhere_ends_every_session_and_no_connection(auth_server: AuthServer) -> None:
    here = auth_server.person()
    there = auth_server.person(here.username)
    account(auth_server, there)
    tokens = auth_server.tokens(auth_server.register().id, here)
    out = here.submit(form(account(auth_server, here), "/account/sign-out-everywhere"))
    assert "You are signed out" in out.text
    for browser in (here, there):
        assert "/login" in str(browser.get(f"{auth_server.issuer}/account").url)
    assert auth_server.is_active(tokens["access_token"])


@pytest.mark.parametrize("path", ["end-connection", "end-session", "sign-out", "sign-out-everywhere"])
def test_no_form_of_the_page_works_without_its_token_or_a_session(
    auth_server: AuthServer, person: Person, path: str
) -> None:
    account(auth_server, person)
    url = f"{auth_server.issuer}/account/{path}"
    assert person.browser.post(url, data={"id": "x"}).status_code == 403
    stranger = auth_server.person("nobody")
    login = stranger.get(f"{auth_server.issuer}/login")
    token = form(login, "/login").fields["csrf"]
    assert stranger.browser.post(url, data={"csrf": token, "id": "x"}).status_code == 401
    assert auth_server.http.get(url).status_code == 405
    assert "/account" in str(person.get(f"{auth_server.issuer}/account").url)


def test_a_password_changed_by_the_operator_ends_every_session(auth_server: AuthServer, operator: Operator) -> None:
    person = auth_server.person()
    account(auth_server, person)
    operator.done("users", "password", person.username, typed="another good password\n")
    page = person.get(f"{auth_server.issuer}/account")
    assert "/login" in str(page.url)
    assert person.sign_in(page).status_code == 401
    person.password = "another good password"
    assert "/account" in str(person.sign_in(person.get(f"{auth_server.issuer}/account")).url)
