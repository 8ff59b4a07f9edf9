"""Looks at an MCP server from outside, as a client meets it, and says what a client would stumble on.

It works against any MCP server and any authorization server: what it cannot see, it says it cannot tell.
"""
