"""Keystile's MCP resource server: bearer tokens and a policy in front of the MCP SDK."""

from importlib.metadata import version

__version__ = version("keystile-mcp")

# Below the version, which it asks for.
from keystile_mcp.protection import protect
from keystile_mcp.settings import McpSettings

__all__ = ["McpSettings", "__version__", "protect"]
