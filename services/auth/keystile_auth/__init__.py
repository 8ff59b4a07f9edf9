"""Keystile's authorization server: signs users in, issues and manages tokens for MCP servers."""

from importlib.metadata import version

__version__ = version("keystile-auth")
