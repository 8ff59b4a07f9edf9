"""The Python SDK's OAuth client in a release, from discovery to its end."""

import anyio
import httpx2

from tests.assistant import Assistant
from tests.e2e.site import Site


async def run_to_the_end(site: Site, client_metadata_url: str | None = None) -> Assistant:
    """Discover, sign in, call tools, refresh, revoke, and find the door shut; answers what did it.

    Args:
        site: the release; its tokens have to be short-lived.
        client_metadata_url: where the client's metadata document is; without one it registers.
    """
    with site.person() as person:
        assistant = Assistant(site, person, verify=site.tls, client_metadata_url=client_metadata_url)
        async with assistant.connected() as client:
            echoed = await client.call_tool("echo", {"text": "hello"})
            assert echoed.structured_content == {"result": "hello"}
            await anyio.sleep(site.access_token_seconds + 0.5)
            assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}
            assert assistant.sign_ins == 1
            assert len(assistant.storage.history) >= 2
    await _revoke(site, assistant)
    return assistant


async def _revoke(site: Site, assistant: Assistant) -> None:
    assert assistant.storage.client is not None
    last = assistant.storage.history[-1]
    assert last.refresh_token is not None
    async with httpx2.AsyncClient(timeout=20, verify=site.tls) as http:
        metadata = (await http.get(f"{site.issuer}/.well-known/oauth-authorization-server")).json()
        data = {"client_id": assistant.storage.client.client_id, "token": last.refresh_token}
        assert (await http.post(metadata["revocation_endpoint"], data=data)).status_code == 200
        await anyio.sleep(site.cache_seconds + 0.2)
        answer = await http.post(site.resource, headers={"Authorization": f"Bearer {last.access_token}"}, json={})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
