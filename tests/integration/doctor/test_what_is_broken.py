"""`keystile doctor` at a real pair with one thing broken at a time: it is found, and nothing else is a problem."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from aiohttp import web

from keystile_common.doctor.scene import Credentials
from tests.integration.doctor.conftest import MACHINE_SECRET
from tests.integration.doctor.way import Change, Passed, Way, hold

JOB = Credentials("job", MACHINE_SECRET)
RESOURCE_METADATA = "/.well-known/oauth-protected-resource"
SERVER_METADATA = ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration")
CHALLENGED = 401


def on_challenge(change: Callable[[Passed], None]) -> Change:
    def changed(passed: Passed) -> None:
        if passed.path.startswith("/mcp") and passed.status == CHALLENGED:
            change(passed)

    return changed


def header(name: str, value: str | None) -> Callable[[Passed], None]:
    def changed(passed: Passed) -> None:
        passed.headers = {each: told for each, told in passed.headers.items() if each.lower() != name}
        if value is not None:
            passed.headers[name] = value

    return changed


def status(code: int, **headers: str) -> Callable[[Passed], None]:
    def changed(passed: Passed) -> None:
        passed.status = code
        passed.headers |= {name.replace("_", "-"): value for name, value in headers.items()}

    return changed


def resource_metadata(**members: Any) -> Change:
    def changed(passed: Passed) -> None:
        if passed.path.startswith(RESOURCE_METADATA) and passed.status == 200:
            passed.change_json(**members)

    return changed


def server_metadata(**members: Any) -> Change:
    def changed(passed: Passed) -> None:
        if passed.path in SERVER_METADATA and passed.status == 200:
            passed.change_json(**members)

    return changed


def html(passed: Passed) -> None:
    passed.status, passed.body = 200, b"<!doctype html><title>Welcome</title>"
    passed.headers["Content-Type"] = "text/html"


def huge(passed: Passed) -> None:
    passed.body = b'{"x": "' + b"x" * 5_000_000 + b'"}'


def at(paths: str | tuple[str, ...], change: Callable[[Passed], None]) -> Change:
    return lambda passed: change(passed) if passed.path.startswith(paths) else None


BROKEN: dict[str, tuple[Change, str, str]] = {
    "no challenge": (on_challenge(header("www-authenticate", None)), "challenge", "resource_metadata="),
    "a challenge of another scheme": (
        on_challenge(header("www-authenticate", 'Basic realm="x"')),
        "challenge",
        "resource_metadata=",
    ),
    "no resource_metadata": (
        on_challenge(header("www-authenticate", 'Bearer scope="mcp:basic"')),
        "challenge",
        "2025-06-18",
    ),
    "another resource": (resource_metadata(resource="https://inner:8080/mcp"), "resource", "byte for byte"),
    "no resource": (resource_metadata(resource=None), "resource", "Put it in"),
    "no authorization server": (resource_metadata(authorization_servers=[]), "authorization-servers", "a list"),
    "authorization servers as text": (
        resource_metadata(authorization_servers="https://auth.example.com"),
        "authorization-servers",
        "a list",
    ),
    "another issuer": (server_metadata(issuer="https://other.example.com"), "issuer", "byte for byte"),
    "no S256": (server_metadata(code_challenge_methods_supported=["plain"]), "pkce", "must refuse"),
    "no PKCE": (server_metadata(code_challenge_methods_supported=None), "pkce", "must refuse"),
    "an endpoint of plain http": (
        server_metadata(jwks_uri="http://auth.example.com/jwks"),
        "endpoints",
        "ends TLS",
    ),
    "an endpoint that is a list": (server_metadata(jwks_uri=["x"]), "endpoints", "https URL"),
    "no token endpoint": (server_metadata(token_endpoint=None), "endpoints", "no client can do without"),
    "no code grant": (server_metadata(grant_types_supported=["implicit"]), "grant-types", "codes"),
    "resource metadata that are not there": (at(RESOURCE_METADATA, status(404)), "resource-metadata", "ingress"),
    "resource metadata that are a page": (at(RESOURCE_METADATA, html), "resource-metadata", "ingress"),
    "resource metadata without an end": (at(RESOURCE_METADATA, huge), "resource-metadata", "ingress"),
    "resource metadata in a circle": (
        at(RESOURCE_METADATA, status(302, Location=RESOURCE_METADATA)),
        "resource-metadata",
        "ingress",
    ),
    "server metadata that are not there": (at(SERVER_METADATA, status(404)), "issuer-metadata", "issuer's host"),
    "server metadata that are a page": (at(SERVER_METADATA, html), "issuer-metadata", "issuer's host"),
    "server metadata in a circle": (
        at(SERVER_METADATA, status(307, Location="/.well-known/openid-configuration")),
        "issuer-metadata",
        "issuer's host",
    ),
    "an endpoint that is not there": (at("/mcp", status(404)), "unauthenticated", "Check the path"),
    "an endpoint that sends on": (at("/mcp", status(308, Location="/mcp")), "unauthenticated", "POST into a GET"),
    "an endpoint that is down": (at("/mcp", status(502)), "unauthenticated", "log"),
    "an endpoint that is forbidden": (at("/mcp", status(403)), "unauthenticated", "must be 401"),
    "clocks that disagree": (
        lambda passed: passed.headers.update(Date=formatdate(time.time() - 300, usegmt=True)),
        "clock",
        "NTP",
    ),
    "an open redirector": (
        at("/authorize", status(302, Location="https://keystile-doctor.invalid/callback?error=x")),
        "strange-redirect",
        "open redirector",
    ),
}
# Of an endpoint that answers nobody rightly, more than one sentence is true.
ALSO = {
    "an endpoint that is not there": {"junk-token"},
    "an endpoint that sends on": {"junk-token"},
    "an endpoint that is down": {"junk-token", "other-methods"},
    "an endpoint that is forbidden": {"junk-token"},
}


@pytest.mark.parametrize("name", BROKEN)
async def test_what_is_broken_is_found_with_its_advice_and_nothing_else_is_a_problem(way: Way, name: str) -> None:
    way.change, check, advice = BROKEN[name]
    seen = await way.examine()
    assert seen.problems == {check} | ALSO.get(name, set())
    assert advice in seen[check].advice


WARNED: dict[str, tuple[Change, str, str]] = {
    "no CORS on metadata": (
        at("/.well-known", header("access-control-allow-origin", None)),
        "cors-metadata",
        "Access-Control-Allow-Origin",
    ),
    "no preflight at the token endpoint": (at("/token", status(405)), "cors-token", "OPTIONS"),
    "no preflight at registration": (
        at("/register", header("access-control-allow-origin", None)),
        "cors-registration",
        "OPTIONS",
    ),
    "content type not allowed": (
        at("/token", header("access-control-allow-headers", "authorization")),
        "cors-token",
        "OPTIONS",
    ),
    "a slash that sends on": (at("/mcp/", status(307, Location="/mcp")), "trailing-slash", "sent on"),
    "only OpenID's metadata": (at(SERVER_METADATA[0], status(404)), "issuer-metadata", "2025-06-18"),
    "a page in front of the metadata": (at(SERVER_METADATA[0], html), "issuer-metadata", "404"),
    "no form of well-known for the path": (
        at(RESOURCE_METADATA + "/mcp", status(404)),
        "resource-metadata-well-known",
        "ingress",
    ),
    "documents without public clients": (
        server_metadata(token_endpoint_auth_methods_supported=["client_secret_basic"]),
        "metadata-documents",
        "Claude",
    ),
    "no way to introduce oneself": (
        server_metadata(registration_endpoint=None, client_id_metadata_document_supported=None),
        "dynamic-registration",
        "by hand",
    ),
    "no refresh": (server_metadata(grant_types_supported=["authorization_code"]), "grant-types", "sign in again"),
    "a slash at the end of the resource": (resource_metadata(resource=None), "resource", "strict"),
}


@pytest.mark.parametrize("name", WARNED)
async def test_what_some_clients_stumble_on_is_a_warning_and_no_problem(way: Way, name: str) -> None:
    change, check, advice = WARNED[name]
    way.change = resource_metadata(resource=f"{way.url}/") if check == "resource" else change
    seen = await way.examine()
    expected = {check}
    if name.startswith("no form of well-known"):
        # The challenge names that very address.
        assert "resource-metadata" in seen.problems
    else:
        assert seen.problems == set()
    assert seen.warnings == expected
    assert advice in seen[check].advice


async def test_a_proxy_that_holds_streams_back_is_found(way: Way) -> None:
    way.is_buffering = True
    seen = await way.examine(client=JOB, timeout=1.5)
    assert seen.problems == {"streams"}
    assert "proxy_buffering off" in seen["streams"].advice


def refuse_listening(request: web.Request) -> web.Response | None:
    is_modern = request.headers.get("Mcp-Method") == "subscriptions/listen"
    return web.json_response({"error": {"code": -32601}}, status=404) if is_modern else None


async def test_streams_of_an_earlier_revision_are_looked_at_too_and_their_session_ends(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        return refuse_listening(request)

    way.replace = replace
    seen = await way.examine(client=JOB, timeout=2.0)
    assert seen.problems == set()
    assert "at once" in seen["streams"].seen
    assert way.requests.count(("GET", "/mcp")) == 2
    assert way.mcp is not None
    assert way.mcp.metric("keystile_mcp_sessions") == 0


async def test_a_server_without_streams_is_no_problem(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        is_get = request.method == "GET" and request.path == "/mcp"
        return web.Response(status=405) if is_get else refuse_listening(request)

    way.replace = replace
    seen = await way.examine(client=JOB)
    assert seen.problems == set()
    assert "offers no stream" in seen["streams"].seen


async def test_a_server_that_takes_any_token_is_found(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        return web.json_response({}) if request.headers.get("Authorization") else None

    way.replace = replace
    seen = await way.examine(other_token="of-another")
    assert seen.problems == {"junk-token", "audience"}


async def test_a_server_that_asks_nobody_for_a_token_is_found(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        return web.json_response({}) if request.path.startswith("/mcp") else None

    way.replace = replace
    seen = await way.examine()
    assert seen.problems == {"unauthenticated", "junk-token", "other-methods"}


@pytest.mark.parametrize("name", ["Host", "X-Forwarded-Host", "Forwarded"])
@pytest.mark.parametrize("place", ["metadata", "challenge"])
async def test_links_made_of_what_a_request_says_are_found(way: Way, name: str, place: str) -> None:
    def change(passed: Passed) -> None:
        forged = passed.request.headers.get(name, "")
        if "forged" in forged and place == "metadata" and passed.path.startswith("/.well-known"):
            passed.change_json(jwks_uri=f"https://{forged}/jwks")
        if "forged" in forged and place == "challenge" and passed.status == CHALLENGED:
            passed.headers["WWW-Authenticate"] = f'Bearer resource_metadata="https://{forged}/x"'

    way.change = change
    seen = await way.examine()
    assert seen.problems == {"forged-host"}


async def test_a_proxy_that_lets_no_large_request_through_is_found(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        if int(request.headers.get("Content-Length", "0")) > 500_000:
            return web.Response(status=413)
        return web.Response(status=431) if sum(map(len, request.headers.values())) > 8_000 else None

    way.replace = replace
    seen = await way.examine()
    assert seen.problems == set()
    assert seen.warnings == {"large-body", "large-header"}


async def test_a_machine_that_does_not_get_a_token_is_told_why_and_never_its_secret(way: Way) -> None:
    seen = await way.examine(client=Credentials("job", "not-the-secret"))
    assert seen.problems == {"token"}
    assert "invalid_client" in seen["token"].seen
    assert "not-the-secret" not in seen.text


async def test_a_wrong_secret_for_introspection_is_found(way: Way) -> None:
    seen = await way.examine(introspect_as=Credentials("mcp", "not-the-secret"))
    assert seen.problems == {"introspection"}
    assert "401" in seen["introspection"].seen


async def test_a_secret_goes_to_no_server_that_names_another_issuer(way: Way) -> None:
    way.change = server_metadata(issuer="https://other.example.com")
    await way.examine(client=JOB, introspect_as=Credentials("mcp", "secret"), register=True)
    assert {path for method, path in way.requests if method == "POST"} <= {"/mcp", "/mcp/"}


@pytest.mark.parametrize("endpoint", ["token_endpoint", "introspection_endpoint"])
async def test_a_secret_does_not_travel_in_plain_text(way: Way, endpoint: str) -> None:
    way.change = server_metadata(**{endpoint: "http://auth.example.com/x"})
    seen = await way.examine(client=JOB, introspect_as=JOB, timeout=1.0)
    check = "token" if endpoint == "token_endpoint" else "introspection"
    assert "plain http" in seen[check].seen


async def test_an_authorization_server_that_needs_no_challenge_is_found(way: Way) -> None:
    def change(passed: Passed) -> None:
        if passed.path == "/authorize" and "code_challenge_method" not in passed.request.query:
            passed.headers["Location"] = "http://127.0.0.1:49152/callback?code=abc"

    way.change = change
    seen = await way.examine(register=True)
    assert seen.problems == {"pkce-required"}


async def test_an_authorization_server_that_knows_one_spelling_of_the_resource_is_found(way: Way) -> None:
    def change(passed: Passed) -> None:
        if passed.path == "/authorize" and passed.request.query.get("resource", "").endswith("/"):
            passed.headers["Location"] = "http://127.0.0.1:49152/callback?error=invalid_target"

    async def replace(request: web.Request) -> web.Response | None:
        form = await request.post() if request.path == "/token" else {}
        slash = str(form.get("resource", "")).endswith("/")
        return web.json_response({"error": "invalid_target"}, status=400) if slash else None

    way.change, way.replace = change, replace
    seen = await way.examine(register=True, client=JOB)
    assert seen.problems == {"resource-parameter", "token-resource"}


async def test_a_registration_that_is_refused_is_found(way: Way) -> None:
    async def replace(request: web.Request) -> web.Response | None:
        is_registration = request.method == "POST" and request.path == "/register"
        return web.json_response({"error": "access_denied"}, status=403) if is_registration else None

    way.replace = replace
    seen = await way.examine(register=True)
    assert seen.problems == {"registration"}
    assert "access_denied" in seen["registration"].seen


@pytest.mark.parametrize("way_out", ["none", "refused"])
async def test_a_client_that_stays_is_named_so_that_somebody_deletes_it(way: Way, way_out: str) -> None:
    def change(passed: Passed) -> None:
        if passed.path == "/register" and passed.status == 201 and way_out == "none":
            passed.change_json(registration_client_uri=None)
        if passed.request.method == "DELETE" and passed.path.startswith("/register/"):
            passed.status = 403

    way.change = change
    seen = await way.examine(register=True)
    assert seen.problems == set()
    assert "by hand" in seen["registration"].advice


async def test_servers_that_are_slow_without_an_end_cost_no_more_than_their_time(way: Way) -> None:
    async def drip(request: web.Request) -> web.StreamResponse | None:
        if request.path.startswith("/mcp"):
            return None
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while True:
            await response.write(b" ")
            await asyncio.sleep(0.05)

    way.replace = drip
    started = time.monotonic()
    seen = await way.examine(timeout=0.5)
    assert time.monotonic() - started < 10
    assert seen.problems == {"resource-metadata"}
    assert "did not answer within" in seen["resource-metadata"].seen


async def test_a_server_that_says_nothing_is_a_problem_and_no_crash(way: Way) -> None:
    way.replace = hold
    seen = await way.examine(timeout=0.3)
    assert seen.problems == {"unauthenticated", "resource-metadata"}


async def test_what_a_server_sends_cannot_write_to_the_terminal_nor_show_a_token(way: Way) -> None:
    token = "a-token-that-nobody-may-see"
    way.change = resource_metadata(resource=f"https://x/\x1b[2J\u202e{token}" + "y" * 5000)
    seen = await way.examine(token=token)
    assert "\x1b" not in seen.text
    assert "\u202e" not in seen.text
    assert token not in seen.text
    assert len(seen["resource"].seen) <= 400
