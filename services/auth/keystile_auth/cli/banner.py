"""What the development servers print once everything runs."""

import base64
import json
from pathlib import Path
from urllib.parse import quote

_NAME = "keystile"


def banner(issuer: str, resource: str, username: str, password: str, folder: Path, ends: str) -> str:
    """Where to point a client, how to add it to the usual ones, and how to sign in.

    Args:
        issuer: the authorization server's URL.
        resource: the MCP server's URL.
        username: of the demo user.
        password: of the demo user.
        folder: where the data is.
        ends: when what a person ends stops working.
    """
    vscode = json.dumps({"name": _NAME, "type": "http", "url": resource})
    cursor = json.dumps({"mcpServers": {_NAME: {"url": resource}}})
    link = base64.b64encode(json.dumps({"url": resource}).encode()).decode()
    return f"""
Keystile is running. Ctrl-C stops it.

  MCP server             {resource}
  Authorization server   {issuer}
  Your account           {issuer}/account
  Sign in as             {username}
  Password               {password}

Add it to your client:

  Claude Code   claude mcp add --transport http {_NAME} {resource}
                then type /mcp in Claude Code and choose {_NAME} to sign in
  VS Code       code --add-mcp '{vscode}'
  Cursor        put this in ~/.cursor/mcp.json:
                {cursor}
                or open cursor://anysphere.cursor-deeplink/mcp/install?name={_NAME}&config={quote(link)}

What you end on the account page stops working {ends}. Data, logs and audit files are in {folder};
remove it to begin anew.
"""
