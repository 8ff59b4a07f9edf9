"""Tools that answer with something other than text: an image, annotations, resources."""

import struct
import zlib
from typing import Annotated, Literal

from mcp.server.mcpserver import Image, MCPServer
from mcp_types import Annotations, EmbeddedResource, ResourceLink, TextContent, TextResourceContents
from pydantic import Field

from keystile_mcp.reference_server import resources
from keystile_mcp.reference_server.tools import READ_ONLY

_PRIORITIES = {"error": 1.0, "success": 0.7, "debug": 0.3}

NoteNumber = Annotated[int, Field(ge=1, le=resources.NOTES, description="Which note")]


def tiny_image() -> Image:
    """Show an image, 16 by 16 pixels."""
    return Image(data=_png(16, (0x2F, 0x6F, 0xDE)), format="png")


def annotated_message(
    kind: Annotated[Literal["error", "success", "debug"], Field(description="What the message is about")] = "success",
) -> TextContent:
    """Say something with annotations: for whom it is, and how important."""
    annotations = Annotations(audience=["assistant" if kind == "debug" else "user"], priority=_PRIORITIES[kind])
    return TextContent(text=f"This is a message of the kind {kind}.", annotations=annotations)


def link_note(number: NoteNumber = 1) -> ResourceLink:
    """Name a note without its content, as a link that the client can read."""
    note = resources.describe(number)
    return ResourceLink(uri=note.uri, name=note.name, description=note.description, mime_type=note.mime_type)


def embed_note(number: NoteNumber = 1) -> EmbeddedResource:
    """Give a note whole, as a resource inside the answer."""
    contents = TextResourceContents(
        uri=resources.uri(number), text=resources.text(number), mime_type=resources.MIME_TYPE
    )
    return EmbeddedResource(resource=contents)


def _png(size: int, colour: tuple[int, int, int]) -> bytes:
    """A square of one colour as PNG (RFC 2083)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", size, size, 8, 2, 0, 0, 0)
    rows = (b"\0" + bytes(colour) * size) * size
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def register(server: MCPServer) -> None:
    """Add the tools to `server`."""
    for tool in (tiny_image, annotated_message, link_note, embed_note):
        # Content as it is: structured output would repeat it as JSON.
        server.tool(annotations=READ_ONLY, structured_output=False)(tool)
