"""A hundred notes as resources: listed in pages, read by a template."""

import base64
import binascii

from mcp.server.context import ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.exceptions import ResourceNotFoundError
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, ListResourcesResult, PaginatedRequestParams, Resource

NOTES = 100
PAGE = 20
MIME_TYPE = "text/plain"
TEMPLATE = "demo://notes/{number}"


def uri(number: int) -> str:
    """The URI of a note."""
    return TEMPLATE.format(number=number)


def text(number: int) -> str:
    """What a note says."""
    return f"This is note {number} of {NOTES}."


def describe(number: int) -> Resource:
    """A note as lists show it."""
    return Resource(uri=uri(number), name=f"note-{number}", description=f"Note {number}", mime_type=MIME_TYPE)


def number_in(note_uri: str) -> int | None:
    """The number of the note that a URI names; None if it names none."""
    number = note_uri.removeprefix("demo://notes/")
    is_one = number.isascii() and number.isdigit() and len(number) <= len(str(NOTES)) and 1 <= int(number) <= NOTES
    return int(number) if is_one and uri(int(number)) == note_uri else None


def note(number: str) -> str:
    """A note by its number, 1 to 100."""
    found = number_in(TEMPLATE.format(number=number))
    if found is None:
        raise ResourceNotFoundError(f"There is no note {number[:40]!r}; they are 1 to {NOTES}")
    return text(found)


def register(server: MCPServer) -> None:
    """Add the resources to `server`."""

    async def list_page(
        _: ServerRequestContext[object, object], params: PaginatedRequestParams | None
    ) -> ListResourcesResult:
        resources = [*(describe(number) for number in range(1, NOTES + 1)), *await server.list_resources()]
        begin = _read_cursor(params.cursor if params else None)
        end = begin + PAGE
        following = _write_cursor(end) if end < len(resources) else None
        return ListResourcesResult(resources=resources[begin:end], next_cursor=following)

    server.resource(TEMPLATE, name="note", mime_type=MIME_TYPE)(note)
    # MCPServer would list everything in one page; this replaces its handler.
    server._lowlevel_server.add_request_handler("resources/list", PaginatedRequestParams, list_page)


def _write_cursor(offset: int) -> str:
    # Opaque, so that no client counts on what is in it.
    return base64.urlsafe_b64encode(str(offset).encode()).decode()


def _read_cursor(cursor: str | None) -> int:
    if cursor is None:
        return 0
    try:
        offset = int(base64.urlsafe_b64decode(cursor.encode()))
    except (ValueError, binascii.Error):
        offset = -1
    if offset <= 0 or offset % PAGE or _write_cursor(offset) != cursor:
        raise MCPError(INVALID_PARAMS, "The cursor is none that this server gave")
    return offset
