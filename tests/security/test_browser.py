"""What a hostile page, another browser or a thief of cookies can do at the pages: nothing."""

import hashlib
import secrets
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from keystile_auth.identity.local import LocalUsers
from tests.auth_server import PASSWORD, AuthServer, Pkce, RegisteredClient
from tests.conftest import StartAuthServer
from tests.person import Form, Person, form, forms
from tests.security.concurrency import at_once

ACCOUNT_FORMS = [
    "/account/end-connection",
    "/account/end-session",
    "/account/sign-out",
    "/account/sign-out-everywhere",
]


@pytest.fixture(scope="module")
def client(auth_server: AuthServer) -> RegisteredClient:
    return auth_server.register()


def fresh_browser() -> httpx2.Client:
    return httpx2.Client(timeout=10, headers={"Accept": "text/html"})


def consent_page(server: AuthServer, person: Person) -> httpx2.Response:
    """The page that asks the person about a client never seen before."""
    client = server.register(client_name="Asking")
    page = person.get(server.authorization_url(client.id, Pkce()))
    if "/login" in str(page.url):
        page = person.sign_in(page)
    assert "/consent" in str(page.url)
    return page


def cookie(person: Person) -> str:
    return next(iter(person.browser.cookies.values()))


@pytest.mark.parametrize("token", [None, "", "0" * 64, "ü", "🔥", "x" * 5000, "%00"])
@pytest.mark.parametrize("path", ["/login", "/consent", "/consent/switch-user", *ACCOUNT_FORMS])
def test_a_form_without_its_csrf_token_is_refused(
    auth_server: AuthServer, person: Person, path: str, token: str | None
) -> None:
    consent_page(auth_server, person)
    fields = {"username": person.username, "password": PASSWORD, "decision": "allow", "request": "x", "id": "x"}
    if token is not None:
        fields["csrf"] = token
    answer = person.browser.post(f"{auth_server.issuer}{path}", data=fields)
    assert answer.status_code == 403
    assert "has expired" in answer.text


def test_a_csrf_token_of_another_browser_is_refused(auth_server: AuthServer, person: Person) -> None:
    page = consent_page(auth_server, person)
    attacker = auth_server.person()
    foreign = form(consent_page(auth_server, attacker), "/consent").fields["csrf"]
    target = form(page, "/consent")
    answer = person.submit(Form(target.action, {**target.fields, "csrf": foreign}), decision="allow")
    assert answer.status_code == 403
    assert person.submit(target, decision="allow").status_code == 303


def test_a_request_that_began_in_another_browser_cannot_be_decided_here(
    auth_server: AuthServer, person: Person
) -> None:
    """An attacker must not have a victim consent to the attacker's own request."""
    attacker = auth_server.person()
    theirs = form(consent_page(auth_server, attacker), "/consent")
    ours = form(consent_page(auth_server, person), "/consent")
    answer = person.submit(Form(ours.action, {**ours.fields, "request": theirs.fields["request"]}), decision="allow")
    assert answer.status_code == 400
    for page in ("consent", "login"):
        url = f"{auth_server.issuer}/{page}?request={theirs.fields['request']}"
        assert person.browser.get(url).status_code == 400
        with fresh_browser() as stranger:
            assert stranger.get(url).status_code == 400


def test_a_decision_is_taken_once(auth_server: AuthServer, person: Person) -> None:
    target = form(consent_page(auth_server, person), "/consent")
    assert person.submit(target, decision="allow").status_code == 303
    for decision in ("allow", "deny"):
        assert person.submit(target, decision=decision).status_code == 400


@pytest.mark.parametrize("decision", ["", "ALLOW", "allow ", "yes", "1"])
def test_only_a_clear_yes_is_a_yes(auth_server: AuthServer, person: Person, decision: str) -> None:
    answer = person.submit(form(consent_page(auth_server, person), "/consent"), decision=decision)
    assert answer.status_code == 400


def test_consent_without_a_sign_in_gives_no_code(auth_server: AuthServer, client: RegisteredClient) -> None:
    with fresh_browser() as browser:
        page = browser.get(auth_server.authorization_url(client.id, Pkce()), follow_redirects=True)
        target = form(page, "/login")
        answer = browser.post(
            f"{auth_server.issuer}/consent",
            data={"csrf": target.fields["csrf"], "request": target.fields["request"], "decision": "allow"},
        )
        assert answer.status_code == 401
        assert "location" not in answer.headers


def test_a_session_planted_before_the_sign_in_is_worth_nothing_after_it(auth_server: AuthServer) -> None:
    """Session fixation."""
    person = auth_server.person()
    person.get(f"{auth_server.issuer}/login")
    name, planted = next(iter(person.browser.cookies.items()))
    person.sign_in(person.get(f"{auth_server.issuer}/login"))
    assert cookie(person) != planted
    with fresh_browser() as attacker:
        attacker.cookies.set(name, planted, domain="127.0.0.1")
        answer = attacker.get(f"{auth_server.issuer}/account")
        assert (answer.status_code, answer.headers["location"]) == (303, "/login")


def test_a_cookie_ends_with_its_session(auth_server: AuthServer) -> None:
    person = auth_server.person()
    person.sign_in(person.get(f"{auth_server.issuer}/login"))
    name, stolen = next(iter(person.browser.cookies.items()))
    page = person.get(f"{auth_server.issuer}/account")
    person.submit(form(page, "/account/sign-out"))
    with fresh_browser() as thief:
        thief.cookies.set(name, stolen, domain="127.0.0.1")
        assert thief.get(f"{auth_server.issuer}/account").headers["location"] == "/login"


def test_nobody_ends_the_session_or_the_connection_of_another(auth_server: AuthServer) -> None:
    victim, attacker = auth_server.person(), auth_server.person()
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, victim)
    attacker.sign_in(attacker.get(f"{auth_server.issuer}/login"))
    theirs = forms(victim.get(f"{auth_server.issuer}/account"))
    ours = forms(attacker.get(f"{auth_server.issuer}/account"))
    csrf = ours[0].fields["csrf"]
    identifiers = [(each.action, each.fields["id"]) for each in theirs if "id" in each.fields]
    assert identifiers
    for action, identifier in identifiers:
        attacker.submit(Form(action, {"csrf": csrf, "id": identifier}))
    assert auth_server.is_active(tokens["access_token"])
    assert victim.get(f"{auth_server.issuer}/account").status_code == 200


@pytest.mark.parametrize("value", ["x" * 42, "x" * 44, "ü" * 43, '"' + "\\012" * 10 + "xx" + '"', ";" * 43, ""])
def test_a_cookie_that_is_not_ours_is_not_repeated(auth_server: AuthServer, value: str) -> None:
    name = f"keystile-{hashlib.sha256(auth_server.issuer.encode()).hexdigest()[:8]}"
    headers = [(b"cookie", f"{name}={value}".encode())]
    answer = auth_server.http.get(f"{auth_server.issuer}/login", headers=headers)
    assert answer.status_code == 200
    assert not value or value not in answer.headers["set-cookie"]


def test_cookies_are_out_of_reach_for_scripts_and_other_sites(auth_server: AuthServer) -> None:
    header = auth_server.http.get(f"{auth_server.issuer}/login").headers["set-cookie"].lower()
    assert "httponly" in header
    assert "samesite=lax" in header
    assert "path=/" in header
    assert "domain" not in header


def test_an_https_issuer_has_host_bound_secure_cookies_and_strict_transport(
    start_auth_server: StartAuthServer,
) -> None:
    server = start_auth_server(issuer="https://auth.example.com")
    answer = server.http.get(f"{server.issuer}/login")
    assert answer.headers["set-cookie"].startswith("__Host-keystile=")
    assert "; secure" in answer.headers["set-cookie"].lower()
    assert "strict-transport-security" in answer.headers


PAGES = ["/login", "/account/signed-out", "/authorize", "/nothing-here", "/consent?request=x"]


@pytest.mark.parametrize("path", PAGES)
def test_no_page_can_be_framed_cached_or_scripted(auth_server: AuthServer, path: str) -> None:
    with fresh_browser() as browser:
        answer = browser.get(f"{auth_server.issuer}{path}")
    policy = dict([*each.split(" ", 1), ""][:2] for each in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert policy["base-uri"] == "'none'"
    assert "script-src" not in policy
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["cache-control"] == "no-store"
    assert "access-control-allow-origin" not in answer.headers


def test_the_authorization_endpoint_and_the_pages_answer_no_other_origin(auth_server: AuthServer) -> None:
    for path in ("/authorize", "/login", "/consent", "/account", "/introspect"):
        for method in ("GET", "OPTIONS"):
            answer = auth_server.http.request(
                method,
                f"{auth_server.issuer}{path}",
                headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"},
            )
            assert "access-control-allow-origin" not in answer.headers


SCRIPTS = ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{1337*1337}}", "'--><svg/onload=alert(1)>"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_clients_name_is_text_on_every_page(auth_server: AuthServer, script: str) -> None:
    person = auth_server.person()
    client = auth_server.register(client_name=script, client_uri="https://home.example/<script>")
    page = person.get(auth_server.authorization_url(client.id, Pkce(), state=script))
    pages = [page]
    page = person.sign_in(page)
    pages.append(page)
    assert "/consent" in str(page.url)
    person.submit(form(page, "/consent"), decision="allow")
    pages.append(person.get(f"{auth_server.issuer}/account"))
    for each in pages:
        assert each.status_code == 200
        assert script not in each.text or script == "{{1337*1337}}"
        assert "1787569" not in each.text


@pytest.mark.parametrize("script", SCRIPTS)
def test_what_a_request_says_is_text_on_error_pages(
    auth_server: AuthServer, client: RegisteredClient, script: str
) -> None:
    with fresh_browser() as browser:
        for changed in ({"client_id": script}, {"redirect_uri": script}, {script: "x", "client_id": None}):
            values: dict[str, Any] = {"client_id": client.id, **changed}
            client_id = values.pop("client_id")
            answer = browser.get(auth_server.authorization_url(client_id, Pkce(), **values))
            assert answer.status_code == 400
            assert script not in answer.text
        answer = browser.get(auth_server.authorization_url(client.id, Pkce(), scope=script))
        description = parse_qs(urlsplit(answer.headers["location"]).query)["error_description"][0]
        assert '"' not in description
        assert browser.get(f"{auth_server.issuer}/account/{script}").status_code == 404
        assert script not in browser.get(f"{auth_server.issuer}/account/{script}").text


def test_a_redirect_uri_cannot_add_to_the_content_security_policy(auth_server: AuthServer) -> None:
    for uri in ("https://x;sandbox/cb", "https://x;frame-ancestors/cb", "https://x,default-src/cb", "https://a'b/cb"):
        document = {"redirect_uris": [uri], "token_endpoint_auth_method": "none"}
        answer = auth_server.http.post(f"{auth_server.issuer}/register", json=document)
        assert answer.status_code == 400, uri
        assert answer.json()["error"] == "invalid_redirect_uri"


@pytest.mark.parametrize(
    "uri", ["https://app.example.com/cb;jsessionid=1", "https://app.example.com/a~b!$&'()*+,;=:@%20".replace("*", "")]
)
def test_a_redirect_uri_is_not_rewritten_on_its_way(auth_server: AuthServer, person: Person, uri: str) -> None:
    client = auth_server.register(redirect_uris=[uri])
    callback = person.allow(auth_server.authorization_url(client.id, Pkce(), redirect_uri=uri))
    assert callback.startswith(f"{uri}?code=")


@pytest.mark.parametrize("state", ["x\r\nSet-Cookie: evil=1", "x\nLocation: https://evil.example", "\0", "x\ty"])
def test_a_line_end_in_the_state_makes_no_header(auth_server: AuthServer, client: RegisteredClient, state: str) -> None:
    answer = auth_server.http.get(auth_server.authorization_url(client.id, Pkce(), state=state))
    assert "evil" not in str(answer.headers)
    assert answer.status_code == 400


def test_an_unknown_user_and_a_wrong_password_look_the_same(auth_server: AuthServer) -> None:
    known, pages = auth_server.add_user(), []
    for username in (known, "n" * len(known)):
        person = Person(auth_server.issuer, username, "wrong password entirely")
        answer = person.sign_in(person.get(f"{auth_server.issuer}/login"))
        assert answer.status_code == 401
        csrf = form(answer, "/login").fields["csrf"]
        pages.append(answer.text.replace(username, "").replace(csrf, ""))
        person.browser.close()
    assert pages[0] == pages[1]


def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(
    auth_server: AuthServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Work, not time: the verification of a hash with the same parameters runs either way."""
    verified: list[str] = []
    original = LocalUsers._matches

    def counted(self: LocalUsers, password_hash: str, password: str) -> bool:
        verified.append(password_hash.rsplit("$", 2)[0])
        return original(self, password_hash, password)

    monkeypatch.setattr(LocalUsers, "_matches", counted)
    for username in (auth_server.add_user(), "nobody-by-that-name"):
        person = Person(auth_server.issuer, username, "wrong password entirely")
        assert person.sign_in(person.get(f"{auth_server.issuer}/login")).status_code == 401
        person.browser.close()
    assert len(verified) == 2
    assert verified[0] == verified[1]


def test_a_disabled_user_is_told_nothing_more_than_a_wrong_password(auth_server: AuthServer) -> None:
    name = auth_server.add_user()
    auth_server.in_store(lambda users: _disable(users, name))
    person = Person(auth_server.issuer, name, PASSWORD)
    answer = person.sign_in(person.get(f"{auth_server.issuer}/login"))
    person.browser.close()
    assert answer.status_code == 401
    assert "The user name or the password is wrong." in answer.text


async def _disable(users: Any, name: str) -> None:
    await users.set_disabled(await users.find_by_name(name), disabled=True)


def test_guesses_in_parallel_are_no_way_around_the_limit_of_failed_sign_ins(
    start_auth_server: StartAuthServer,
) -> None:
    server = start_auth_server(
        sign_in={"failures_per_5_minutes_and_user": 3, "failures_per_5_minutes_and_address": 100_000}
    )
    name = server.add_user()
    person = Person(server.issuer, name, PASSWORD)
    page = form(person.get(f"{server.issuer}/login"), "/login")
    fields = {**page.fields, "username": name, "password": f"wrong {secrets.token_hex(8)}"}
    headers = {"Cookie": "; ".join(f"{k}={v}" for k, v in person.browser.cookies.items())}
    answers = at_once(page.action, fields, 20, headers=headers)
    person.browser.close()
    assert sorted(answer.status for answer in answers) == [401] * 3 + [429] * 17


def test_a_user_who_signs_in_often_is_not_locked_out(start_auth_server: StartAuthServer) -> None:
    # Other tests of this store fail to sign in from the same address.
    server = start_auth_server(
        sign_in={"failures_per_5_minutes_and_user": 2, "failures_per_5_minutes_and_address": 100_000}
    )
    name = server.add_user()
    for _ in range(4):
        person = Person(server.issuer, name, PASSWORD)
        answer = person.sign_in(person.get(f"{server.issuer}/login"))
        person.browser.close()
        assert answer.status_code == 200
