"""Notes: an MCP server with no OAuth code in it. Keystile asks for the scopes, see values.yaml."""

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer

server = MCPServer("notes")
notes: dict[str, list[str]] = {}


def _owner() -> str:
    token = get_access_token()  # Keystile checked it; here it only says who calls
    return token.subject or token.client_id if token else "nobody"


@server.tool()
def list_notes() -> list[str]:
    """List your notes."""
    return notes.get(_owner(), [])


@server.tool()
def add_note(text: str) -> int:
    """Add a note; answers how many there are."""
    notes.setdefault(_owner(), []).append(text)
    return len(notes[_owner()])


@server.tool()
def delete_notes() -> None:
    """Delete all your notes."""
    notes.pop(_owner(), None)
