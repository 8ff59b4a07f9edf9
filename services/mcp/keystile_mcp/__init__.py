"""Keystile's MCP resource server: bearer tokens and a policy in front of the MCP SDK."""

from importlib.metadata import version

__version__ = version("keystile-mcp")
