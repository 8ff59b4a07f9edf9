"""Signing in: sessions, cookies, wrong passwords."""

from http.cookies import Morsel, SimpleCookie
from typing import Any

import httpx2
import pytest

from tests.auth_server import PASSWORD, AuthServer, Pkce
from tests.conftest import StartAuthServer
from tests.operator import Operator
from tests.person import Person, form
from tests.stores import client_of


def cookie(answer: httpx2.Response) -> "Morsel[str]":
    """The one cookie that an answer sets."""
    (morsel,) = SimpleCookie(answer.headers["set-cookie"]).values()
    return morsel


def login_page(server: AuthServer, person: Person, **parameters: Any) -> httpx2.Response:
    page = person.get(server.authorization_url(server.register().id, Pkce(), **parameters))
    assert "/login" in str(page.url)
    return page


def test_the_page_names_the_client_that_the_sign_in_is_for(auth_server: AuthServer) -> None:
    person = auth_server.person("nobody")
    client = auth_server.register(client_name="Werkzeug <b>")
    assert "Werkzeug &lt;b&gt;" in person.get(auth_server.authorization_url(client.id, Pkce())).text


def test_the_session_id_is_renewed_at_sign_in(auth_server: AuthServer) -> None:
    person = auth_server.person()
    page = login_page(auth_server, person)
    before = dict(person.browser.cookies)
    assert person.sign_in(page).status_code == 200
    after = dict(person.browser.cookies)
    assert list(before) == list(after)
    assert before != after


def test_the_id_of_before_the_sign_in_is_worth_nothing(auth_server: AuthServer) -> None:
    person = auth_server.person()
    page = login_page(auth_server, person)
    planted = dict(person.browser.cookies)
    person.sign_in(page)
    header = "; ".join(f"{name}={value}" for name, value in planted.items())
    answer = auth_server.http.get(f"{auth_server.issuer}/account", headers={"Cookie": header})
    assert answer.headers["location"] == "/login"


def test_the_cookie_of_an_https_issuer_is_host_bound_secure_and_out_of_scripts_reach(
    start_auth_server: StartAuthServer,
) -> None:
    server = start_auth_server(issuer="https://auth.example.com")
    answer = server.http.get(f"{server.issuer}/login")
    morsel = cookie(answer)
    assert morsel.key == "__Host-keystile"
    assert (morsel["secure"], morsel["httponly"], morsel["samesite"]) == (True, True, "lax")
    assert (morsel["path"], morsel["domain"]) == ("/", "")
    assert len(morsel.value) == 43
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


def test_on_plain_loopback_each_issuer_has_a_cookie_of_its_own(
    auth_server: AuthServer, start_auth_server: StartAuthServer
) -> None:
    other = start_auth_server()
    cookies = [cookie(server.http.get(f"{server.issuer}/login")) for server in (auth_server, other)]
    assert cookies[0].key != cookies[1].key
    for each in cookies:
        assert (each["secure"], each["httponly"], each["samesite"]) == ("", True, "lax")


@pytest.mark.parametrize(
    ("username", "password"),
    [
        (None, "wrong password"),
        ("nobody", PASSWORD),
        (None, ""),
        ("", PASSWORD),
        (None, "x" * 2000),
        ("x" * 200, PASSWORD),
    ],
)
def test_a_wrong_name_or_password_is_answered_alike(
    auth_server: AuthServer, person: Person, username: str | None, password: str
) -> None:
    stranger = auth_server.person(person.username)
    name = person.username if username is None else username
    answer = stranger.submit(form(login_page(auth_server, stranger), "/login"), username=name, password=password)
    assert answer.status_code == 401
    assert "The user name or the password is wrong." in answer.text
    assert password not in answer.text or not password


def test_after_a_wrong_password_the_right_one_still_leads_on(auth_server: AuthServer, person: Person) -> None:
    someone = auth_server.person(person.username)
    page = login_page(auth_server, someone)
    again = someone.submit(form(page, "/login"), username=person.username, password="wrong")
    assert "/consent" in str(someone.sign_in(again).url)


def test_a_name_is_known_in_any_case(auth_server: AuthServer) -> None:
    name = auth_server.add_user()
    person = auth_server.person(name.upper())
    assert "/consent" in str(person.sign_in(login_page(auth_server, person)).url)


def test_a_disabled_user_cannot_sign_in(auth_server: AuthServer, operator: Operator) -> None:
    person = auth_server.person()
    operator.done("users", "disable", person.username)
    assert person.sign_in(login_page(auth_server, person)).status_code == 401
    operator.done("users", "enable", person.username)
    assert person.sign_in(login_page(auth_server, person)).status_code == 200


@pytest.mark.parametrize("token", ["", "wrong"])
def test_a_sign_in_without_the_forms_token_is_refused(auth_server: AuthServer, token: str) -> None:
    person = auth_server.person("nobody")
    answer = person.submit(form(login_page(auth_server, person), "/login"), csrf=token)
    assert answer.status_code == 403


def test_the_token_of_another_browser_is_refused(auth_server: AuthServer) -> None:
    one, other = auth_server.person("nobody"), auth_server.person("nobody")
    theirs = form(login_page(auth_server, other), "/login").fields["csrf"]
    assert one.submit(form(login_page(auth_server, one), "/login"), csrf=theirs).status_code == 403


def test_whoever_is_signed_in_is_not_asked_again(auth_server: AuthServer, person: Person) -> None:
    person.allow(auth_server.authorization_url(auth_server.register().id, Pkce()))
    page = person.get(auth_server.authorization_url(auth_server.register().id, Pkce()))
    assert "/consent" in str(page.url)
    assert str(person.get(f"{auth_server.issuer}/login").url) == f"{auth_server.issuer}/account"
    waiting = str(page.url).replace("/consent", "/login")
    assert str(person.get(waiting).url) == str(page.url)


def test_too_many_wrong_passwords_of_one_user_are_answered_429_and_then_the_right_one_too(
    start_auth_server: StartAuthServer,
) -> None:
    limits = {"failures_per_5_minutes_and_user": 2, "failures_per_5_minutes_and_address": 100_000}
    server = start_auth_server(sign_in=limits)
    person = server.person()
    page = login_page(server, person)
    for _ in range(2):
        page = person.submit(form(page, "/login"), username=person.username, password="wrong")
        assert page.status_code == 401
    for name in (person.username, person.username.upper()):
        limited = person.submit(form(page, "/login"), username=name, password=PASSWORD)
        assert limited.status_code == 429
        assert "Too many tries. Wait 5 minutes" in limited.text
    assert server.metrics.registry.get_sample_value("keystile_rate_limited_total", {"endpoint": "login"}) == 2
    # Others are not held up.
    assert server.tokens(server.register().id)["token_type"] == "Bearer"


def test_spellings_that_a_directory_takes_for_one_name_are_counted_as_one(start_auth_server: StartAuthServer) -> None:
    server = start_auth_server(
        sign_in={"failures_per_5_minutes_and_user": 1, "failures_per_5_minutes_and_address": 100_000}
    )
    person = server.person("jose garcia of this test")
    page = login_page(server, person)
    names = (
        "jose garcia of this test",
        " JOSE  garcia of this test ",
        "jos\u00e9 garcia of this test",
        "jose\u0301 garcia of this test",
        "\uff4aose garcia of this test",
        "jo\u00adse garcia of this test",
        "jo\u200bse\ufe0f garcia\u00a0of this test",
    )
    statuses = [
        person.submit(form(page, "/login"), username=name, password="wrong").status_code
        for name in (*names, "josef garcia of this test")
    ]
    assert statuses == [401, *[429] * (len(names) - 1), 401]


def test_signing_in_often_is_no_failure(start_auth_server: StartAuthServer) -> None:
    limits = {"failures_per_5_minutes_and_user": 2, "failures_per_5_minutes_and_address": 100_000}
    server = start_auth_server(sign_in=limits)
    name = server.add_user()
    for _ in range(3):
        person = server.person(name)
        assert person.sign_in(login_page(server, person)).status_code == 200


def test_too_many_wrong_passwords_from_one_address_are_answered_429(
    start_auth_server: StartAuthServer, store_url: str
) -> None:
    with client_of(store_url) as redis:
        for window in redis.scan_iter("ks:limit:login-address:*"):
            redis.delete(window)
    server = start_auth_server(sign_in={"failures_per_5_minutes_and_address": 1})
    person = server.person("nobody-at-all")
    page = login_page(server, person)
    statuses = [
        person.submit(form(page, "/login"), username=f"nobody-{number}", password="wrong").status_code
        for number in range(2)
    ]
    assert statuses == [401, 429]
