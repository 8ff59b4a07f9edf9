"""Protected resource metadata (RFC 9728) and the routes that need no token."""

import asyncio

import pytest
from aiohttp import web

from tests.integration.mcp.resource_server import ResourceServer, ScriptedAuthorizationServer, resource_server

FORMS = ["/.well-known/oauth-protected-resource", "/.well-known/oauth-protected-resource/mcp"]


@pytest.mark.parametrize("path", FORMS)
async def test_both_well_known_forms_serve_the_metadata(server: ResourceServer, path: str) -> None:
    response = await server.http.get(server.origin + path)
    assert response.status_code == 200
    assert response.json() == {
        "resource": server.url,
        "resource_name": "Keystile reference server",
        "authorization_servers": [server.authorization_server.issuer],
        "scopes_supported": ["mcp:basic", "mcp:jobs"],
        "bearer_methods_supported": ["header"],
    }


async def test_the_metadata_name_the_documentation_where_it_is_set(
    scripted: ScriptedAuthorizationServer,
) -> None:
    async with resource_server(scripted, resource_documentation="https://docs.example.com/") as server:
        response = await server.http.get(server.origin + FORMS[0])
    assert response.json()["resource_documentation"] == "https://docs.example.com/"


@pytest.mark.parametrize("path", FORMS)
async def test_any_web_page_may_read_the_metadata(server: ResourceServer, path: str) -> None:
    preflight = await server.http.options(
        server.origin + path,
        headers={
            "Origin": "https://inspector.example.com",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "mcp-protocol-version",
        },
    )
    assert preflight.status_code == 200
    assert "mcp-protocol-version" in preflight.headers["access-control-allow-headers"]
    response = await server.http.get(server.origin + path, headers={"Origin": "https://inspector.example.com"})
    assert response.headers["access-control-allow-origin"] == "*"
    assert "access-control-allow-credentials" not in response.headers


async def test_the_challenge_leads_to_the_metadata(server: ResourceServer) -> None:
    challenge = (await server.call(None)).headers["www-authenticate"]
    address = challenge.split('resource_metadata="')[1].split('"')[0]
    assert (await server.http.get(address)).json()["resource"] == server.url


async def test_the_root_says_where_the_endpoint_and_its_metadata_are(server: ResourceServer) -> None:
    answer = (await server.http.get(server.origin + "/")).json()
    assert answer["mcp_endpoint"] == server.url
    assert answer["resource_metadata"] == server.origin + FORMS[1]


async def test_it_is_alive_without_asking_anybody(server: ResourceServer) -> None:
    assert (await server.http.get(server.origin + "/healthz")).status_code == 200
    assert not server.authorization_server.requests


async def test_it_is_ready_once_introspection_has_worked_and_stays_so(server: ResourceServer) -> None:
    async def refuse(*_: object) -> web.StreamResponse:
        return web.Response(status=500)

    scripted = server.authorization_server
    scripted.behaviour = refuse
    response = await server.http.get(server.origin + "/readyz")
    assert response.status_code == 503
    assert "introspection has not worked yet" in response.json()["problems"]["authorization_server"]
    scripted.behaviour = None
    assert (await server.http.get(server.origin + "/readyz")).status_code == 200
    scripted.behaviour = refuse
    assert (await server.http.get(server.origin + "/readyz")).status_code == 200


async def test_a_flood_of_probes_asks_the_authorization_server_once_at_a_time(server: ResourceServer) -> None:
    async def fail_slowly(*_: object) -> web.StreamResponse:
        await asyncio.sleep(0.3)
        return web.Response(status=500)

    server.authorization_server.behaviour = fail_slowly
    probes = await asyncio.gather(*(server.http.get(server.origin + "/readyz") for _ in range(50)))
    assert {probe.status_code for probe in probes} == {503}
    assert len(server.authorization_server.requests) == 1


async def test_a_page_of_an_allowed_origin_can_read_the_challenge(scripted: ScriptedAuthorizationServer) -> None:
    page = "http://localhost:6274"
    async with resource_server(scripted, allowed_origins=[page]) as server:
        preflight = await server.http.options(
            server.url,
            headers={
                "Origin": page,
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,mcp-protocol-version",
            },
        )
        assert preflight.status_code == 200
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        response = await server.http.post(server.url, headers={"Origin": page}, json={})
        assert response.status_code == 401
        assert response.headers["access-control-allow-origin"] == page
        assert "WWW-Authenticate" in response.headers["access-control-expose-headers"]
        stranger = await server.http.post(server.url, headers={"Origin": "https://evil.example"}, json={})
        assert "access-control-allow-origin" not in stranger.headers
