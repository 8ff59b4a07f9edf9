"""The Python SDK's OAuth client, through the ingress controller.

Clients that are known by a metadata document are left to tests/integration: the authorization server fetches documents
from public addresses only, and nothing that a test can set up beside a cluster has one.
"""

import anyio
import httpx2

from tests.assistant import Assistant
from tests.e2e.site import ACCESS_TOKEN_SECONDS, CACHE_SECONDS, Site


async def test_a_stock_client_registers_calls_tools_refreshes_and_is_shut_out_once_revoked(site: Site) -> None:
    with site.person() as person:
        assistant = Assistant(site, person, verify=site.tls)
        async with assistant.connected() as client:
            echoed = await client.call_tool("echo", {"text": "hello"})
            assert echoed.structured_content == {"result": "hello"}
            await anyio.sleep(ACCESS_TOKEN_SECONDS + 0.5)
            assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}
            assert assistant.sign_ins == 1
            assert len(assistant.storage.history) >= 2

    assert assistant.storage.client is not None
    last = assistant.storage.history[-1]
    assert last.refresh_token is not None
    async with httpx2.AsyncClient(timeout=20, verify=site.tls) as http:
        metadata = (await http.get(f"{site.issuer}/.well-known/oauth-authorization-server")).json()
        data = {"client_id": assistant.storage.client.client_id, "token": last.refresh_token}
        assert (await http.post(metadata["revocation_endpoint"], data=data)).status_code == 200
        await anyio.sleep(CACHE_SECONDS + 0.2)
        answer = await http.post(site.resource, headers={"Authorization": f"Bearer {last.access_token}"}, json={})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_stock_client_steps_up_when_a_tool_needs_a_scope_it_has_not(site: Site) -> None:
    with site.person() as person:
        assistant = Assistant(site, person, verify=site.tls)
        async with assistant.connected() as client:
            await client.call_tool("echo", {"text": "hello"})
            result = await client.call_tool("long_running", {"seconds": 0.05, "steps": 2})
            assert not result.is_error
        assert assistant.sign_ins == 2
