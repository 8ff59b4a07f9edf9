"""Client ID Metadata Documents: the client's id is the https URL of its metadata."""

import time
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.auth_server import CALLBACK, RESOURCE, AuthServer, Pkce
from tests.client_key import ClientKey, key_set
from tests.conftest import StartAuthServer
from tests.document_host import DocumentHost
from tests.person import Person
from tests.stores import client_of

UNBOUNDED = {"fetches_per_minute_and_address": 100_000}


def ask(server: AuthServer, client_id: str, **parameters: Any) -> httpx2.Response:
    return server.http.get(server.authorization_url(client_id, Pkce(), **parameters))


def is_known(server: AuthServer, client_id: str) -> bool:
    """Whether a request of this client is taken up."""
    answer = ask(server, client_id)
    assert answer.status_code in {303, 400}
    return answer.status_code == 303


def refusal(server: AuthServer, client_id: str) -> str:
    """Why a request of this client is shown as an error, as the page says it."""
    answer = ask(server, client_id)
    assert answer.status_code == 400, answer.headers
    assert "location" not in answer.headers
    return answer.text.replace("&#39;", "'")


def test_a_client_is_known_by_its_document_and_needs_no_registration(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    client = document_host.client(grant_types=["authorization_code", "refresh_token"])
    tokens = auth_server.tokens(client, person)
    assert auth_server.introspect(tokens["access_token"])["client_id"] == client
    assert auth_server.refresh(client, tokens["refresh_token"]).status_code == 200


def test_the_redirect_uri_of_a_request_must_be_in_the_document(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    client = document_host.client(redirect_uris=["https://app.example.com/cb"])
    assert ask(auth_server, client, redirect_uri="https://app.example.com/cb").status_code == 303
    assert ask(auth_server, client, redirect_uri=CALLBACK).status_code == 400
    assert ask(auth_server, client, redirect_uri="https://app.example.com/cb/").status_code == 400


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"client_id": "https://localhost/other.json"}, "is not the URL it was fetched from"),
        ({"client_id": None}, "is not the URL it was fetched from"),
        ({"client_id": 7}, "is not the URL it was fetched from"),
        ({"client_name": None}, "has no client_name"),
        ({"client_name": 7}, "has no client_name"),
        ({"client_name": "turned\u202eround"}, "client_name must be"),
        ({"redirect_uris": None}, "redirect_uris must be"),
        ({"redirect_uris": []}, "redirect_uris must be"),
        ({"redirect_uris": ["http://app.example.com/cb"]}, "redirect_uris, number 1"),
        ({"redirect_uris": ["javascript:alert(1)"]}, "redirect_uris, number 1"),
        ({"client_secret": "s"}, "must not contain a client_secret"),
        ({"client_secret_expires_at": 0}, "must not contain a client_secret"),
        ({"token_endpoint_auth_method": "client_secret_basic"}, "authentication method must be one of"),
        ({"token_endpoint_auth_method": "client_secret_post"}, "authentication method must be one of"),
        ({"token_endpoint_auth_method": "client_secret_jwt"}, "authentication method must be one of"),
        ({"token_endpoint_auth_method": "private_key_jwt"}, "private_key_jwt needs jwks"),
        ({"jwks": {"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}}, "public keys only"),
        ({"grant_types": ["client_credentials"]}, "grant_types must contain"),
    ],
)
def test_a_document_that_breaks_a_rule_makes_no_client(
    auth_server: AuthServer, document_host: DocumentHost, metadata: dict[str, Any], reason: str
) -> None:
    assert reason in refusal(auth_server, document_host.client(**metadata))


@pytest.mark.parametrize("body", [b"", b"junk", b"[]", b'"x"', b"\xff", b"[" * 5000])
def test_a_document_that_is_no_json_object_makes_no_client(
    auth_server: AuthServer, document_host: DocumentHost, body: bytes
) -> None:
    url = document_host.serve(document_host.url(), body)
    assert "is not a JSON object" in refusal(auth_server, url)


@pytest.mark.parametrize("status", [201, 204, 301, 302, 303, 307, 308, 304, 404, 500])
def test_only_a_200_gives_a_document_and_no_redirect_is_followed(
    auth_server: AuthServer, document_host: DocumentHost, status: int
) -> None:
    target = document_host.client()
    url = document_host.url()
    document_host.serve(url, {"client_id": url, "client_name": "x"}, status, Location=target)
    assert f"answered {status}" in refusal(auth_server, url)
    assert document_host.fetched(target) == 0


def test_a_document_beyond_5_kib_makes_no_client(auth_server: AuthServer, document_host: DocumentHost) -> None:
    assert is_known(auth_server, document_host.client(padding="x" * 4500))
    assert "larger than 5120 bytes" in refusal(auth_server, document_host.client(padding="x" * 5120))


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://{host}/client.json", "must be https"),
        ("HTTPS://{host}/client.json", "must be https"),
        ("https://{host}", "must have a path"),
        ("https://{host}/", "must have a path"),
        ("https://{host}/a/../client.json", "must have no dot segments"),
        ("https://{host}/./client.json", "must have no dot segments"),
        ("https://{host}/a/%2e%2E/client.json", "must have no dot segments"),
        ("https://{host}/a/.%2e", "must have no dot segments"),
        ("https://{host}/client.json#fragment", "no user, password or fragment"),
        ("https://{host}/client.json#", "no user, password or fragment"),
        ("https://user@{host}/client.json", "no user, password or fragment"),
        ("https://user:password@{host}/client.json", "no user, password or fragment"),
        ("https://@{host}/client.json", "no user, password or fragment"),
        ("https:///client.json", "must have a host"),
        ("https://{host}/a b", "without spaces"),
        ("https://{host}/ü", "not printable ASCII"),
        ("https://{host}\\@evil.example/x", "without spaces, quotes or backslashes"),
        ("https://localhost:99999/x", "is not a URL"),
        ("https://[::1/x", "is not a URL"),
        ("https://{host}/" + "x" * 1024, "too long"),
    ],
)
def test_an_id_that_may_not_be_a_documents_url_is_refused_unfetched(
    auth_server: AuthServer, document_host: DocumentHost, url: str, reason: str
) -> None:
    before = document_host.fetches.total()
    assert reason in refusal(auth_server, url.format(host=urlsplit(document_host.origin).netloc))
    assert document_host.fetches.total() == before


def test_a_query_belongs_to_the_id(auth_server: AuthServer, document_host: DocumentHost) -> None:
    plain = document_host.client()
    assert "answered 404" in refusal(auth_server, f"{plain}?v=2")
    versioned = f"{document_host.url()}?v=2"
    document = {"client_id": versioned, "client_name": "x", "redirect_uris": [CALLBACK]}
    assert is_known(auth_server, document_host.serve(versioned, document))


def test_a_loopback_address_is_refused_unless_the_settings_allow_it(
    start_auth_server: StartAuthServer, document_host: DocumentHost
) -> None:
    server = start_auth_server(metadata_documents={"ca_file": document_host.ca_file, **UNBOUNDED})
    client = document_host.client()
    assert "not public" in refusal(server, client)
    assert "not public" in refusal(server, client.replace("localhost", "127.0.0.1"))
    assert document_host.fetched(client) == 0


def test_a_host_whose_certificate_does_not_hold_is_refused(
    start_auth_server: StartAuthServer, document_host: DocumentHost
) -> None:
    server = start_auth_server(metadata_documents={"allow_loopback": True, **UNBOUNDED})
    assert "could not be reached" in refusal(server, document_host.client())


def test_documents_that_are_turned_off_are_not_fetched(
    start_auth_server: StartAuthServer, document_host: DocumentHost
) -> None:
    server = start_auth_server(metadata_documents={"enabled": False})
    client = document_host.client()
    assert "turned off here; register instead" in refusal(server, client)
    assert document_host.fetched(client) == 0


@pytest.mark.parametrize(
    "headers",
    [{}, {"Cache-Control": "max-age=60"}, {"Cache-Control": "public, s-maxage=60, max-age=0"}],
)
def test_a_document_is_kept_as_long_as_its_headers_say(
    auth_server: AuthServer, document_host: DocumentHost, headers: dict[str, str]
) -> None:
    client = document_host.client(headers)
    assert [is_known(auth_server, client) for _ in range(3)] == [True, True, True]
    assert document_host.fetched(client) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Cache-Control": "no-store"},
        {"Cache-Control": "no-cache"},
        {"Cache-Control": "max-age=0"},
        {"Cache-Control": "max-age=60", "Age": "60"},
        {"Expires": "0"},
        {"Expires": "Thu, 01 Jan 1970 00:00:00 GMT"},
    ],
)
def test_a_document_that_may_not_be_kept_is_fetched_each_time(
    auth_server: AuthServer, document_host: DocumentHost, headers: dict[str, str]
) -> None:
    client = document_host.client(headers)
    assert [is_known(auth_server, client) for _ in range(2)] == [True, True]
    assert document_host.fetched(client) == 2


def test_a_document_that_was_kept_is_fetched_anew_when_its_time_is_over(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    client = document_host.client({"Cache-Control": "max-age=1"})
    assert is_known(auth_server, client)
    document_host.serve(client, b"gone", 404)
    deadline = time.monotonic() + 3
    while is_known(auth_server, client):
        assert time.monotonic() < deadline, "the document was kept beyond its time"
        time.sleep(0.05)


def test_a_document_is_kept_no_longer_than_the_setting_says(
    start_auth_server: StartAuthServer, document_host: DocumentHost
) -> None:
    documents = {"allow_loopback": True, "ca_file": document_host.ca_file, "max_cache_seconds": 0, **UNBOUNDED}
    server = start_auth_server(metadata_documents=documents)
    client = document_host.client({"Cache-Control": "max-age=600"})
    assert [is_known(server, client) for _ in range(2)] == [True, True]
    assert document_host.fetched(client) == 2


def test_a_document_that_makes_no_client_is_not_kept(auth_server: AuthServer, document_host: DocumentHost) -> None:
    client = document_host.client({"Cache-Control": "max-age=600"}, client_name=None)
    assert not is_known(auth_server, client)
    document = {"client_id": client, "client_name": "Mended", "redirect_uris": [CALLBACK]}
    assert is_known(auth_server, document_host.serve(client, document))


def test_an_address_that_makes_us_fetch_too_much_is_answered_429(
    start_auth_server: StartAuthServer, document_host: DocumentHost, store_url: str
) -> None:
    documents = {"allow_loopback": True, "ca_file": document_host.ca_file, "fetches_per_minute_and_address": 1}
    with client_of(store_url) as redis:
        for window in redis.scan_iter("ks:limit:document:*"):
            redis.delete(window)
    server = start_auth_server(metadata_documents=documents)
    first = document_host.client()
    assert is_known(server, first)
    second = document_host.client()
    answer = ask(server, second)
    assert (answer.status_code, answer.json()["error"]) == (429, "slow_down")
    assert 0 < int(answer.headers["retry-after"]) <= 60
    assert document_host.fetched(second) == 0
    # What is known already costs no fetch.
    assert is_known(server, first)
    page = server.http.get(server.authorization_url(second, Pkce()), headers={"Accept": "text/html"})
    assert page.status_code == 429
    assert page.headers["retry-after"]
    assert "text/html" in page.headers["content-type"]


def test_the_document_of_chatgpt_is_taken_with_the_methods_of_its_plural(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    signer = ClientKey.generate("RS256")
    keys = document_host.serve(document_host.url("jwks.json"), key_set(signer))
    client = document_host.client(
        client_name="ChatGPT",
        redirect_uris=["https://chatgpt.com/connector/oauth/abc", CALLBACK],
        grant_types=["authorization_code", "refresh_token"],
        response_types=["code"],
        token_endpoint_auth_methods_supported=["private_key_jwt", "none"],
        jwks_uri=keys,
        logo_uri="https://chatgpt.com/logo.png",
    )
    pkce = Pkce()
    code = auth_server.code(client, pkce, person)
    signed = auth_server.token(
        grant_type="authorization_code",
        code=code,
        code_verifier=pkce.verifier,
        **signer.credentials(client, auth_server.issuer),
    )
    assert signed.status_code == 200, signed.text
    assert auth_server.refresh(client, signed.json()["refresh_token"]).status_code == 200


def test_the_document_of_claude_desktop_is_taken_though_it_lists_a_grant_we_lack(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    client = document_host.client(
        client_name="Claude",
        client_uri="https://claude.ai",
        redirect_uris=["http://localhost/callback", "http://127.0.0.1/callback"],
        grant_types=["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    uri = "http://localhost:53682/callback"
    pkce = Pkce()
    code = auth_server.code(client, pkce, person, redirect_uri=uri)
    tokens = auth_server.redeem(client, code, pkce, redirect_uri=uri).json()
    assert auth_server.introspect(tokens["access_token"])["aud"] == RESOURCE
    assert tokens["refresh_token"]


def test_a_client_whose_document_names_private_key_jwt_alone_must_sign(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    signer = ClientKey.generate()
    client = document_host.client(token_endpoint_auth_method="private_key_jwt", jwks=key_set(signer))
    pkce = Pkce()
    code = auth_server.code(client, pkce, person)
    assert auth_server.redeem(client, code, pkce).status_code == 401
    signed = auth_server.redeem(client, code, pkce, **signer.credentials(client, auth_server.issuer))
    assert signed.status_code == 200


def test_a_client_that_could_sign_but_shows_no_key_is_public(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    client = document_host.client(token_endpoint_auth_methods_supported=["private_key_jwt", "none"])
    assert auth_server.tokens(client, person)["token_type"] == "Bearer"


def test_a_client_of_a_document_never_acts_for_itself(auth_server: AuthServer, document_host: DocumentHost) -> None:
    signer = ClientKey.generate()
    client = document_host.client(
        token_endpoint_auth_method="private_key_jwt",
        jwks=key_set(signer),
        grant_types=["authorization_code", "client_credentials"],
    )
    proof = signer.credentials(client, auth_server.issuer)
    answer = auth_server.token(grant_type="client_credentials", resource=RESOURCE, **proof)
    assert (answer.status_code, answer.json()["error"]) == (400, "unauthorized_client")


def test_an_unknown_document_at_the_token_endpoint_is_an_invalid_client(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    answer = auth_server.refresh(document_host.url(), "junk")
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


@pytest.mark.parametrize("status", [500, 503])
def test_while_its_host_is_in_trouble_a_client_goes_on_with_the_document_it_had(
    auth_server: AuthServer, document_host: DocumentHost, person: Person, status: int
) -> None:
    client_id = document_host.client(
        {"Cache-Control": "max-age=1"}, grant_types=["authorization_code", "refresh_token"]
    )
    tokens = auth_server.tokens(client_id, person)
    document_host.serve(client_id, b"", status)
    time.sleep(1.1)
    refreshed = auth_server.refresh(client_id, tokens["refresh_token"])
    assert refreshed.status_code == 200, refreshed.text
    assert document_host.fetched(client_id) >= 2


def test_a_client_whose_document_was_taken_down_is_refused_once_it_is_no_longer_fresh(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    client_id = document_host.client(
        {"Cache-Control": "max-age=1"}, grant_types=["authorization_code", "refresh_token"]
    )
    tokens = auth_server.tokens(client_id, person)
    document_host.serve(client_id, b"", 404)
    time.sleep(1.1)
    assert auth_server.refresh(client_id, tokens["refresh_token"]).json()["error"] == "invalid_client"


def test_a_document_that_must_not_be_stored_is_not_kept_for_when_its_host_is_away(
    auth_server: AuthServer, document_host: DocumentHost, person: Person
) -> None:
    client_id = document_host.client({"Cache-Control": "no-store"}, grant_types=["authorization_code", "refresh_token"])
    tokens = auth_server.tokens(client_id, person)
    document_host.serve(client_id, b"", 503)
    assert auth_server.refresh(client_id, tokens["refresh_token"]).json()["error"] == "invalid_client"
