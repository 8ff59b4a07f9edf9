"""Hostile answers of, and on behalf of, an OpenID provider: nobody gets in by one."""

import asyncio
import base64
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from joserfc import jws
from joserfc.jwk import OctKey

from keystile_auth.app import create_metrics
from keystile_auth.identity.answer import SignInRefusedError
from keystile_auth.identity.attempt import Attempt
from keystile_auth.identity.id_token import Expected, check, read
from keystile_auth.identity.oidc import OidcProvider
from keystile_auth.identity.settings import IdentitySettings
from tests.auth_server import AuthServer, Pkce, running_auth_server
from tests.client_key import ClientKey
from tests.openid_provider import (
    CLIENT_ID,
    CLIENT_SECRET,
    OpenIdProvider,
    callback_of,
    newcomer,
    running_openid_provider,
    sign_in_elsewhere,
    to_provider,
)
from tests.person import Person, forms


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    with running_openid_provider() as running:
        yield running


@pytest.fixture
def server(store_url: str, provider: OpenIdProvider) -> Iterator[AuthServer]:
    identity = {"corp": provider.settings(title="Corp"), "other": provider.settings(title="Other")}
    with running_auth_server(store_url, identity=identity) as running:
        yield running


def url(server: AuthServer) -> str:
    return server.authorization_url(server.register().id, Pkce())


def assert_nobody_came_in(server: AuthServer, page: Any, status: int = 403) -> None:
    assert page.status_code == status, page.text
    assert "location" not in page.headers
    assert not [each for each in server.events("user.login") if each["outcome"] == "success"]


def now() -> int:
    return int(time.time())


@pytest.mark.parametrize(
    "changes",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"nonce": ["list"]},
        {"aud": "another client"},
        {"aud": ["another client", "a third"]},
        {"aud": None},
        {"aud": [CLIENT_ID, "another client"]},
        {"aud": [CLIENT_ID, "another client"], "azp": "another client"},
        {"azp": "another client"},
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"exp": 1},
        {"exp": None},
        {"exp": "tomorrow"},
        {"iat": None},
        {"iat": 99999999999},
        {"nbf": 99999999999},
        {"at_hash": "AAAAAAAAAAAAAAAAAAAAAA"},
        {"at_hash": None, "sub": None},
        {"sub": ""},
        {"sub": 7},
        {"sub": "a" * 256},
        {"sub": "new\nline"},
    ],
    ids=str,
)
def test_an_id_token_that_says_something_else_lets_nobody_in(
    server: AuthServer, provider: OpenIdProvider, changes: dict[str, Any]
) -> None:
    provider.id_token_changes = changes
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


def _unsigned(claims: dict[str, Any]) -> str:
    parts = [json.dumps(each).encode() for each in ({"alg": "none"}, claims)]
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts) + "."


def _by_secret(secret: str) -> Callable[[dict[str, Any]], str]:
    return lambda claims: jws.serialize_compact(
        {"alg": "HS256"}, json.dumps(claims), OctKey.import_key(secret), algorithms=["HS256"]
    )


def _by_a_stranger(claims: dict[str, Any]) -> str:
    key = ClientKey.generate()
    return key.sign({"alg": "ES256", "kid": key.key.kid}, claims)


def _as_an_access_token(provider: OpenIdProvider) -> Callable[[dict[str, Any]], str]:
    return lambda claims: provider.key.sign({"alg": "ES256", "typ": "at+jwt"}, claims)


@pytest.mark.parametrize(
    "signer",
    [
        _unsigned,
        _by_secret(CLIENT_SECRET),
        _by_a_stranger,
        lambda _: "x" * 70_000,
        lambda _: "",
        lambda _: {"not": "text"},
    ],
    ids=["none", "HS256 by the client secret", "a stranger's key", "too long", "empty", "no text"],
)
def test_an_id_token_that_the_provider_did_not_sign_lets_nobody_in(
    server: AuthServer, provider: OpenIdProvider, signer: Any
) -> None:
    provider.sign = signer
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


def test_an_access_token_is_no_id_token(server: AuthServer, provider: OpenIdProvider) -> None:
    provider.sign = _as_an_access_token(provider)
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


def test_an_id_token_is_bound_to_the_access_token_that_came_with_it(provider: OpenIdProvider) -> None:
    claims = {**provider.id_claims("n"), "at_hash": _half_hash("right")}
    token = read(provider.signed(claims))
    expected = Expected(provider.issuer, CLIENT_ID, "n")
    assert check(token, [provider.key.key], expected, "right", time.time())["sub"] == "ada"
    for other in ("wrong", None):
        with pytest.raises(SignInRefusedError):
            check(token, [provider.key.key], expected, other, time.time())


def _half_hash(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()[:16]).rstrip(b"=").decode()


def test_two_audiences_are_accepted_where_the_token_is_ours_by_azp(
    server: AuthServer, provider: OpenIdProvider
) -> None:
    provider.id_token_changes = {"aud": [CLIENT_ID, "another"], "azp": CLIENT_ID}
    assert sign_in_elsewhere(newcomer(server), url(server), "corp").status_code == 303


def _callback(person: Person, server: AuthServer, identity: str = "corp") -> str:
    return callback_of(person, to_provider(person, url(server), identity))


def test_a_state_is_good_once(server: AuthServer) -> None:
    person = newcomer(server)
    callback = _callback(person, server)
    assert person.get(callback).status_code == 303
    again = person.browser.get(callback)
    assert again.status_code == 400
    assert "This sign-in is over" in again.text


def test_a_state_of_another_browser_is_refused_and_not_used_up(server: AuthServer) -> None:
    victim, attacker = newcomer(server), newcomer(server)
    callback = _callback(attacker, server)
    victim.get(f"{server.issuer}/login")
    assert_nobody_came_in(server, victim.browser.get(callback), 400)
    assert attacker.get(callback).status_code == 303


@pytest.mark.parametrize("state", [None, "", "unknown", "x" * 5000])
def test_a_state_that_was_never_given_is_refused(
    server: AuthServer, state: str | None, provider: OpenIdProvider
) -> None:
    provider.callback_changes = {"state": state}
    person = newcomer(server)
    assert_nobody_came_in(server, person.browser.get(_callback(person, server)), 400)


def test_a_code_of_another_sign_in_is_refused(server: AuthServer, provider: OpenIdProvider) -> None:
    attacker, victim = newcomer(server), newcomer(server)
    stolen = parse_qs(urlsplit(_callback(attacker, server)).query)["code"][0]
    provider.callback_changes = {"code": stolen}
    assert_nobody_came_in(server, victim.get(_callback(victim, server)))


def test_a_code_without_our_verifier_is_worth_nothing(server: AuthServer, provider: OpenIdProvider) -> None:
    callback = _callback(newcomer(server), server)
    code = parse_qs(urlsplit(callback).query)["code"][0]
    form = {"code": code, "redirect_uri": f"{server.issuer}/login/callback/corp", "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET}  # fmt: skip
    assert provider.token(form, "")[0] == 400


def test_the_answer_of_one_identity_is_not_taken_for_another_s(server: AuthServer) -> None:
    person = newcomer(server)
    callback = _callback(person, server).replace("/callback/corp", "/callback/other")
    assert_nobody_came_in(server, person.browser.get(callback), 400)


@pytest.mark.parametrize("identity", ["none", "local", "..%2f"])
def test_there_is_no_callback_of_an_identity_that_is_not_there(server: AuthServer, identity: str) -> None:
    answer = newcomer(server).browser.get(f"{server.issuer}/login/callback/{identity}?state=x&code=y")
    assert answer.status_code in {400, 404}


def test_an_answer_that_names_another_issuer_is_refused(server: AuthServer, provider: OpenIdProvider) -> None:
    provider.callback_changes = {"iss": "https://evil.example.com"}
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


def test_an_answer_without_issuer_is_refused_where_the_provider_always_names_it(
    server: AuthServer, provider: OpenIdProvider
) -> None:
    provider.metadata = {"authorization_response_iss_parameter_supported": True}
    provider.callback_changes = {"iss": None}
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


@pytest.mark.parametrize(
    ("error", "shown"), [("access_denied", "access_denied"), ("<script>alert(1)</script>", "an error")]
)
def test_an_error_of_the_provider_is_shown_here_and_sent_nowhere(
    server: AuthServer, provider: OpenIdProvider, error: str, shown: str
) -> None:
    provider.callback_changes = {
        "code": None,
        "error": error,
        "error_description": "call this number",
        "error_uri": "https://evil.example.com",
    }
    page = sign_in_elsewhere(newcomer(server), url(server), "corp")
    assert_nobody_came_in(server, page)
    assert f"Corp did not sign you in: it answered {shown}" in page.text
    for text in ("<script>", "call this number", "evil.example.com"):
        assert text not in page.text


def test_an_answer_without_a_code_is_refused(server: AuthServer, provider: OpenIdProvider) -> None:
    provider.callback_changes = {"code": None}
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"))


def test_a_parameter_that_comes_twice_is_refused(server: AuthServer) -> None:
    person = newcomer(server)
    callback = _callback(person, server)
    assert person.browser.get(f"{callback}&state=other").status_code == 400
    assert person.get(callback).status_code == 303


@pytest.mark.parametrize(
    ("path", "answer", "status"),
    [
        ("/token", (200, b"x" * 600_000), 503),
        ("/token", (200, b"not json"), 503),
        ("/token", (200, b"[" * 100_000), 503),
        ("/token", (200, {}), 403),
        ("/token", (200, {"error": "invalid_grant"}), 403),
        ("/token", (302, {}), 403),
        ("/token", (400, []), 403),
        ("/jwks", (200, {"keys": "none"}), 503),
        ("/jwks", (200, {"keys": []}), 503),
        ("/jwks", (302, {}), 503),
        ("/jwks", (500, {}), 503),
    ],
    ids=lambda value: str(value)[:30],
)
def test_a_broken_answer_lets_nobody_in_and_breaks_nothing(
    server: AuthServer, provider: OpenIdProvider, path: str, answer: Any, status: int
) -> None:
    provider.answers[path] = answer
    assert_nobody_came_in(server, sign_in_elsewhere(newcomer(server), url(server), "corp"), status)
    del provider.answers[path]
    assert sign_in_elsewhere(newcomer(server), url(server), "corp").status_code == 303


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://evil.example.com"},
        {"issuer": None},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://evil.example.com/authorize"},
        {"authorization_endpoint": "https://user:password@evil.example.com/"},
        {"authorization_endpoint": "https://example.com/#fragment"},
        {"authorization_endpoint": ["https://example.com"]},
        {"token_endpoint": "http://169.254.169.254/latest"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"userinfo_endpoint": "ftp://example.com"},
    ],
    ids=str,
)
def test_a_discovery_document_that_leads_elsewhere_is_not_followed(
    server: AuthServer, provider: OpenIdProvider, metadata: dict[str, Any]
) -> None:
    provider.metadata = metadata
    page = to_provider(newcomer(server), url(server), "corp")
    assert_nobody_came_in(server, page, 503)
    assert "Corp does not answer" in page.text


def test_no_secret_of_a_sign_in_is_in_the_audit_log(server: AuthServer, provider: OpenIdProvider) -> None:
    person = newcomer(server)
    callback = _callback(person, server)
    person.get(callback)
    query = parse_qs(urlsplit(callback).query)
    lines = server.audit_lines.getvalue()
    for secret in (query["code"][0], query["state"][0], CLIENT_SECRET, *provider.refresh_tokens):
        assert secret not in lines


def test_a_form_names_only_ways_to_sign_in_that_are_offered(server: AuthServer) -> None:
    person = newcomer(server)
    page = person.get(f"{server.issuer}/login")
    field = forms(page)[0].fields
    for path, more in (("/login/upstream", {"identity": "local"}), ("/login", {"identity": "corp"}), ("/login", {})):
        answer = person.browser.post(f"{server.issuer}{path}", data={"csrf": field["csrf"], "username": "x", **more})
        assert answer.status_code == 400, answer.text


async def test_a_flood_of_unknown_keys_asks_the_provider_once(provider: OpenIdProvider) -> None:
    settings = IdentitySettings.model_validate(provider.settings())
    frozen = time.time()
    provider.sign = _by_a_stranger
    attempt = Attempt("s", "n", "v" * 43)
    callback = "http://127.0.0.1/callback"

    def code() -> str:
        location = provider.authorize(
            {
                "redirect_uri": callback,
                "state": "s",
                "nonce": "n",
                "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(b"v" * 43).digest()).rstrip(b"=").decode(),
            }
        )
        return parse_qs(urlsplit(location).query)["code"][0]

    async with OidcProvider("corp", settings, callback, lambda: frozen, create_metrics().jwks) as client:
        results = await asyncio.gather(*(client.sign_in(code(), attempt) for _ in range(20)), return_exceptions=True)
        assert all(isinstance(each, SignInRefusedError) for each in results)
        assert provider.fetches["/jwks"] == 1
        assert provider.fetches["/.well-known/openid-configuration"] == 1
        frozen += 11
        await asyncio.gather(*(client.sign_in(code(), attempt) for _ in range(20)), return_exceptions=True)
        assert provider.fetches["/jwks"] == 2
        provider.sign = None
        assert (await client.sign_in(code(), attempt)).identity.subject == "ada"
