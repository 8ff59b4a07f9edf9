"""Authorization codes under attack (RFC 9700 sections 2.1 and 4.5)."""

from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.auth_server import CALLBACK, OTHER_RESOURCE, RESOURCE, AuthServer, Pkce, RegisteredClient
from tests.person import Person
from tests.security.concurrency import at_once

FOREIGN_REDIRECTS = [
    "https://evil.example/callback",
    "http://127.0.0.1:1@evil.example/callback",
    "http://127.0.0.1@evil.example/callback",
    "http://127.0.0.1:49152@evil.example/callback",
    "http://user@127.0.0.1:49152/callback",
    "http://127.0.0.1:49152/callback/",
    "http://127.0.0.1:49152/callback/../evil",
    "http://127.0.0.1:49152/Callback",
    "http://127.0.0.1:49152/%63allback",
    "http://127.0.0.1:49152/callback?next=https://evil.example",
    "http://127.0.0.1:49152/callback#fragment",
    "http://127.0.0.1:49152/callback%00",
    "http://127.0.0.1:49152//evil.example/callback",
    "http://127.0.0.1:65536/callback",
    "http://127.0.0.1:0/callback",
    "http://127.0.0.1:/callback",
    "http://127.0.0.1:49152:1/callback",
    "http://127.0.0.1:4915２/callback",
    "http://127.0.0.2:49152/callback",
    "http://localhost:49152/callback",
    "http://[::1]:49152/callback",
    "http://127.0.0.1.evil.example:49152/callback",
    "http://127.0.0.1:49152\\@evil.example/callback",
    "HTTP://127.0.0.1:49152/callback",
    "https://127.0.0.1:49152/callback",
    "//127.0.0.1:49152/callback",
    "javascript:alert(1)",
    "data:text/html,x",
    " http://127.0.0.1:49152/callback",
    "/callback",
    "*",
]


@pytest.fixture(scope="module")
def client(auth_server: AuthServer) -> RegisteredClient:
    return auth_server.register()


def refused(answer: Any) -> bool:
    return bool(answer.status_code == 400 and "location" not in answer.headers)


@pytest.mark.parametrize("redirect_uri", FOREIGN_REDIRECTS)
def test_cve_2025_4143_and_2024_8883_and_2026_28512_a_foreign_redirect_uri_is_refused_at_authorize(
    auth_server: AuthServer, client: RegisteredClient, redirect_uri: str
) -> None:
    url = auth_server.authorization_url(client.id, Pkce(), redirect_uri=redirect_uri)
    answer = auth_server.http.get(url)
    assert refused(answer)
    assert "evil.example" not in answer.text


@pytest.mark.parametrize("port", ["1", "80", "65535", ""])
def test_the_port_of_a_loopback_redirect_floats(auth_server: AuthServer, client: RegisteredClient, port: str) -> None:
    redirect_uri = f"http://127.0.0.1{':' if port else ''}{port}/callback"
    answer = auth_server.http.get(auth_server.authorization_url(client.id, Pkce(), redirect_uri=redirect_uri))
    assert answer.status_code == 303


@pytest.mark.parametrize(
    "broken",
    [
        {"response_type": "token"},
        {"scope": "nope"},
        {"code_challenge": None},
        {"resource": "https://unknown.example"},
        {"state": "x" * 4000},
    ],
)
def test_cve_2026_41479_no_error_is_redirected_to_an_address_that_is_not_the_clients(
    auth_server: AuthServer, client: RegisteredClient, broken: dict[str, str | None]
) -> None:
    for wrong in (
        {"redirect_uri": "https://evil.example/"},
        {"client_id": "unknown", "redirect_uri": "https://evil.example/"},
    ):
        assert refused(auth_server.http.get(auth_server.authorization_url(
            wrong.get("client_id", client.id), Pkce(), **{**broken, "redirect_uri": wrong["redirect_uri"]}
        )))  # fmt: skip


def test_cve_2026_44681_a_repeated_redirect_uri_is_never_followed(
    auth_server: AuthServer, client: RegisteredClient
) -> None:
    url = auth_server.authorization_url(client.id, Pkce())
    for extra in ("&redirect_uri=https%3A%2F%2Fevil.example", f"&client_id={client.id}"):
        assert refused(auth_server.http.get(url + extra))


@pytest.mark.parametrize(
    "missing",
    [
        {"code_challenge": None, "code_challenge_method": None},
        {"code_challenge": None},
        {"code_challenge_method": None},
        {"code_challenge_method": "plain"},
        {"code_challenge": ""},
        {"code_challenge": "A" * 42},
        {"code_challenge": "A" * 44},
        {"code_challenge": "=" * 43},
    ],
)
def test_cve_2024_23647_a_request_whose_challenge_was_stripped_or_weakened_is_refused(
    auth_server: AuthServer, client: RegisteredClient, missing: dict[str, str | None]
) -> None:
    answer = auth_server.http.get(auth_server.authorization_url(client.id, Pkce(), **missing))
    query = parse_qs(urlsplit(answer.headers["location"]).query)
    assert answer.headers["location"].startswith(CALLBACK + "?")
    assert query["error"] == ["invalid_request"]
    assert query["iss"] == [auth_server.issuer]


@pytest.mark.parametrize("verifier", [None, "", "x" * 42, "x" * 129, "wrong-verifier" + "x" * 40, "ü" * 43])
def test_cve_2025_4144_a_code_is_worth_nothing_without_its_verifier(
    auth_server: AuthServer, client: RegisteredClient, person: Person, verifier: str | None
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(client.id, code, pkce, code_verifier=verifier)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    # A guess does not burn the code of the rightful client.
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


def test_the_challenge_itself_is_no_verifier(auth_server: AuthServer, client: RegisteredClient, person: Person) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(client.id, code, pkce, code_verifier=pkce.challenge)
    assert answer.json()["error"] == "invalid_grant"


def test_cve_2026_16089_a_code_cannot_be_redeemed_by_another_client(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    thief, pkce = auth_server.register(client_name="Thief"), Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(thief.id, code, pkce)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")
    assert auth_server.redeem(client.id, code, pkce).status_code == 200


@pytest.mark.parametrize("redirect_uri", ["http://127.0.0.1:49153/callback", "https://evil.example/", CALLBACK + "/"])
def test_a_code_is_bound_to_the_redirect_uri_it_was_sent_to(
    auth_server: AuthServer, client: RegisteredClient, person: Person, redirect_uri: str
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(client.id, code, pkce, redirect_uri=redirect_uri)
    assert answer.json()["error"] == "invalid_grant"


def test_a_code_gives_no_token_for_another_resource(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    answer = auth_server.redeem(client.id, code, pkce, resource=OTHER_RESOURCE)
    assert answer.json()["error"] == "invalid_target"
    assert auth_server.introspect(auth_server.redeem(client.id, code, pkce).json()["access_token"])["aud"] == RESOURCE


def test_a_code_is_no_token_and_a_token_is_no_code(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert not auth_server.is_active(code)
    assert not auth_server.is_active(code.replace("kst_ac_", "kst_at_"))
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert auth_server.redeem(client.id, tokens["access_token"], pkce).json()["error"] == "invalid_grant"
    assert auth_server.refresh(client.id, tokens["access_token"]).json()["error"] == "invalid_grant"
    assert auth_server.refresh(client.id, code).json()["error"] == "invalid_grant"
    assert not auth_server.is_active(tokens["refresh_token"])


def test_cve_2026_27840_every_prefix_of_a_token_and_every_changed_letter_is_inactive(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    tokens = auth_server.tokens(client.id, person)
    access = tokens["access_token"]
    twisted = {access[:n] for n in range(1, len(access))}
    twisted |= {access[:n] + ("A" if access[n] != "A" else "B") + access[n + 1 :] for n in range(7, len(access), 5)}
    twisted |= {access + "A", access + "=", " " + access, access + " ", access.upper(), access.lower(), access * 2}
    active = [each for each in sorted(twisted) if auth_server.is_active(each)]
    assert active == []
    assert auth_server.is_active(access)
    refresh = tokens["refresh_token"]
    for each in (refresh[:-1], refresh[:-1] + ("A" if refresh[-1] != "A" else "B"), refresh + "A", refresh[:30]):
        assert auth_server.refresh(client.id, each).json()["error"] == "invalid_grant"
    assert auth_server.refresh(client.id, refresh).status_code == 200


def test_cve_2026_53518_of_200_parallel_redemptions_exactly_one_succeeds_and_its_tokens_are_revoked(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    form = {
        "grant_type": "authorization_code", "client_id": client.id, "code": code, "code_verifier": pkce.verifier,
        "redirect_uri": CALLBACK,
    }  # fmt: skip
    answers = at_once(f"{auth_server.issuer}/token", form, 200)
    succeeded = [answer for answer in answers if answer.status == 200]
    assert len(succeeded) == 1
    # On a busy machine some are asked to come again later; none of them has a token.
    errors = {answer.body["error"] for answer in answers if answer.status != 200}
    assert errors <= {"invalid_grant", "temporarily_unavailable"}
    assert "invalid_grant" in errors
    assert not auth_server.is_active(succeeded[0].body["access_token"])
    assert auth_server.refresh(client.id, succeeded[0].body["refresh_token"]).json()["error"] == "invalid_grant"


def test_twenty_races_for_a_code_have_one_winner_each(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    for _ in range(20):
        pkce = Pkce()
        code = auth_server.code(client.id, pkce, person)
        form = {
            "grant_type": "authorization_code", "client_id": client.id, "code": code, "code_verifier": pkce.verifier,
        }  # fmt: skip
        statuses = [answer.status for answer in at_once(f"{auth_server.issuer}/token", form, 8)]
        assert sorted(statuses) == [200] + [400] * 7


def test_a_code_that_comes_twice_in_turn_ends_the_tokens_of_the_first_redemption(
    auth_server: AuthServer, client: RegisteredClient, person: Person
) -> None:
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    tokens = auth_server.redeem(client.id, code, pkce).json()
    assert auth_server.redeem(client.id, code, pkce).json()["error"] == "invalid_grant"
    assert not auth_server.is_active(tokens["access_token"])
    assert auth_server.refresh(client.id, tokens["refresh_token"]).json()["error"] == "invalid_grant"
    assert auth_server.events("code.reuse_detected")[-1]["actor"]["client_id"] == client.id
