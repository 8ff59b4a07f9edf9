"""The reference server's tools."""

from typing import Annotated

import anyio
from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import ToolAnnotations
from pydantic import BaseModel, Field

READ_ONLY = ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False)


class Identity(BaseModel):
    """Who calls, as the authorization server says."""

    subject: str | None = Field(description="The user, or the client itself if it acts for no user")
    client_id: str = Field(description="The client that the user connected")
    issuer: str | None = Field(description="The authorization server")
    scopes: list[str] = Field(description="What the user allowed the client")


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


async def long_running(
    context: Context,
    seconds: Annotated[float, Field(ge=0, le=300, description="How long it takes")] = 5,
    steps: Annotated[int, Field(ge=1, le=100, description="How often it reports progress")] = 5,
) -> str:
    """Work for a while and report progress."""
    for step in range(1, steps + 1):
        await anyio.sleep(seconds / steps)
        await context.report_progress(step, steps, f"Step {step} of {steps}")
    return f"Done: {steps} steps in {seconds:g} s"


def register(server: MCPServer) -> None:
    """Add the tools to `server`."""
    server.tool(annotations=READ_ONLY)(echo)
    server.tool(annotations=READ_ONLY)(add)
    server.tool(annotations=READ_ONLY)(who_am_i)
    server.tool()(long_running)
