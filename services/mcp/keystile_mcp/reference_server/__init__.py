"""The built-in MCP server: what a new installation serves until it has tools of its own."""

from mcp.server.mcpserver import MCPServer

from keystile_mcp.reference_server import tools

__all__ = ["create_server"]


def create_server(version: str) -> MCPServer:
    """Make the server with its tools.

    Args:
        version: what it says of itself.
    """
    server = MCPServer(
        "keystile-reference",
        title="Keystile reference server",
        instructions="A few small tools to try an authorised connection with.",
        version=version,
    )
    tools.register(server)
    return server
