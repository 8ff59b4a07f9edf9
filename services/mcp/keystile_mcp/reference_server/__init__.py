"""The built-in MCP server: what a new installation serves until it has tools of its own, and an example to copy.

One file a noun. A file adds what it has by its function `register`.
"""

from mcp.server.mcpserver import MCPServer
from mcp.server.request_state import RequestStateSecurity

from keystile_mcp.reference_server import (
    apps,
    completions,
    contents,
    jobs,
    logs,
    prompts,
    questions,
    resources,
    subscriptions,
    tools,
)

__all__ = ["create_server"]


def create_server(version: str, *, account_url: str, request_state: RequestStateSecurity) -> MCPServer:
    """Make the server with all that it has.

    Args:
        version: what it says of itself.
        account_url: where users see and end their connections.
        request_state: how `requestState` is sealed, which a client of revision 2026-07-28 carries between the rounds
            of a call.
    """
    server = MCPServer(
        "keystile-reference",
        title="Keystile reference server",
        instructions="Small tools, resources and prompts to try an authorised connection with.",
        version=version,
        extensions=[apps.make()],
        request_state_security=request_state,
    )
    tools.register(server)
    jobs.register(server)
    contents.register(server)
    questions.register(server, account_url)
    logs.register(server)
    resources.register(server)
    subscriptions.register(server)
    prompts.register(server)
    completions.register(server)
    return server
