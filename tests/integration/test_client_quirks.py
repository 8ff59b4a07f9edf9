"""What well-known clients do beyond the letter of the specifications, as the requests they send.

Where each habit was seen is said beside it. They are products that others make: the habits are theirs to change.
"""

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from tests.auth_server import Pkce
from tests.client_key import ClientKey, key_set
from tests.conftest import StartAuthServer
from tests.document_host import DocumentHost, running_document_host
from tests.pair import Pair, running_pair

CLAUDE = "https://claude.ai/api/mcp/auth_callback"
WEB_CLIENT = "https://client.example.com"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentHost]:
    """Where clients publish their metadata documents."""
    with running_document_host(tmp_path_factory.mktemp("web")) as host:
        yield host


@pytest.fixture(scope="module")
def pair(store_url: str, web: DocumentHost) -> Iterator[Pair]:
    documents = {"allow_loopback": True, "ca_file": str(web.ca_file), "fetches_per_minute_and_address": 100_000}
    with running_pair(store_url, auth={"metadata_documents": documents}, allowed_origins=[WEB_CLIENT]) as running:
        yield running


def metadata(pair: Pair) -> dict[str, Any]:
    """The authorization server's metadata, found as a client finds them: from the challenge on."""
    challenge = pair.auth.http.post(pair.resource, json={}).headers["www-authenticate"]
    url = challenge.split('resource_metadata="')[1].split('"')[0]
    [issuer] = pair.auth.http.get(url).json()["authorization_servers"]
    return dict(pair.auth.http.get(f"{issuer}/.well-known/oauth-authorization-server").json())


def sign_in(pair: Pair, client_id: str, pkce: Pkce, **parameters: Any) -> str:
    """The code of a new person's sign-in and consent."""
    return pair.auth.code(client_id, pkce, **{"resource": pair.resource, **parameters})


def let_in(pair: Pair, access_token: str) -> bool:
    """Whether the MCP server takes a token."""
    headers = {"Authorization": f"Bearer {access_token}"}
    return pair.auth.http.post(pair.resource, headers=headers, json={}).status_code == 400  # let in, and no message


def is_clean(answer: httpx2.Response) -> bool:
    """Whether an answer is for programs: JSON, or nothing at all."""
    return not answer.content or answer.headers["content-type"].startswith("application/json")


# Claude: claude.com/docs/connectors/building/authentication; registration again after invalid_client: the same page.


def _claudes_choice(document: dict[str, Any]) -> str:
    takes_documents = document.get("client_id_metadata_document_supported") is True
    if takes_documents and "none" in document["token_endpoint_auth_methods_supported"]:
        return "metadata document"
    return "registration" if "registration_endpoint" in document else "none"


def test_claude_comes_with_a_metadata_document_and_registers_where_documents_are_turned_off(
    pair: Pair, start_auth_server: StartAuthServer
) -> None:
    assert _claudes_choice(metadata(pair)) == "metadata document"
    without = start_auth_server(metadata_documents={"enabled": False})
    document = without.http.get(f"{without.issuer}/.well-known/oauth-authorization-server").json()
    assert _claudes_choice(document) == "registration"


def test_claude_asks_for_the_scopes_of_the_metadata_in_their_order(pair: Pair, web: DocumentHost) -> None:
    scopes = metadata(pair)["scopes_supported"]
    assert "offline_access" not in scopes
    client = web.client(
        client_name="Claude",
        redirect_uris=[CLAUDE],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="none",
    )
    pkce = Pkce()
    code = sign_in(pair, client, pkce, redirect_uri=CLAUDE, scope=" ".join(scopes))
    tokens = pair.auth.redeem(client, code, pkce, redirect_uri=CLAUDE).json()
    assert tokens["scope"].split() == scopes
    assert "refresh_token" in tokens
    assert let_in(pair, tokens["access_token"])


def test_claude_desktop_lists_a_grant_for_assertions_and_is_public_all_the_same(pair: Pair, web: DocumentHost) -> None:
    # The document of Claude Desktop, as it was published in 2026.
    client = web.client(
        client_name="Claude",
        redirect_uris=["http://localhost/callback", "http://127.0.0.1/callback"],
        grant_types=["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:jwt-bearer"],
        token_endpoint_auth_method="none",
    )
    uri, pkce = "http://localhost:53682/callback", Pkce()
    code = sign_in(pair, client, pkce, redirect_uri=uri)
    assert let_in(pair, pair.auth.redeem(client, code, pkce, redirect_uri=uri).json()["access_token"])


@pytest.mark.parametrize("at_authorize", ["", "/"])
@pytest.mark.parametrize("at_token", ["", "/"])
def test_claude_ai_registers_with_a_secret_and_names_the_resource_with_and_without_its_slash(
    pair: Pair, at_authorize: str, at_token: str
) -> None:
    # Both spellings from one sign-in: anthropics/claude-ai-mcp, and modelcontextprotocol's own advice to take both.
    client = pair.auth.register(redirect_uris=[CLAUDE], token_endpoint_auth_method="client_secret_post")
    pkce = Pkce()
    code = sign_in(pair, client.id, pkce, redirect_uri=CLAUDE, resource=pair.resource + at_authorize)
    proof = {"client_secret": client.secret, "resource": pair.resource + at_token}
    answer = pair.auth.redeem(client.id, code, pkce, redirect_uri=CLAUDE, **proof)
    assert answer.status_code == 200, answer.text
    assert let_in(pair, answer.json()["access_token"])
    again = pair.auth.refresh(client.id, answer.json()["refresh_token"], **proof)
    assert let_in(pair, again.json()["access_token"])


def test_claude_ai_registers_again_when_its_registration_is_gone(pair: Pair) -> None:
    method = {"redirect_uris": [CLAUDE], "token_endpoint_auth_method": "client_secret_post"}
    client, pkce = pair.auth.register(**method), Pkce()
    code = sign_in(pair, client.id, pkce, redirect_uri=CLAUDE)
    tokens = pair.auth.redeem(client.id, code, pkce, redirect_uri=CLAUDE, client_secret=client.secret).json()
    gone = {"Authorization": f"Bearer {client.registration_token}"}
    assert pair.auth.http.delete(client.registration_uri, headers=gone).status_code == 204
    refused = pair.auth.refresh(client.id, tokens["refresh_token"], client_secret=client.secret)
    assert (refused.status_code, refused.json()["error"]) == (401, "invalid_client")
    assert pair.auth.register(**method).id != client.id


# ChatGPT: developers.openai.com/apps-sdk/build/auth; its document: gamedevpl/www.gamedev.pl#641, operately#5164.


@pytest.mark.parametrize("preferred", [None, "private_key_jwt"])
def test_chatgpt_lists_its_methods_in_the_plural_and_signs(
    pair: Pair, web: DocumentHost, preferred: str | None
) -> None:
    signer = ClientKey.generate("RS256")
    uri = "https://chatgpt.com/connector/oauth/a1b2c3"
    client = web.client(
        client_name="ChatGPT",
        redirect_uris=[uri],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method=preferred,
        token_endpoint_auth_methods_supported=["private_key_jwt", "none"],
        jwks_uri=web.serve(web.url("jwks.json"), key_set(signer)),
    )
    assert "private_key_jwt" in metadata(pair)["token_endpoint_auth_methods_supported"]
    pkce = Pkce()
    code = sign_in(pair, client, pkce, redirect_uri=uri)
    proof = signer.credentials(client, pair.auth.issuer)
    answer = pair.auth.redeem(client, code, pkce, redirect_uri=uri, **proof)
    assert answer.status_code == 200, answer.text
    assert let_in(pair, answer.json()["access_token"])


def test_chatgpt_that_prefers_to_sign_may_not_come_without(pair: Pair, web: DocumentHost) -> None:
    client = web.client(
        token_endpoint_auth_method="private_key_jwt",
        token_endpoint_auth_methods_supported=["none", "private_key_jwt"],
        jwks_uri=web.serve(web.url("jwks.json"), key_set(ClientKey.generate("RS256"))),
    )
    pkce = Pkce()
    assert pair.auth.redeem(client, sign_in(pair, client, pkce), pkce).status_code == 401


@pytest.mark.parametrize(
    "uri", ["https://chatgpt.com/connector/oauth/a1b2c3", "https://chatgpt.com/connector_platform_oauth_redirect"]
)
def test_chatgpt_registers_where_it_has_no_document(pair: Pair, uri: str) -> None:
    client, pkce = pair.auth.register(client_name="ChatGPT", redirect_uris=[uri]), Pkce()
    code = sign_in(pair, client.id, pkce, redirect_uri=uri)
    assert let_in(pair, pair.auth.redeem(client.id, code, pkce, redirect_uri=uri).json()["access_token"])


# VS Code: microsoft/vscode#278512 (what it registers, and the port it falls back to), #260446 (the slash at the end).


@pytest.mark.parametrize(
    "uri", ["http://127.0.0.1:33418/", "http://127.0.0.1:59656/", "http://127.0.0.1/", "https://vscode.dev/redirect"]
)
def test_vs_code_takes_another_port_when_its_own_is_in_use(pair: Pair, uri: str) -> None:
    client = pair.auth.register(
        client_name="Visual Studio Code",
        client_uri="https://code.visualstudio.com",
        application_type="native",
        redirect_uris=[
            "https://insiders.vscode.dev/redirect",
            "https://vscode.dev/redirect",
            "http://127.0.0.1/",
            "http://127.0.0.1:33418/",
        ],
        grant_types=["authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"],
        response_types=["code"],
        token_endpoint_auth_method="none",
    )
    # Its state is an address of the editor, with percent signs in it, and must come back as it was.
    state, pkce = "vscode://dynamicauthprovider/127.0.0.1/redirect?nonce=ey%2FlnTw%3D%3D", Pkce()
    url = pair.auth.authorization_url(client.id, pkce, resource=pair.resource, redirect_uri=uri, state=state)
    callback = pair.auth.person().allow(url)
    assert callback.startswith(f"{uri}?")
    answer = parse_qs(urlsplit(callback).query)
    assert answer["state"] == [state]
    tokens = pair.auth.redeem(client.id, answer["code"][0], pkce, redirect_uri=uri).json()
    assert let_in(pair, tokens["access_token"])


# Cursor: erp-mafia/accounted#2225 and soflyy/agent-connector-for-wp#111 (its three addresses in one registration),
# better-auth/better-auth#10946 (calls itself a web application). Any address refused fails the whole registration.


@pytest.mark.parametrize(
    "uri",
    [
        "cursor://anysphere.cursor-mcp/oauth/callback",
        "https://www.cursor.com/agents/mcp/oauth/callback",
        "http://localhost:8787/callback",
    ],
)
def test_cursor_registers_three_addresses_as_a_web_application(pair: Pair, uri: str) -> None:
    client = pair.auth.register(
        client_name="Cursor",
        application_type="web",
        redirect_uris=[
            "cursor://anysphere.cursor-mcp/oauth/callback",
            "https://www.cursor.com/agents/mcp/oauth/callback",
            "http://localhost:8787/callback",
        ],
        response_types=["code"],
    )
    pkce = Pkce()
    code = sign_in(pair, client.id, pkce, redirect_uri=uri)
    assert let_in(pair, pair.auth.redeem(client.id, code, pkce, redirect_uri=uri).json()["access_token"])


def test_copilot_registers_one_port_and_comes_with_another(pair: Pair) -> None:
    # github/copilot-cli#1951
    client, pkce = pair.auth.register(redirect_uris=["http://127.0.0.1:40001/callback"]), Pkce()
    uri = "http://127.0.0.1:40002/callback"
    assert sign_in(pair, client.id, pkce, redirect_uri=uri)


# Where clients look for metadata, the MCP SDKs' order: behind the challenge's own address the resource's path behind
# the well-known part, then the root; for the authorization server RFC 8414, then OpenID Connect. Those of revision
# 2025-03-26 take the MCP server for the authorization server, and go on when they get a 404 that they can read.


@pytest.mark.parametrize("path", ["/.well-known/oauth-protected-resource/mcp", "/.well-known/oauth-protected-resource"])
def test_each_place_where_the_sdks_look_for_a_resources_metadata_has_it(pair: Pair, path: str) -> None:
    answer = pair.auth.http.get(pair.origin + path, headers={"MCP-Protocol-Version": "2025-11-25"})
    assert answer.json()["resource"] == pair.resource


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/.well-known/oauth-authorization-server/mcp"),
        ("GET", "/.well-known/oauth-authorization-server"),
        ("GET", "/.well-known/openid-configuration/mcp"),
        ("GET", "/.well-known/openid-configuration"),
        ("GET", "/mcp/.well-known/openid-configuration"),
        ("GET", "/mcp/.well-known/oauth-protected-resource"),
        ("GET", "/.well-known/oauth-protected-resource/other"),
        ("GET", "/authorize"),
        ("POST", "/register"),
        ("POST", "/token"),
        ("GET", "/favicon.ico"),
        ("GET", "/sse"),
    ],
)
def test_a_place_that_the_mcp_server_does_not_have_is_a_404_that_programs_can_read(
    pair: Pair, method: str, path: str
) -> None:
    for accept in ("application/json", "text/html,*/*"):
        answer = pair.auth.http.request(method, pair.origin + path, headers={"Accept": accept})
        assert (answer.status_code, is_clean(answer)) == (404, True), answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/.well-known/oauth-authorization-server/mcp",
        "/.well-known/openid-configuration/mcp",
        "/.well-known/oauth-protected-resource",
        "/mcp/.well-known/openid-configuration",
    ],
)
def test_a_place_that_the_authorization_server_does_not_have_is_a_404_that_programs_can_read(
    pair: Pair, path: str
) -> None:
    answer = pair.auth.http.get(pair.auth.issuer + path, headers={"Accept": "application/json"})
    assert (answer.status_code, is_clean(answer)) == (404, True), answer.text


def test_metadata_may_be_asked_for_by_head(pair: Pair) -> None:
    places = [
        f"{pair.origin}/.well-known/oauth-protected-resource/mcp",
        f"{pair.auth.issuer}/.well-known/oauth-authorization-server",
    ]
    for place in places:
        answer = pair.auth.http.head(place)
        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


def test_a_head_of_the_endpoint_finds_the_challenge(pair: Pair) -> None:
    # How a connector sees whether there is a server, before anybody signs in.
    answer = pair.auth.http.head(pair.resource)
    assert (answer.status_code, answer.content) == (401, b"")
    assert "resource_metadata=" in answer.headers["www-authenticate"]


@pytest.mark.parametrize("method", ["POST", "GET", "DELETE"])
def test_a_web_client_asks_before_it_calls_the_endpoint(pair: Pair, method: str) -> None:
    # MCP Inspector from the browser, and other clients that are web pages (WHATWG Fetch).
    wanted = "authorization,content-type,last-event-id,mcp-method,mcp-name,mcp-protocol-version,mcp-session-id"
    headers = {
        "Origin": WEB_CLIENT,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": wanted,
    }
    answer = pair.auth.http.options(pair.resource, headers=headers)
    assert answer.status_code in {200, 204}
    assert answer.headers["access-control-allow-origin"] == WEB_CLIENT
    assert method in answer.headers["access-control-allow-methods"]
    assert set(wanted.split(",")) <= {
        each.strip().lower() for each in answer.headers["access-control-allow-headers"].split(",")
    }


def test_a_web_client_may_read_the_challenge(pair: Pair) -> None:
    answer = pair.auth.http.post(pair.resource, headers={"Origin": WEB_CLIENT}, json={})
    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == WEB_CLIENT
    assert "WWW-Authenticate" in answer.headers["access-control-expose-headers"]


def test_a_client_that_names_no_redirect_uri_at_the_token_endpoint_has_its_challenge(pair: Pair) -> None:
    # OAuth 2.1 dropped the parameter, as some clients have.
    client, pkce = pair.auth.register(), Pkce()
    code = sign_in(pair, client.id, pkce)
    assert pair.auth.redeem(client.id, code, pkce, redirect_uri=None).status_code == 200
