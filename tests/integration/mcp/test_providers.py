"""Tokens of the providers that people have: the access token of each is let through, and nothing else of its is."""

import time
from collections.abc import AsyncIterator
from typing import Any

import pytest

from keystile_mcp import token_info
from keystile_mcp.settings import McpSettings
from tests.integration.mcp.providers import (
    GENERIC,
    KEYCLOAK,
    LEFT_OUT,
    OKTA,
    RESOURCE,
    SHAPES,
    TENANT,
    ProviderIssuer,
    Shape,
    provider_issuer,
)
from tests.integration.mcp.resource_server import ResourceServer, resource_server

GOOGLE: dict[str, Any] = {
    "provider": "google",
    "resource": RESOURCE,
    "audience": "407.apps.googleusercontent.com",
    "scopes": {"openid": "Sign in", "https://www.googleapis.com/auth/userinfo.email": "Your address"},
    "required_scopes": ["openid"],
    "policy": {"long_running": ["https://www.googleapis.com/auth/userinfo.email"]},
}


@pytest.fixture(params=SHAPES)
def shape(request: pytest.FixtureRequest) -> Shape:
    return SHAPES[request.param]


@pytest.fixture
async def issuer(shape: Shape) -> AsyncIterator[ProviderIssuer]:
    async with provider_issuer(shape.path) as issuer:
        yield issuer


@pytest.fixture
async def server(issuer: ProviderIssuer, shape: Shape) -> AsyncIterator[ResourceServer]:
    async with resource_server(issuer, **issuer.settings(shape)) as server:
        yield server


def refusals(server: ResourceServer, result: str, method: str = "jwks") -> float:
    return server.metric("keystile_token_validations_total", method=method, result=result)


async def test_an_access_token_is_let_through_with_its_subject_client_and_scopes(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    answer = await server.call(issuer.access_token(shape), "long_running", seconds=0)
    assert answer.status_code == 200, answer.text
    actor = server.audit[-1]["actor"]
    assert (actor["sub"], actor["client_id"]) == shape.principal


async def test_an_id_token_is_refused_though_its_audience_fits(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    assert (await server.call(issuer.id_token(shape))).status_code == 401
    marked = issuer.access_token(shape, at_hash="MTIzNDU2Nzg5MDEyMzQ1Ng")
    assert (await server.call(marked)).status_code == 401
    assert refusals(server, "wrong_type") == 2
    # Nobody's keys were asked for.
    assert issuer.asked == []


async def test_a_token_that_is_bound_to_a_key_is_refused(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    assert (await server.call(issuer.access_token(shape, cnf={"jkt": "x"}))).status_code == 401
    assert refusals(server, "unsupported") == 1


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"aud": "https://other.example/mcp", "client_id": "another"}, "wrong_audience"),
        ({"iss": "https://evil.example"}, "wrong_issuer"),
        ({"iss": None}, "wrong_issuer"),
        ({"iss": ["ISSUER"]}, "wrong_issuer"),
        ({"exp": -5}, "expired"),
        ({"exp": LEFT_OUT}, "malformed"),
        ({"exp": "soon"}, "malformed"),
        ({"exp": 10**11 * 9}, "malformed"),
        ({"sub": LEFT_OUT}, "malformed"),
        ({"sub": "a\u202eb", "oid": "a\u202eb", "uid": "a\u202eb"}, "malformed"),
        ({"aud": [{"not": "text"}]}, "wrong_audience"),
        ({"iat": "today"}, "malformed"),
    ],
)
async def test_what_is_not_for_us_or_not_whole_is_refused(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape, changes: dict[str, Any], result: str
) -> None:
    assert (await server.call(issuer.access_token(shape, **changes))).status_code == 401
    assert refusals(server, result) == 1


async def test_another_algorithm_or_key_is_refused(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    other = issuer.sign(shape, shape.header, shape.claims, alg="RS512")
    assert (await server.call(other)).status_code == 401
    assert refusals(server, "unsupported") == 1
    text = issuer.access_token(shape)
    assert (await server.call(text[:-8] + ("AAAAAAAA" if text[-8:] != "AAAAAAAA" else "BBBBBBBB"))).status_code == 401


async def test_a_scope_too_little_is_403_with_every_scope_as_clients_ask_for_it(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    few = issuer.access_token(shape, **shape.few)
    assert (await server.call(few)).status_code == 200
    answer = await server.call(few, "long_running", seconds=0)
    assert answer.status_code == 403
    needed = f'scope="{shape.prefix}mcp:basic {shape.prefix}mcp:jobs"'
    assert needed in answer.headers["www-authenticate"]


async def test_the_metadata_name_the_provider_and_its_scopes(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    metadata = (await server.http.get(f"{server.origin}/.well-known/oauth-protected-resource/mcp")).json()
    assert metadata["authorization_servers"] == [issuer.issuer]
    assert metadata["scopes_supported"] == [f"{shape.prefix}mcp:basic", f"{shape.prefix}mcp:jobs"]


@pytest.mark.parametrize("shape", [SHAPES["entra"], SHAPES["entra, version 1"]], ids=["version 2", "version 1"])
async def test_a_token_of_another_tenant_is_refused(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape
) -> None:
    other = "9188040d-6c67-4c5b-b112-36a304b66dad"
    assert (await server.call(issuer.access_token(shape, tid=other))).status_code == 401
    foreign = issuer.access_token(shape, iss=f"https://sts.windows.net/{other}/", tid=TENANT)
    assert (await server.call(foreign)).status_code == 401
    assert refusals(server, "wrong_issuer") == 2


@pytest.mark.parametrize("shape", [SHAPES["auth0"]], ids=["auth0"])
async def test_permissions_count_only_where_the_settings_say_so(issuer: ProviderIssuer, shape: Shape) -> None:
    token = issuer.access_token(shape, scope=LEFT_OUT, permissions=["mcp:basic"])
    async with resource_server(issuer, **issuer.settings(shape)) as server:
        assert (await server.call(token)).status_code == 403
    async with resource_server(issuer, **issuer.settings(shape, scope_claim="permissions")) as server:
        assert (await server.call(token)).status_code == 200


@pytest.mark.parametrize("shape", [SHAPES["keycloak, client roles"], SHAPES["keycloak, realm roles"]], ids=["c", "r"])
@pytest.mark.parametrize("access", [7, {"roles": 7}, {RESOURCE: 7}, {RESOURCE: {"roles": [7]}, "roles": [7]}])
async def test_roles_that_are_none_are_refused(
    server: ResourceServer, issuer: ProviderIssuer, shape: Shape, access: Any
) -> None:
    token = issuer.access_token(shape, realm_access=access, resource_access=access)
    assert (await server.call(token)).status_code in {401, 403}


INTROSPECTED = {
    # https://www.keycloak.org/securing-apps/oidc-layers, "Token Introspection endpoint": the claims, and these.
    "keycloak": (KEYCLOAK, {**KEYCLOAK.claims, "client_id": "cli", "username": "alice", "token_type": "Bearer"}),
    # https://developer.okta.com/docs/api/openapi/okta-oauth/oauth/tag/CustomAS/, introspect
    "okta": (
        OKTA,
        {
            "scope": "mcp:basic mcp:jobs",
            "username": "alice@example.com",
            "exp": 600,
            "iat": "NOW",
            "sub": "alice@example.com",
            "aud": "api://default",
            "iss": "ISSUER",
            "jti": "AT.1",
            "token_type": "Bearer",
            "client_id": "0oabv6kx4qq6h1U5l0h7",
            "uid": "00uid4BxXw6I6TV4m0g3",
        },
    ),
    # RFC 7662 section 2.2
    "generic": (GENERIC, {**GENERIC.claims, "username": "alice"}),
}


@pytest.mark.parametrize("name", INTROSPECTED)
async def test_tokens_are_introspected_where_the_metadata_say(name: str) -> None:
    shape, claims = INTROSPECTED[name]
    async with provider_issuer(shape.path) as issuer:
        more = issuer.settings(shape, validation="introspection")
        async with resource_server(issuer, **more) as server:

            def issue(**changes: Any) -> str:
                values = {**claims, **changes}
                return issuer.issue(**{each: issuer.value(value) for each, value in values.items()})

            good = issue()
            assert (await server.http.get(f"{server.origin}/readyz")).status_code == 200
            assert (await server.call(good, "long_running", seconds=0)).status_code == 200
            actor = server.audit[-1]["actor"]
            assert (actor["sub"], actor["client_id"]) == shape.principal
            assert (await server.call(issue(aud="https://other.example"))).status_code == 401
            assert (await server.call(issue(iss="https://evil.example"))).status_code == 401
            assert (await server.call(issue(cnf={"jkt": "x"}))).status_code == 401
            assert (await server.call(issue(at_hash="x"))).status_code == 401
            unknown = issue(typ="ID", token_type=None, scope=None)
            assert (await server.call(unknown)).status_code == 401
            for broken in ({"exp": None}, {"exp": "soon"}, {"sub": None, "uid": None, "azp": None, "client_id": None}):
                assert (await server.call(issue(**broken))).status_code == 503


async def test_without_an_introspection_endpoint_nothing_is_said() -> None:
    async with provider_issuer(KEYCLOAK.path) as issuer:
        issuer.metadata = {"introspection_endpoint": "http://elsewhere.example/introspect"}
        settings = issuer.settings(KEYCLOAK, validation="introspection")
        async with resource_server(issuer, **settings) as server:
            ready = await server.http.get(f"{server.origin}/readyz")
            assert "no https introspection_endpoint" in ready.text
            assert (await server.call(issuer.issue())).status_code == 503
            assert issuer.requests == []


@pytest.fixture
async def google() -> AsyncIterator[ProviderIssuer]:
    async with provider_issuer("") as issuer:
        yield issuer


@pytest.fixture
async def google_server(google: ProviderIssuer) -> AsyncIterator[ResourceServer]:
    at = {"url": f"{google.issuer}/tokeninfo"}
    async with resource_server(google, **GOOGLE, introspection=at) as server:
        yield server


def google_token(google: ProviderIssuer, **changes: Any) -> str:
    """https://developers.google.com/identity/protocols/oauth2 and googleapis/google-auth-library-nodejs, TokenInfo."""
    answer = {
        "azp": "407.apps.googleusercontent.com",
        "aud": "407.apps.googleusercontent.com",
        "sub": "110248495921238986420",
        "scope": "openid https://www.googleapis.com/auth/userinfo.email",
        "exp": str(int(time.time()) + 600),
        "expires_in": "600",
        "email": "alice@example.com",
        "email_verified": "true",
        "access_type": "online",
    } | changes
    token = f"ya29.a0Af{len(google.token_info)}"
    google.token_info[token] = {name: value for name, value in answer.items() if value is not LEFT_OUT}
    return token


async def test_google_s_tokeninfo_is_asked_about_its_opaque_tokens(
    google: ProviderIssuer, google_server: ResourceServer
) -> None:
    token = google_token(google)
    assert (await google_server.http.get(f"{google_server.origin}/readyz")).status_code == 200
    assert (await google_server.call(token, "long_running", seconds=0)).status_code == 200
    actor = google_server.audit[-1]["actor"]
    assert (actor["sub"], actor["client_id"]) == ("110248495921238986420", "407.apps.googleusercontent.com")
    # Once, and the token is in no address.
    assert google.asked == ["/tokeninfo", "/tokeninfo"]
    few = await google_server.call(google_token(google, scope="openid"), "long_running", seconds=0)
    assert few.status_code == 403
    assert "openid https://www.googleapis.com/auth/userinfo.email" in few.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"aud": "408.apps.googleusercontent.com"}, 401),
        ({"azp": LEFT_OUT}, 401),
        ({"at_hash": "x"}, 401),
        ({"exp": "1"}, 401),
        ({"exp": "never"}, 503),
        ({"exp": LEFT_OUT}, 503),
    ],
)
async def test_what_google_says_of_other_tokens_is_refused(
    google: ProviderIssuer, google_server: ResourceServer, changes: dict[str, Any], status: int
) -> None:
    assert (await google_server.call(google_token(google, **changes))).status_code == status


async def test_google_is_never_asked_about_an_id_token(google: ProviderIssuer, google_server: ResourceServer) -> None:
    claims = {"iss": "https://accounts.google.com", "aud": GOOGLE["audience"], "sub": "1", "exp": 600, "azp": "407"}
    token = google.sign(GENERIC, {"typ": "JWT"}, claims)
    assert (await google_server.call(token)).status_code == 401
    assert google.asked == []


async def test_an_address_is_a_name_only_where_google_verified_it() -> None:
    claims = {"azp": "407", "aud": "407", "sub": "1", "scope": "openid", "exp": "1900000000", "email": "a@example.com"}
    (issuer,) = McpSettings.model_validate({"authorization_server": "https://accounts.google.com", **GOOGLE}).issuers
    for verified, name in (("true", "a@example.com"), ("false", None), (True, "a@example.com"), (None, None)):
        found = token_info.read({**claims, "email_verified": verified}, issuer)
        assert found is not None
        assert found.username == name


@pytest.mark.parametrize(
    ("status", "body"), [(200, ""), (200, "[]"), (200, "nonsense"), (400, "{}"), (400, "x"), (500, "{}"), (429, "{}")]
)
async def test_what_is_no_answer_of_google_s_is_503(
    google: ProviderIssuer, google_server: ResourceServer, status: int, body: str
) -> None:
    google.token_info_answer = (status, body)
    assert (await google_server.call("ya29.a0Af")).status_code == 503


async def test_a_google_that_is_away_is_503() -> None:
    async with provider_issuer("") as google:
        at = {"url": "http://127.0.0.1:1/tokeninfo"}
        async with resource_server(google, **GOOGLE, introspection=at) as server:
            assert (await server.call("ya29.a0Af")).status_code == 503
