"""Signing in at an OpenID provider: what people see, who they are here, what they may be granted, and until when."""

from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.auth_server import CALLBACK, RESOURCE, RESOURCE_SECRET, SCOPES, AuthServer, Pkce
from tests.clock import Clock
from tests.openid_provider import (
    OpenIdProvider,
    callback_of,
    choose,
    newcomer,
    running_openid_provider,
    sign_in_elsewhere,
    to_provider,
)
from tests.person import Person, form, forms
from tests.stores import client_of

Start = Callable[..., AuthServer]


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with running_openid_provider() as running:
        yield running


@pytest.fixture
def second_provider() -> Iterator[OpenIdProvider]:
    with running_openid_provider() as running:
        yield running


@pytest.fixture
def server(start_auth_server: Start, provider: OpenIdProvider) -> AuthServer:
    return start_auth_server(identity={"local": {"kind": "local"}, "corp": provider.settings(title="Corp")})


def resources(**mcp: Any) -> dict[str, Any]:
    return {"mcp": {"uri": RESOURCE, "title": "Team tools", "scopes": SCOPES, "secret": RESOURCE_SECRET, **mcp}}


def code_of(answer: Any) -> str:
    assert answer.status_code == 303, answer.text
    assert answer.headers["location"].startswith(CALLBACK)
    return str(parse_qs(urlsplit(answer.headers["location"]).query)["code"][0])


def tokens(server: AuthServer, identity: str = "corp", person: Person | None = None, **parameters: Any) -> Any:
    """The tokens of somebody who signs in elsewhere, and the client's id."""
    client, pkce = server.register(), Pkce()
    url = server.authorization_url(client.id, pkce, **parameters)
    code = code_of(sign_in_elsewhere(person or newcomer(server), url, identity))
    answer = server.redeem(client.id, code, pkce)
    assert answer.status_code == 200, answer.text
    return {**answer.json(), "client_id": client.id}


def refresh(server: AuthServer, issued: Any, **parameters: Any) -> Any:
    return server.refresh(issued["client_id"], issued["refresh_token"], **parameters)


def test_somebody_signs_in_elsewhere_and_consents_on_the_way(server: AuthServer) -> None:
    issued = tokens(server)
    answer = server.introspect(issued["access_token"])
    assert answer["active"]
    assert answer["username"] == "corp/ada"
    assert answer["scope"] == "mcp:basic"
    assert "grantable_scope" not in answer
    (event,) = server.events("user.login")
    assert (event["outcome"], event["reason"], event["actor"]["sub"]) == ("success", "corp success", answer["sub"])
    assert server.metrics.logins.labels("corp", "success")._value.get() == 1
    assert [each["outcome"] for each in server.events("consent")] == ["success"]


def test_the_browser_goes_elsewhere_only_after_consent_to_that_client(
    server: AuthServer, provider: OpenIdProvider, store_url: str
) -> None:
    with client_of(store_url) as redis:
        before = set(redis.scan_iter("ks:sign-in:*"))
    person = newcomer(server)
    client = server.register(client_name="Some client")
    page = person.get(server.authorization_url(client.id, Pkce()))
    page = choose(person, page, "corp")
    assert page.status_code == 200
    assert "Some client" in page.text
    assert "Use the basic tools" in page.text
    assert "127.0.0.1:49152" in page.text
    assert page.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in page.headers["content-security-policy"]
    assert provider.asked == []
    with client_of(store_url) as redis:
        assert set(redis.scan_iter("ks:sign-in:*")) <= before


def test_who_does_not_consent_goes_back_to_the_client_and_nowhere_else(
    server: AuthServer, provider: OpenIdProvider
) -> None:
    url = server.authorization_url(server.register().id, Pkce())
    answer = to_provider(newcomer(server), url, "corp", "deny")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["access_denied"]
    assert answer.headers["location"].startswith(CALLBACK)
    assert provider.asked == []


def test_a_consent_page_that_the_browser_was_not_shown_is_refused(server: AuthServer) -> None:
    person = newcomer(server)
    page = choose(person, person.get(server.authorization_url(server.register().id, Pkce())), "corp")
    assert person.submit(form(page, "/login/upstream"), decision="allow", csrf="0" * 64).status_code == 403


def test_the_request_has_pkce_a_nonce_and_a_state_of_which_the_store_knows_neither(
    server: AuthServer, provider: OpenIdProvider, store_url: str
) -> None:
    person = newcomer(server)
    to_provider(person, server.authorization_url(server.register().id, Pkce()), "corp")
    location = to_provider(person, server.authorization_url(server.register().id, Pkce()), "corp").headers["location"]
    asked = {name: value for name, (value,) in parse_qs(urlsplit(location).query).items()}
    assert asked["code_challenge_method"] == "S256"
    assert asked["redirect_uri"] == f"{server.issuer}/login/callback/corp"
    assert len(asked["state"]) == len(asked["nonce"]) == len(asked["code_challenge"]) == 43
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    assert "openid" in asked["scope"].split()
    with client_of(store_url) as redis:
        assert all(asked["state"] not in key for key in redis.scan_iter("ks:sign-in:*"))


def test_the_account_page_is_reached_without_a_client(server: AuthServer) -> None:
    person = newcomer(server)
    there = choose(person, person.get(f"{server.issuer}/account"), "corp")
    page = person.get(callback_of(person, there))
    assert page.status_code == 200
    assert "corp/ada" in page.text


def test_somebody_who_is_signed_in_is_asked_as_always(server: AuthServer) -> None:
    person = newcomer(server)
    tokens(server, person=person)
    page = person.get(server.authorization_url(server.register().id, Pkce()))
    assert "corp/ada" in page.text
    answer = person.submit(form(page, "/consent"), decision="allow")
    assert code_of(answer)


def test_who_wants_to_be_somebody_else_chooses_an_account_there(server: AuthServer, provider: OpenIdProvider) -> None:
    person = newcomer(server)
    tokens(server, person=person)
    page = person.get(server.authorization_url(server.register().id, Pkce()))
    page = person.submit(form(page, "/switch-user"))
    page = choose(person, page, "corp")
    there = person.submit(form(page, "/login/upstream"), decision="allow")
    assert parse_qs(urlsplit(there.headers["location"]).query)["prompt"] == ["select_account"]


def test_an_address_leads_to_the_identity_of_its_domain(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(
        identity={"local": {"kind": "local"}, "corp": provider.settings(domains=["example.com"])}
    )
    person = newcomer(server)
    page = person.get(f"{server.issuer}/login")
    by_address = next(each for each in forms(page) if "email" in each.fields)
    there = person.submit(by_address, email="Ada@Example.COM")
    assert parse_qs(urlsplit(there.headers["location"]).query)["login_hint"] == ["Ada@Example.COM"]
    assert person.submit(by_address, email="ada@elsewhere.example").status_code == 400
    typed = person.submit(form(page, "/login"), username="ada@example.com", password="not for here")
    assert typed.headers["location"].startswith(provider.issuer)


def test_the_same_subject_elsewhere_is_another_user(
    start_auth_server: Start, provider: OpenIdProvider, second_provider: OpenIdProvider
) -> None:
    server = start_auth_server(
        identity={
            "local": {"kind": "local"},
            "corp": provider.settings(),
            "corp-too": provider.settings(),
            "other": second_provider.settings(),
        }
    )
    subs = {server.introspect(tokens(server, name)["access_token"])["sub"] for name in ("corp", "corp-too", "other")}
    server.add_user("corp/ada")
    person = server.person("corp/ada")
    local = server.introspect(server.tokens(server.register().id, person)["access_token"])["sub"]
    assert len(subs | {local}) == 4


def test_the_same_person_is_the_same_user_under_another_name(server: AuthServer, provider: OpenIdProvider) -> None:
    first = server.introspect(tokens(server)["access_token"])
    provider.claims = {"sub": "ada", "preferred_username": "ada.lovelace"}
    second = server.introspect(tokens(server)["access_token"])
    assert second["sub"] == first["sub"]
    assert second["username"] == "corp/ada.lovelace"


def test_without_a_name_the_subject_is_shown(server: AuthServer, provider: OpenIdProvider) -> None:
    provider.claims = {"sub": "248289761001", "preferred_username": "\u202eada"}
    assert server.introspect(tokens(server)["access_token"])["username"] == "corp/248289761001"


def test_groups_decide_which_scopes_are_offered_and_issued(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(
        identity={"corp": provider.settings()},
        resources=resources(user_scopes={"corp": ["mcp:basic"], "corp/admins": ["mcp:jobs"]}),
    )
    issued = tokens(server, scope="mcp:basic mcp:jobs")
    assert issued["scope"] == "mcp:basic"
    assert server.introspect(issued["access_token"])["grantable_scope"] == "mcp:basic"
    provider.claims["groups"] = ["admins"]
    issued = tokens(server, scope="mcp:basic mcp:jobs")
    assert issued["scope"] == "mcp:basic mcp:jobs"
    assert "grantable_scope" not in server.introspect(issued["access_token"])


def test_a_scope_beyond_is_not_on_the_consent_page(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(
        identity={"corp": provider.settings()}, resources=resources(user_scopes={"corp": ["mcp:basic"]})
    )
    person = newcomer(server)
    tokens(server, person=person)
    page = person.get(server.authorization_url(server.register().id, Pkce(), scope="mcp:basic mcp:jobs"))
    assert "mcp:basic" in page.text
    assert "mcp:jobs" not in page.text
    answer = person.submit(form(page, "/consent"), decision="allow")
    assert code_of(answer)


def test_who_may_have_none_of_the_scopes_is_denied(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(
        identity={"corp": provider.settings()}, resources=resources(user_scopes={"corp/admins": ["mcp:basic"]})
    )
    answer = sign_in_elsewhere(newcomer(server), server.authorization_url(server.register().id, Pkce()), "corp")
    assert parse_qs(urlsplit(answer.headers["location"]).query)["error"] == ["access_denied"]


def test_a_group_of_the_same_name_elsewhere_grants_nothing(
    start_auth_server: Start, provider: OpenIdProvider, second_provider: OpenIdProvider
) -> None:
    second_provider.claims |= {"groups": ["admins", "corp/admins", "corp"]}
    server = start_auth_server(
        identity={"corp": provider.settings(), "other": second_provider.settings()},
        resources=resources(user_scopes={"corp/admins": ["mcp:jobs"], "other": ["mcp:basic"], "corp": ["mcp:jobs"]}),
    )
    assert tokens(server, "other", scope="mcp:basic mcp:jobs")["scope"] == "mcp:basic"


def test_local_users_have_scopes_by_the_same_map(start_auth_server: Start) -> None:
    server = start_auth_server(resources=resources(user_scopes={"local": ["mcp:basic"]}))
    issued = server.tokens(server.register().id, scope="mcp:basic mcp:jobs")
    assert issued["scope"] == "mcp:basic"
    assert server.introspect(issued["access_token"])["grantable_scope"] == "mcp:basic"


@pytest.fixture
def clock() -> "Clock":
    return Clock()


@pytest.fixture
def rechecking(start_auth_server: Start, provider: OpenIdProvider, clock: Clock) -> AuthServer:
    identity = {"corp": provider.settings(recheck_seconds=600)}
    scopes = {"corp": ["mcp:basic"], "corp/admins": ["mcp:jobs"]}
    return start_auth_server(identity=identity, clock=clock, resources=resources(user_scopes=scopes))


def test_a_refresh_asks_the_identity_again_once_it_is_due(
    rechecking: AuthServer, provider: OpenIdProvider, clock: Clock
) -> None:
    issued = tokens(rechecking)
    answer = refresh(rechecking, issued)
    assert provider.refreshed == []
    clock.ahead = 601
    provider.id_token_changes = {"iat": int(clock()), "exp": int(clock()) + 300}
    again = refresh(rechecking, {**issued, **answer.json()})
    assert again.status_code == 200
    assert len(provider.refreshed) == 1
    assert refresh(rechecking, {**issued, **again.json()}).status_code == 200
    assert len(provider.refreshed) == 1


def test_who_is_gone_loses_grants_and_session(rechecking: AuthServer, provider: OpenIdProvider, clock: Clock) -> None:
    person = newcomer(rechecking)
    issued, other = tokens(rechecking, person=person), tokens(rechecking)
    provider.is_gone, clock.ahead = True, 601
    answer = refresh(rechecking, issued)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert not rechecking.is_active(issued["access_token"])
    assert not rechecking.is_active(other["access_token"])
    (ended,) = rechecking.events("grant.ended")
    assert ended["reason"] == "identity"
    assert rechecking.metrics.token_revocations.labels("identity")._value.get() == 2
    assert "Sign in" in person.get(f"{rechecking.issuer}/account").text


def test_while_the_identity_is_away_a_refresh_waits(
    rechecking: AuthServer, provider: OpenIdProvider, clock: Clock
) -> None:
    issued = tokens(rechecking)
    provider.answers["/token"], clock.ahead = (503, {}), 601
    answer = refresh(rechecking, issued)
    assert (answer.status_code, answer.json()["error"]) == (503, "temporarily_unavailable")
    assert answer.headers["retry-after"]
    del provider.answers["/token"]
    provider.id_token_changes = {"exp": int(clock()) + 300}
    assert refresh(rechecking, issued).status_code == 200


def test_within_an_allowance_what_was_heard_last_holds(
    start_auth_server: Start, provider: OpenIdProvider, clock: Clock
) -> None:
    identity = {"corp": provider.settings(recheck_seconds=600, recheck_allowance_seconds=600)}
    server = start_auth_server(identity=identity, clock=clock)
    issued = tokens(server)
    provider.answers["/token"], clock.ahead = (500, {}), 601
    first = refresh(server, issued)
    assert first.status_code == 200
    clock.ahead = 1201
    assert refresh(server, {**issued, **first.json()}).status_code == 503


def test_our_own_credentials_being_refused_says_nothing_of_the_user(
    rechecking: AuthServer, provider: OpenIdProvider, clock: Clock
) -> None:
    issued = tokens(rechecking)
    provider.answers["/token"], clock.ahead = (401, {"error": "invalid_client"}), 601
    assert refresh(rechecking, issued).status_code == 503


def test_a_group_that_was_lost_takes_its_scope_along_at_the_next_check(
    rechecking: AuthServer, provider: OpenIdProvider, clock: Clock
) -> None:
    provider.claims["groups"] = ["admins"]
    issued = tokens(rechecking, scope="mcp:basic mcp:jobs")
    assert issued["scope"] == "mcp:basic mcp:jobs"
    provider.claims["groups"], clock.ahead = [], 601
    provider.id_token_changes = {"exp": int(clock()) + 300}
    answer = refresh(rechecking, issued)
    assert answer.json()["scope"] == "mcp:basic"
    assert rechecking.introspect(answer.json()["access_token"])["grantable_scope"] == "mcp:basic"
    wider = refresh(rechecking, {**issued, **answer.json()}, scope="mcp:basic mcp:jobs")
    assert wider.json()["error"] == "invalid_scope"


def test_an_answer_about_somebody_else_is_no_answer(
    rechecking: AuthServer, provider: OpenIdProvider, clock: Clock
) -> None:
    issued = tokens(rechecking)
    clock.ahead = 601
    provider.id_token_changes = {"sub": "eve", "exp": int(clock()) + 300}
    assert refresh(rechecking, issued).status_code == 503


def test_without_a_way_to_ask_people_sign_in_again(
    start_auth_server: Start, provider: OpenIdProvider, clock: Clock
) -> None:
    server = start_auth_server(
        identity={"corp": provider.settings(recheck_seconds=600, recheck="sign_in")}, clock=clock
    )
    person = newcomer(server)
    issued = tokens(server, person=person)
    second = refresh(server, issued)
    assert second.status_code == 200
    clock.ahead = 601
    assert refresh(server, {**issued, **second.json()}).json()["error"] == "invalid_grant"
    assert "Sign in" in person.get(f"{server.issuer}/account").text


def test_an_identity_that_was_taken_out_of_the_settings_vouches_for_nobody(
    start_auth_server: Start, provider: OpenIdProvider
) -> None:
    server = start_auth_server(identity={"corp": provider.settings()})
    issued = tokens(server)
    later = start_auth_server(identity={"local": {"kind": "local"}})
    answer = later.refresh(issued["client_id"], issued["refresh_token"])
    assert answer.json()["error"] == "invalid_grant"


def test_refresh_tokens_of_the_provider_are_stored_encrypted(
    server: AuthServer, provider: OpenIdProvider, store_url: str
) -> None:
    tokens(server)
    with client_of(store_url) as redis:
        stored = "".join(str(redis.hgetall(key)) for key in redis.scan_iter("ks:user:*"))
    assert provider.refresh_tokens
    assert not any(token in stored for token in provider.refresh_tokens)


def test_who_was_disabled_here_stays_out(server: AuthServer) -> None:
    sub = server.introspect(tokens(server)["access_token"])["sub"]

    async def disable(users: Any) -> None:
        await users.set_disabled(await users.find(sub), disabled=True)

    server.in_store(disable)
    url = server.authorization_url(server.register().id, Pkce())
    page = sign_in_elsewhere(newcomer(server), url, "corp")
    assert page.status_code == 403
    assert "disabled here" in page.text


def test_required_claims_keep_others_out(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(identity={"corp": provider.settings(required_claims={"hd": ["example.com"]})})
    url = server.authorization_url(server.register().id, Pkce())
    page = sign_in_elsewhere(newcomer(server), url, "corp")
    assert page.status_code == 403
    assert "may not sign in here" in page.text
    provider.claims["hd"] = "example.com"
    assert tokens(server)["access_token"]


def test_userinfo_is_read_where_it_is_asked_for(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(identity={"corp": provider.settings(userinfo=True, groups_claim="realm.roles")},
                               resources=resources(user_scopes={"corp/staff": ["mcp:basic"]}))  # fmt: skip
    provider.userinfo = {"sub": "ada", "preferred_username": "countess", "realm": {"roles": ["staff"]}}
    answer = server.introspect(tokens(server)["access_token"])
    assert answer["username"] == "corp/countess"
    provider.userinfo = {"sub": "eve"}
    url = server.authorization_url(server.register().id, Pkce())
    assert sign_in_elsewhere(newcomer(server), url, "corp").status_code == 403


def test_new_keys_of_the_provider_are_found(start_auth_server: Start, provider: OpenIdProvider, clock: Clock) -> None:
    server = start_auth_server(identity={"corp": provider.settings()}, clock=clock)
    tokens(server)
    provider.key = type(provider.key).generate("RS256")
    clock.ahead = 11
    assert tokens(server)["access_token"]
    assert provider.fetches["/jwks"] == 2


def test_a_provider_that_is_away_is_named_and_another_try_works(server: AuthServer, provider: OpenIdProvider) -> None:
    discovery = "/.well-known/openid-configuration"
    provider.answers[discovery] = (503, {})
    person = newcomer(server)
    page = to_provider(person, server.authorization_url(server.register().id, Pkce()), "corp")
    assert page.status_code == 503
    assert "Corp does not answer" in page.text
    # Nothing that was typed is wrong, and the words of a button stay apart in its flex box.
    assert "aria-invalid" not in page.text
    assert "<span>Sign in with <bdi>" in page.text
    del provider.answers[discovery]
    page = choose(person, page, "corp")
    there = person.submit(form(page, "/login/upstream"), decision="allow")
    assert code_of(person.get(callback_of(person, there)))


def test_a_provider_that_goes_away_in_between_is_named_and_another_try_works(
    server: AuthServer, provider: OpenIdProvider
) -> None:
    person = newcomer(server)
    there = to_provider(person, server.authorization_url(server.register().id, Pkce()), "corp")
    provider.answers["/token"] = (502, b"<html>")
    page = person.get(callback_of(person, there))
    assert page.status_code == 503
    assert "Corp does not answer" in page.text
    del provider.answers["/token"]
    there = person.submit(form(choose(person, page, "corp"), "/login/upstream"), decision="allow")
    assert code_of(person.get(callback_of(person, there)))


def github(provider: OpenIdProvider, **changes: Any) -> dict[str, Any]:
    return provider.settings(preset="github", required_claims={"groups": ["acme"]}, **changes)


def test_github_tells_who_somebody_is_by_its_api(
    start_auth_server: Start, provider: OpenIdProvider, clock: Clock
) -> None:
    server = start_auth_server(
        identity={"hub": github(provider, recheck_seconds=600)},
        clock=clock,
        resources=resources(user_scopes={"hub/acme": ["mcp:basic"]}),
    )
    provider.userinfo, provider.organisations = {"id": 583231, "login": "octocat"}, [{"login": "acme"}]
    issued = tokens(server, "hub")
    answer = server.introspect(issued["access_token"])
    assert answer["username"] == "hub/octocat"
    provider.userinfo = {"id": 583231, "login": "renamed"}
    assert server.introspect(tokens(server, "hub")["access_token"])["sub"] == answer["sub"]
    clock.ahead = 601
    second = refresh(server, issued)
    assert second.status_code == 200
    clock.ahead, provider.is_gone = 1202, True
    assert refresh(server, {**issued, **second.json()}).json()["error"] == "invalid_grant"


def test_github_lets_in_only_whose_organisation_is_named(start_auth_server: Start, provider: OpenIdProvider) -> None:
    server = start_auth_server(identity={"hub": github(provider)})
    provider.userinfo, provider.organisations = {"id": 1, "login": "eve"}, [{"login": "evil"}, "acme"]
    url = server.authorization_url(server.register().id, Pkce())
    assert sign_in_elsewhere(newcomer(server), url, "hub").status_code == 403
    provider.answers["/api/v3/user"] = (403, {})
    assert sign_in_elsewhere(newcomer(server), url, "hub").status_code == 503
    provider.answers["/api/v3/user"] = (200, {"login": "eve"})
    assert sign_in_elsewhere(newcomer(server), url, "hub").status_code == 403
