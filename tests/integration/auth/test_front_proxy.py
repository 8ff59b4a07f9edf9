"""Who a front proxy says somebody is: only over mutual TLS, only by the proxy's own name, on every request anew."""

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from keystile_auth.store.limits import LimitStore
from tests.auth_server import PASSWORD, RESOURCE, RESOURCE_SECRET, SCOPES, Pkce
from tests.front_proxy import IDENTITY, PROXY_NAME, PROXY_URI, Headers, Site, behind_proxy, get
from tests.person import Person, form
from tests.tls import Authority, MountedSecret

ADA: Headers = {"X-Remote-User": "u-17", "X-Remote-Name": "Ada", "X-Remote-Groups": "engineers, admins"}
BOB: Headers = {"X-Remote-User": "u-18", "X-Remote-Name": "Bob"}
MCP = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}


@pytest.fixture(scope="module")
def site(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with behind_proxy(store_url, tmp_path_factory.mktemp("site")) as site:
        yield site


@pytest.fixture(scope="module")
def both(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server that local users can sign in at too."""
    identity = {"portal": IDENTITY, "local": {"kind": "local"}}
    with behind_proxy(store_url, tmp_path_factory.mktemp("both"), identity=identity) as site:
        yield site


def account(person: Person) -> httpx2.Response:
    return person.get(f"{person.issuer}/account")


def test_a_person_whom_the_proxy_names_sees_no_sign_in_page_and_is_asked_for_consent(site: Site) -> None:
    person, client, pkce = site.person(ADA), site.server.register().id, Pkce()
    page = person.get(site.server.authorization_url(client, pkce))
    assert (page.status_code, urlsplit(str(page.url)).path) == (200, "/consent")
    assert "portal/Ada" in page.text
    code = parse_qs(urlsplit(person.submit(form(page, "/consent"), decision="allow").headers["location"]).query)["code"]
    issued = site.server.redeem(client, code[0], pkce).json()
    answer = site.server.introspect(issued["access_token"])
    assert (answer["active"], answer["username"]) == (True, "portal/Ada")
    assert site.server.events("user.login")[-1]["actor"]["sub"] == answer["sub"]
    assert site.logins()[-1] == "portal success"


def test_each_client_is_consented_to_on_its_own(site: Site) -> None:
    person = site.person({"X-Remote-User": "u-19"})
    for _ in range(2):
        page = person.get(site.server.authorization_url(site.server.register().id, Pkce()))
        assert urlsplit(str(page.url)).path == "/consent"
        assert "code=" in person.submit(form(page, "/consent"), decision="allow").headers["location"]


def test_groups_say_what_a_person_may_be_granted(store_url: str, tmp_path: Path) -> None:
    resources = {"mcp": {**MCP, "user_scopes": {"portal/admins": ["mcp:basic"]}}}
    with behind_proxy(store_url, tmp_path, resources=resources) as site:
        issued = site.server.tokens(site.server.register().id, site.person(ADA), scope="mcp:basic mcp:jobs")
        assert issued["scope"] == "mcp:basic"
        refused = site.person(BOB).get(site.server.authorization_url(site.server.register().id, Pkce()))
        assert "error=access_denied" in refused.headers["location"]


@pytest.mark.parametrize(
    ("headers", "name"),
    [
        ({"X-Remote-User": "u-20"}, "portal/u-20"),
        ({"X-Remote-User": "u-20", "X-Remote-Email": "ada@example.com"}, "portal/ada@example.com"),
        ({"X-Remote-User": "u-20", "X-Remote-Email": "ada@example.com", "X-Remote-Name": ""}, "portal/ada@example.com"),
        ({"X-Remote-User": "u-20", "X-Remote-Name": "Zoë"}, "portal/Zoë"),
    ],
)
def test_people_are_called_by_name_then_address_then_subject(site: Site, headers: Headers, name: str) -> None:
    assert name in account(site.person(headers)).text


@pytest.mark.parametrize("name", [PROXY_NAME, PROXY_URI])
def test_a_certificate_of_either_kind_of_name_is_the_proxy(site: Site, name: str) -> None:
    assert "portal/Ada" in account(site.person(ADA, site.showing("other.example.com", name))).text


def refused(site: Site, person: Person, reason: str) -> None:
    """Nobody is signed in, and the audit log says why."""
    before = len(site.logins())
    page = account(person)
    assert (page.status_code, urlsplit(str(page.url)).path) == (403, "/login")
    assert "The portal did not sign you in" in page.text
    assert site.logins()[before:] == [f"portal failure: {reason}"]
    assert person.browser.get(f"{site.server.issuer}/account").status_code == 303


def test_a_header_without_a_certificate_signs_nobody_in(site: Site) -> None:
    refused(site, site.person(ADA, site.authority.trusting), "no client certificate")


@pytest.mark.parametrize(
    "names",
    [
        (),
        ("localhost",),
        (f"x.{PROXY_NAME}",),
        (f"{PROXY_NAME}.evil.example",),
        (f"*.{PROXY_NAME.partition('.')[2]}",),
        ("PROXY.example.com",),
        (f"https://{PROXY_NAME}",),
        (f"{PROXY_URI}/",),
        (f"{PROXY_URI}.evil",),
    ],
    ids=str,
)
def test_a_certificate_of_another_name_signs_nobody_in(site: Site, names: tuple[str, ...]) -> None:
    # Its common name is the proxy's each time.
    refused(site, site.person(ADA, site.showing(*names)), "client certificate of another name")


def test_a_certificate_of_another_authority_gets_no_connection(site: Site) -> None:
    pair = Authority().client_pair(PROXY_NAME)
    with pytest.raises(httpx2.TransportError, match=r"(?i)unknown ca|reset|closed|disconnected"):
        account(site.person(ADA, site.authority.showing(pair, site.folder)))


def test_an_expired_certificate_gets_no_connection(site: Site) -> None:
    pair = site.authority.client_pair(PROXY_NAME, ends_in=timedelta(seconds=-5))
    with pytest.raises(httpx2.TransportError, match=r"(?i)expired|reset|closed|disconnected"):
        account(site.person(ADA, site.authority.showing(pair, site.folder)))


def test_a_certificate_that_expires_while_its_connection_is_open_counts_no_longer(
    store_url: str, tmp_path: Path
) -> None:
    now = [time.time()]
    with behind_proxy(store_url, tmp_path, clock=lambda: now[0]) as site:
        person = site.person(ADA)
        assert account(person).status_code == 200
        now[0] += 2 * 86400
        refused(site, person, "client certificate expired")


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        ([("X-Remote-User", b"u-17"), ("X-Remote-User", b"u-18")], "x-remote-user: more than one"),
        ([("X-Remote-User", b"u-17"), ("x-remote-USER", b"u-17")], "x-remote-user: more than one"),
        ([("X-Remote-User", b"")], "x-remote-user: empty"),
        ([("X-Remote-User", b"   ")], "x-remote-user: empty"),
        ([("X-Remote-User", b"u" * 256)], "x-remote-user: too long"),
        ([("X-Remote-User", b"u\xff")], "x-remote-user: not UTF-8"),
        ([("X-Remote-User", b"u\t17")], "x-remote-user: invisible characters"),
        ([("X-Remote-User", "u\u202e17".encode())], "x-remote-user: invisible characters"),
        ([("X-Remote-User", "\u00a0u-17".encode())], "x-remote-user: invisible characters"),
        ([("X-Remote-User", "u\u0085".encode())], "x-remote-user: invisible characters"),
        ([("X-Remote-User", b"u"), ("X-Remote-Name", b"A"), ("X-Remote-Name", b"B")], "x-remote-name: more than one"),
        ([("X-Remote-User", b"u"), ("X-Remote-Email", b"\xc3")], "x-remote-email: not UTF-8"),
        ([("X-Remote-User", b"u"), ("X-Remote-Groups", b"a"), ("X-Remote-Groups", b"b")], "x-remote-groups: more than"),
        ([("X-Remote-User", b"u"), ("X-Remote-Groups", b"g" * 257)], "groups: too many or too long"),
        (
            [("X-Remote-User", b"u"), ("X-Remote-Groups", b"x," + b",".join(b"%d" % n for n in range(1001)))],
            "groups: too many",
        ),
    ],
    ids=lambda value: str(value)[:60],
)
def test_what_names_no_one_person_signs_nobody_in(site: Site, sent: list[tuple[str, bytes]], reason: str) -> None:
    before = len(site.logins())
    (answer,) = site.raw(site.proxy, get("/login", sent, close=True))
    assert answer.startswith(b"HTTP/1.1 403 ")
    (recorded,) = site.logins()[before:]
    assert recorded.startswith("portal failure: ")
    assert reason in recorded


@pytest.mark.parametrize("value", [b"u\0", b"u\x01", b"u\r\nX-Remote-User: v", b"u\x7f"], ids=repr)
def test_control_characters_sign_nobody_in(site: Site, value: bytes) -> None:
    before = len(site.logins())
    answers = site.raw(site.proxy, get("/login", [("X-Remote-User", value)], close=True))
    assert answers[0][:12] in {b"HTTP/1.1 400", b"HTTP/1.1 403"}
    assert not [reason for reason in site.logins()[before:] if "success" in reason]


def test_headers_of_more_than_the_cap_are_refused_before_they_are_read(site: Site) -> None:
    (answer,) = site.raw(site.proxy, get("/login", [("X-Remote-User", b"u" * 20_000)], close=True))
    assert answer.startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("name", ["X_Remote_User", "X-Remote_User", "X-Remote-User-", "X-RemoteUser", "Remote-User"])
def test_a_header_of_almost_the_name_says_nothing(site: Site, name: str) -> None:
    before = len(site.logins())
    (answer,) = site.raw(site.proxy, get("/login", [(name, b"u-17")], close=True))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert b"did not say who you are" in answer
    assert site.logins()[before:] == []
    # Beside the true one it does not count either.
    (answer,) = site.raw(site.proxy, get("/login", [(name, b"u-18"), ("X-Remote-User", b"u-17")], close=True))
    assert answer.startswith(b"HTTP/1.1 303 ")


def test_a_certificate_that_a_header_tells_of_is_none(site: Site) -> None:
    chain = site.authority.client_pair(PROXY_NAME)[0].decode().replace("\n", "%0A")
    told: Headers = {
        "X-Forwarded-Client-Cert": f'By=spiffe://x;URI={PROXY_URI};DNS={PROXY_NAME};Cert="{chain}"',
        "X-SSL-Client-Cert": chain,
        "X-SSL-Client-Verify": "SUCCESS",
        "Client-Cert": chain,
    }
    refused(site, site.person({**ADA, **told}, site.authority.trusting), "no client certificate")


def test_each_request_of_one_connection_is_of_whom_it_names_itself(site: Site) -> None:
    answers = site.raw(
        site.proxy,
        get("/login", [("X-Remote-User", b"u-31")]),
        get("/login", []),
        get("/login", [("X-Remote-User", b"u-32")]),
        get("/login", [("X-Remote-User", b"")], close=True),
    )
    assert [answer[9:12] for answer in answers] == [b"303", b"403", b"303", b"403"]
    subs = [event["actor"]["sub"] for event in site.server.events("user.login")[-3:]]
    assert len({*subs[:2]}) == 2
    assert subs[2] is None


def test_one_kept_connection_carries_many_people(site: Site) -> None:
    with closing(site.person({}).browser) as browser:
        ada, bob = httpx2.Cookies(), httpx2.Cookies()
        for _ in range(2):
            for jar, headers, name in ((ada, ADA, "portal/Ada"), (bob, BOB, "portal/Bob")):
                browser.cookies = jar
                shown = browser.get(f"{site.server.issuer}/account", headers=headers, follow_redirects=True)
                assert name in shown.text
                jar.update(browser.cookies)


def test_a_session_holds_only_in_requests_that_the_proxy_names_the_same_person_in(site: Site) -> None:
    person = site.person(ADA)
    assert account(person).status_code == 200
    url = f"{site.server.issuer}/account"
    # The cookie alone, past the proxy: nobody is signed in, and the session stays.
    with httpx2.Client(verify=site.authority.trusting, cookies=person.browser.cookies) as thief:
        assert thief.get(url).status_code == 303
        assert thief.get(url, headers={"X-Remote-User": "u-17"}).status_code == 303
    assert person.browser.get(url).status_code == 200
    del person.browser.headers["X-Remote-User"]
    assert person.browser.get(url).status_code == 303


@pytest.mark.parametrize(
    ("changed", "reason"),
    [(BOB, "another user"), ({**ADA, "X-Remote-Groups": "engineers"}, "other groups")],
    ids=["user", "groups"],
)
def test_a_session_ends_once_the_proxy_names_somebody_else_or_other_groups(
    site: Site, changed: Headers, reason: str
) -> None:
    person = site.person(ADA)
    assert account(person).status_code == 200
    old = httpx2.Cookies(person.browser.cookies)
    person.browser.headers.update(changed)
    assert f"portal/{changed['X-Remote-Name']}" in account(person).text
    event = site.server.events("user.logout")[-1]
    assert event["reason"] == f"portal: {reason}"
    # The old cookie is worth nothing from then on, whoever is named.
    person.browser.cookies = old
    person.browser.headers.update(ADA)
    assert person.browser.get(f"{site.server.issuer}/account").status_code == 303


def test_a_consent_that_was_shown_to_one_person_cannot_be_given_by_the_next(site: Site) -> None:
    person = site.person({"X-Remote-User": "u-41"})
    page = person.get(site.server.authorization_url(site.server.register().id, Pkce()))
    person.browser.headers["X-Remote-User"] = "u-42"
    answer = person.submit(form(page, "/consent"), decision="allow")
    assert (answer.status_code, "signed out" in answer.text) == (401, True)


@pytest.mark.parametrize("destination", ["image", "iframe", "empty", ""])
def test_only_a_page_that_is_opened_begins_a_session(site: Site, destination: str) -> None:
    person, before = site.person({**ADA, "Sec-Fetch-Dest": destination}), site.logins()
    assert person.browser.get(f"{site.server.issuer}/login").status_code == 200
    assert site.logins() == before
    person.browser.headers["Sec-Fetch-Dest"] = "document"
    assert person.browser.get(f"{site.server.issuer}/login").status_code == 303


def test_order_of_groups_and_groups_named_twice_change_nothing(site: Site) -> None:
    person = site.person(ADA)
    account(person)
    ended = len(site.server.events("user.logout"))
    person.browser.headers["X-Remote-Groups"] = "admins ,engineers,,admins"
    assert person.browser.get(f"{site.server.issuer}/account").status_code == 200
    assert len(site.server.events("user.logout")) == ended


def test_after_recheck_seconds_a_refresh_is_refused_and_the_person_signs_in_again(
    store_url: str, tmp_path: Path
) -> None:
    now = [time.time()]
    identity = {"portal": {**IDENTITY, "recheck_seconds": 60}}
    with behind_proxy(store_url, tmp_path, identity=identity, clock=lambda: now[0]) as site:
        person, client = site.person({"X-Remote-User": "u-51"}), site.server.register().id
        issued = site.server.tokens(client, person)
        issued = site.server.refresh(client, issued["refresh_token"]).json()
        now[0] += 61
        answer = site.server.refresh(client, issued["refresh_token"])
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
        signed_in = site.logins()
        issued = site.server.tokens(client, person)
        assert site.logins() == [*signed_in, "portal success"]
        assert site.server.refresh(client, issued["refresh_token"]).status_code == 200


def test_a_user_who_is_disabled_here_is_not_signed_in_by_the_proxy(site: Site) -> None:
    person = site.person({"X-Remote-User": "u-61"})
    account(person)
    sub = site.server.events("user.login")[-1]["actor"]["sub"]

    async def disable(users: Any) -> None:
        await users.set_disabled(await users.find(sub), disabled=True)

    site.server.in_store(disable)
    refused(site, person, "disabled")


def test_local_users_still_sign_in_with_their_passwords(both: Site) -> None:
    name = both.server.add_user()
    person = both.person({}, both.authority.trusting)
    page = account(person)
    assert (page.status_code, "Sign in with" in page.text) == (200, True)
    signed_in = person.submit(form(page, "/login"), username=name, password=PASSWORD)
    assert (signed_in.status_code, name in signed_in.text) == (200, True)
    # A password was typed for this session; what the proxy says is not asked.
    person.browser.headers.update(ADA)
    assert name in account(person).text


def test_who_switches_users_chooses_and_is_not_signed_in_again_unasked(both: Site) -> None:
    person = both.person(ADA)
    page = person.get(both.server.authorization_url(both.server.register().id, Pkce()))
    chosen = person.submit(form(page, "/consent/switch-user"))
    assert (chosen.status_code, "switch=1" in str(chosen.url)) == (200, True)
    assert "Sign in with <bdi>The portal</bdi>" in chosen.text
    request = parse_qs(urlsplit(str(chosen.url)).query)["request"][0]
    assert f'href="/login?request={request}"' in chosen.text
    assert "portal/Ada" in person.get(f"{both.server.issuer}/login?request={request}").text


def test_a_password_form_cannot_name_the_proxys_identity(both: Site) -> None:
    person = both.person({}, both.authority.trusting)
    page = account(person)
    answer = person.submit(form(page, "/login"), identity="portal", username="u-17", password=PASSWORD)
    assert answer.status_code == 400


def test_one_address_can_fill_the_audit_log_no_further_than_its_tries(store_url: str, tmp_path: Path) -> None:
    with behind_proxy(store_url, tmp_path, sign_in={"failures_per_5_minutes_and_address": 3}) as site:
        stranger = site.person(ADA, site.authority.trusting)
        url = f"{site.server.issuer}/login"

        async def forget(users: Any) -> None:
            # Other tests failed from the same address.
            limits = LimitStore(users._store)
            count, _ = await limits.count("header-address", "127.0.0.1", 300, by=0)
            await limits.count("header-address", "127.0.0.1", 300, by=-count)

        site.server.in_store(forget)
        assert [stranger.browser.get(url).status_code for _ in range(6)] == [403, 403, 403, 429, 429, 429]
        assert site.logins() == ["portal failure: no client certificate"] * 3 + ["portal limited"]
        # The proxy's own address would be the same; whom it names is let in all the same.
        assert account(site.person(ADA)).status_code == 200
        site.server.in_store(forget)


def test_other_callers_need_no_certificate(site: Site) -> None:
    with httpx2.Client(verify=site.authority.trusting) as http:
        assert http.get(f"{site.server.issuer}/healthz").status_code == 200
        answer = http.post(f"{site.server.issuer}/introspect", data={"token": "x"}, auth=("mcp", RESOURCE_SECRET))
        assert answer.json() == {"active": False}


def test_the_listener_speaks_tls_1_3_alone_and_lets_no_session_be_resumed(site: Site) -> None:
    older = site.proxy
    older.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(httpx2.ConnectError):
        account(site.person(ADA, older))
    context = site.proxy
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as first,
    ):
        first.sendall(get("/healthz", [], close=True))
        while first.recv(65536):
            pass
        assert first.version() == "TLSv1.3"
        assert first.session is None or not first.session.has_ticket


def test_a_client_that_names_no_server_shows_its_certificate_all_the_same(site: Site) -> None:
    context = site.proxy
    context.check_hostname = False
    with (
        socket.create_connection(("127.0.0.1", site.port), timeout=5) as plain,
        context.wrap_socket(plain) as secure,
    ):
        secure.sendall(get("/login", [("X-Remote-User", b"u-71")], close=True))
        assert secure.recv(65536).startswith(b"HTTP/1.1 303 ")


def test_authorities_are_renewed_without_a_restart_and_the_old_count_no_more(store_url: str, tmp_path: Path) -> None:
    with behind_proxy(store_url, tmp_path) as site:
        old, new = site.proxy, Authority()
        showing_new = site.authority.showing(new.client_pair(PROXY_NAME), tmp_path)
        assert account(site.person(ADA, old)).status_code == 200
        (tmp_path / "client-ca.pem").write_bytes(b"nothing")
        site.certificate.renew()
        assert account(site.person(ADA, old)).status_code == 200
        (tmp_path / "client-ca.pem").write_bytes(new.pem)
        site.certificate.renew()
        assert account(site.person(ADA, showing_new)).status_code == 200
        with pytest.raises(httpx2.TransportError):
            account(site.person(ADA, old))
        # The server's own certificate is renewed beside it.
        before = site.certificate.context
        site.authority.renew(MountedSecret(tmp_path / "tls"), "localhost")
        site.certificate.renew()
        assert site.certificate.context is before
        assert account(site.person(ADA, showing_new)).status_code == 200
