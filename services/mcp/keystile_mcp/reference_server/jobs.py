"""A tool that takes its time."""

from typing import Annotated

import anyio
from mcp.server.mcpserver import Context, MCPServer
from pydantic import Field


async def long_running(
    context: Context,
    seconds: Annotated[float, Field(ge=0, le=300, description="How long it takes")] = 5,
    steps: Annotated[int, Field(ge=1, le=100, description="How often it reports progress")] = 5,
) -> str:
    """Work for a while and report progress. It stops when the client cancels the call or goes away."""
    for step in range(1, steps + 1):
        # A cancelled call raises here; what has to be put in order goes into `finally`.
        await anyio.sleep(seconds / steps)
        await context.report_progress(step, steps, f"Step {step} of {steps}")
    return f"Done: {steps} steps in {seconds:g} s"


def register(server: MCPServer) -> None:
    """Add the tool to `server`."""
    server.tool()(long_running)
