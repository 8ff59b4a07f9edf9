"""Moving from one authorization server to another: tokens of the old one are honoured for a while, each as its own."""

import datetime
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from keystile_mcp.access_token_claims import read_jwt
from keystile_mcp.settings import McpSettings
from tests.integration.mcp.providers import (
    GENERIC,
    KEYCLOAK,
    RESOURCE,
    ProviderIssuer,
    provider_issuer,
)
from tests.integration.mcp.resource_server import (
    CLIENT_SECRET,
    ResourceServer,
    ScriptedAuthorizationServer,
    authorization_server,
    opaque_token,
    resource_server,
)

LATER = "2999-01-01"


@dataclass(frozen=True)
class Move:
    """A server that trusts a new Keycloak, the Keystile of before with opaque tokens, and another one with JWTs."""

    server: ResourceServer
    keycloak: ProviderIssuer
    keystile: ScriptedAuthorizationServer
    older: ProviderIssuer


@pytest.fixture
async def move() -> AsyncIterator[Move]:
    async with AsyncExitStack() as stack:
        keycloak = await stack.enter_async_context(provider_issuer(KEYCLOAK.path))
        keystile = await stack.enter_async_context(authorization_server())
        older = await stack.enter_async_context(provider_issuer(""))
        keystile.resource = RESOURCE
        introspection = {"client_id": "tools", "client_secret": CLIENT_SECRET}
        trusted = [
            {"issuer": keystile.issuer, "until": LATER, "introspection": introspection},
            {"issuer": older.issuer, "until": LATER, "provider": "generic", "audience": "https://old.example/mcp"},
        ]
        settings = keycloak.settings(KEYCLOAK, trusted_issuers=trusted)
        server = await stack.enter_async_context(resource_server(keycloak, **settings))
        yield Move(server, keycloak, keystile, older)


async def test_tokens_of_each_issuer_are_let_through_as_its_own(move: Move) -> None:
    opaque = move.keystile.issue(aud=RESOURCE)
    signed = move.older.access_token(GENERIC, aud="https://old.example/mcp")
    for _ in range(2):
        for token in (opaque, signed, move.keycloak.access_token(KEYCLOAK)):
            assert (await move.server.call(token)).status_code == 200
    assert len(move.keystile.requests) == 1
    assert (await move.server.http.get(f"{move.server.origin}/.well-known/oauth-protected-resource/mcp")).json()[
        "authorization_servers"
    ] == [move.keycloak.issuer]


async def test_no_issuer_vouches_for_another_s_tokens(move: Move) -> None:
    # The same keys sign here and there, so all that keeps them apart is whose token it says it is.
    as_keycloak_has_it = move.keycloak.access_token(KEYCLOAK, iss=move.older.issuer)
    wrong_audience = move.older.access_token(GENERIC)
    unknown = move.older.access_token(GENERIC, iss="https://evil.example")
    nameless = move.older.access_token(GENERIC, iss=7)
    for token in (as_keycloak_has_it, wrong_audience, unknown, nameless):
        assert (await move.server.call(token)).status_code == 401
    assert (await move.server.call(move.keystile.issue(aud=RESOURCE, iss=move.keycloak.issuer))).status_code == 200
    assert move.keycloak.requests == []


async def test_a_token_is_shown_to_no_issuer_but_its_own(move: Move) -> None:
    other_algorithm = move.keycloak.sign(KEYCLOAK, {"typ": "JWT"}, KEYCLOAK.claims, alg="RS512")
    for token in (other_algorithm, "eyJhbGciOiJub25lIn0.e30.", "somebody-else's-opaque-token", "a.b.c"):
        assert (await move.server.call(token)).status_code in {400, 401}
    assert move.keystile.requests == []
    assert (await move.server.call(opaque_token())).status_code == 401
    assert len(move.keystile.requests) == 1


async def test_an_older_issuer_that_is_away_is_503_for_its_own_tokens_and_holds_nothing_back(move: Move) -> None:
    move.keystile.behaviour = _broken
    assert (await move.server.http.get(f"{move.server.origin}/readyz")).status_code == 200
    assert (await move.server.call(opaque_token())).status_code == 503
    assert (await move.server.call(move.keycloak.access_token(KEYCLOAK))).status_code == 200


async def test_tokens_of_an_older_issuer_end_with_its_day() -> None:
    async with authorization_server() as keystile, provider_issuer("") as older, provider_issuer(KEYCLOAK.path) as new:
        today = datetime.datetime.now(datetime.UTC).date()
        introspection = {"client_id": "tools", "client_secret": CLIENT_SECRET}
        trusted = [
            {"issuer": keystile.issuer, "until": today, "introspection": introspection},
            {"issuer": older.issuer, "until": today, "provider": "generic"},
        ]
        async with resource_server(new, **new.settings(KEYCLOAK, trusted_issuers=trusted)) as server:
            assert (await server.call(keystile.issue(aud=RESOURCE))).status_code == 401
            assert (await server.call(older.access_token(GENERIC))).status_code == 401
            assert server.metric("keystile_token_validations_total", method="jwks", result="expired") == 2


def test_a_token_lives_no_longer_than_its_issuer_is_trusted() -> None:
    trusted = [{"issuer": "https://old.example", "provider": "generic", "until": "2027-03-01"}]
    settings = McpSettings.model_validate(
        {
            "resource": RESOURCE,
            "authorization_server": "https://id.example/realms/new",
            "provider": "keycloak",
            "trusted_issuers": trusted,
        }
    )
    main, old = settings.issuers
    first_of_march = datetime.datetime(2027, 3, 1, tzinfo=datetime.UTC).timestamp()
    assert (main.until, old.until) == (None, first_of_march)
    claims: dict[str, Any] = {"iss": "https://old.example", "aud": RESOURCE, "sub": "a", "client_id": "c", "iat": 1}
    assert read_jwt({**claims, "exp": first_of_march + 9}, old).expires_at == first_of_march
    assert read_jwt({**claims, "exp": first_of_march + 9}, replace(old, until=None)).expires_at == first_of_march + 9


async def _broken(*_: Any) -> Any:
    raise ConnectionError
