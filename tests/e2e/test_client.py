"""The Python SDK's OAuth client, through the ingress controller; known by a metadata document it is in test_on_site."""

from tests.assistant import Assistant
from tests.e2e.site import Site
from tests.e2e.stock_client import run_to_the_end


async def test_a_stock_client_registers_calls_tools_refreshes_and_is_shut_out_once_revoked(site: Site) -> None:
    await run_to_the_end(site)


async def test_a_stock_client_steps_up_when_a_tool_needs_a_scope_it_has_not(site: Site) -> None:
    with site.person() as person:
        assistant = Assistant(site, person, verify=site.tls)
        async with assistant.connected() as client:
            await client.call_tool("echo", {"text": "hello"})
            result = await client.call_tool("long_running", {"seconds": 0.05, "steps": 2})
            assert not result.is_error
        assert assistant.sign_ins == 2
