"""Log messages to the client, as it wants them.

Clients of 2026-07-28 name a level with a request; those of older revisions set one for their session
(`logging/setLevel`), and get everything until then.
"""

from typing import Annotated, get_args

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp_types import (
    LOG_LEVEL_META_KEY,
    EmptyResult,
    LoggingLevel,
    LoggingMessageNotification,
    LoggingMessageNotificationParams,
    SetLevelRequestParams,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import Field

LEVELS: tuple[LoggingLevel, ...] = get_args(LoggingLevel)
"""From debug to emergency."""

_KEY = "keystile.log_level"


async def set_level(context: ServerRequestContext[object, object], params: SetLevelRequestParams) -> EmptyResult:
    """Serve `logging/setLevel`."""
    # The SDK has no public way to what is remembered for a session.
    context.session._connection.state[_KEY] = params.level
    return EmptyResult()


async def write_log(
    context: Context,
    message: Annotated[str, Field(description="What to log")],
    level: Annotated[LoggingLevel, Field(description="How important it is")] = "info",
) -> str:
    """Send the client a log message, if it wants messages of that level."""
    wanted = _wanted(context)
    if wanted is None or LEVELS.index(level) < LEVELS.index(wanted):
        return f"Not sent: the client wants {f'{wanted} and above' if wanted else 'no messages'}"
    params = LoggingMessageNotificationParams(level=level, logger="keystile-reference", data=message)
    await context.session.send_notification(LoggingMessageNotification(params=params), context.request_id)
    return "Sent"


def _wanted(context: Context) -> LoggingLevel | None:
    """The lowest level that the client wants to hear of; None if it wants to hear nothing."""
    if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
        wanted: object = (context.request_context.meta or {}).get(LOG_LEVEL_META_KEY)
    else:
        wanted = context.session._connection.state.get(_KEY, "debug")
    return next((level for level in LEVELS if level == wanted), None)


def register(server: MCPServer) -> None:
    """Add the tool and the method to `server`."""
    server.tool()(write_log)
    server._lowlevel_server.add_request_handler("logging/setLevel", SetLevelRequestParams, set_level)
