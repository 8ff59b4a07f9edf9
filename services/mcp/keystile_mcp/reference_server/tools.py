"""Tools that answer at once, with structured output."""

from typing import Annotated

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


class Identity(BaseModel):
    """Who calls, as the authorization server says."""

    subject: str | None = Field(description="The user, or the client itself if it acts for no user")
    client_id: str = Field(description="The client that the user connected")
    issuer: str | None = Field(description="The authorization server")
    scopes: list[str] = Field(description="What the user allowed the client")


class TextCounts(BaseModel):
    """What a text consists of."""

    characters: int = Field(description="Unicode characters, spaces among them")
    words: int = Field(description="Runs of characters between spaces")
    lines: int = Field(description="Lines, the last one too if no line end follows it")


def echo(text: Annotated[str, Field(description="What to say back")]) -> str:
    """Say back what was said."""
    return text


def add(
    a: Annotated[float, Field(description="The first number")],
    b: Annotated[float, Field(description="The second number")],
) -> float:
    """Add two numbers."""
    return a + b


def who_am_i() -> Identity:
    """Tell who the caller is: user, client and scopes of the access token."""
    token = get_access_token()
    if token is None:
        raise RuntimeError("the reference server was reached without passing the bearer check")
    return Identity(
        subject=token.subject,
        client_id=token.client_id,
        issuer=(token.claims or {}).get("iss"),
        scopes=token.scopes,
    )


def count_text(text: Annotated[str, Field(description="The text")]) -> TextCounts:
    """Count the characters, words and lines of a text: structured output with a schema."""
    return TextCounts(characters=len(text), words=len(text.split()), lines=len(text.splitlines()))


def register(server: MCPServer) -> None:
    """Add the tools to `server`."""
    for tool in (echo, add, who_am_i, count_text):
        server.tool(annotations=READ_ONLY)(tool)
