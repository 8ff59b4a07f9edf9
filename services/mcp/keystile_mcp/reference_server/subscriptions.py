"""News of the notes, for whoever asked for them.

Clients of 2026-07-28 open a stream (`subscriptions/listen`), which the SDK serves. Those of older revisions name a
resource (`resources/subscribe`) and hear of it on their session's stream; here is remembered who did.
"""

from weakref import WeakKeyDictionary

from mcp.server.connection import Connection
from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import Context, MCPServer
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, EmptyResult, SubscribeRequestParams, UnsubscribeRequestParams

from keystile_mcp.reference_server import resources
from keystile_mcp.reference_server.contents import NoteNumber

RequestContext = ServerRequestContext[object, object]


class Subscribers:
    """Which sessions want news of which note; a session that ends is forgotten with its connection."""

    def __init__(self) -> None:
        self._notes: WeakKeyDictionary[Connection, set[str]] = WeakKeyDictionary()

    async def subscribe(self, context: RequestContext, params: SubscribeRequestParams) -> EmptyResult:
        """Serve `resources/subscribe`. Only notes can be named, so no session is remembered for more than those."""
        if resources.number_in(params.uri) is None:
            raise MCPError(INVALID_PARAMS, "There is no news of this resource", {"uri": params.uri})
        self._notes.setdefault(_connection(context), set()).add(params.uri)
        return EmptyResult()

    async def unsubscribe(self, context: RequestContext, params: UnsubscribeRequestParams) -> EmptyResult:
        """Serve `resources/unsubscribe`."""
        self._notes.get(_connection(context), set()).discard(params.uri)
        return EmptyResult()

    async def tell(self, uri: str) -> None:
        """Tell everyone who wants to know that the resource has changed."""
        for connection in [connection for connection, notes in self._notes.items() if uri in notes]:
            await connection.send_resource_updated(uri)


def _connection(context: RequestContext) -> Connection:
    # The SDK has no public way from a request to its session.
    return context.session._connection


def register(server: MCPServer) -> None:
    """Add the tool and the methods to `server`."""
    subscribers = Subscribers()

    async def touch_note(context: Context, number: NoteNumber = 1) -> str:
        """Say that a note has changed, to every client of this server process that wants to know."""
        uri = resources.uri(number)
        await context.notify_resource_updated(uri)
        await subscribers.tell(uri)
        return f"Whoever subscribed to {uri} was told"

    server.tool()(touch_note)
    add_handler = server._lowlevel_server.add_request_handler
    add_handler("resources/subscribe", SubscribeRequestParams, subscribers.subscribe)
    add_handler("resources/unsubscribe", UnsubscribeRequestParams, subscribers.unsubscribe)
