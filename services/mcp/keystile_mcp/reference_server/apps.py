"""An MCP app: a tool whose result a client may show as a page (MCP Apps, `io.modelcontextprotocol/ui`)."""

from pathlib import Path
from typing import Annotated

from mcp.server.apps import Apps
from pydantic import Field

from keystile_mcp.reference_server.tools import READ_ONLY

URI = "ui://hello/hello.html"
_PAGE = Path(__file__).with_name("hello.html")


def hello_app(name: Annotated[str, Field(max_length=80, description="Whom to greet")] = "world") -> str:
    """Greet somebody, as text and, where the client shows apps, on a page."""
    return f"Hello, {name}!"


def make() -> Apps:
    """The extension with the tool and its page, to make a server with."""
    apps = Apps()
    apps.add_html_resource(URI, _PAGE.read_text("utf-8"), title="Hello", description="Shows the greeting")
    apps.tool(resource_uri=URI, annotations=READ_ONLY)(hello_app)
    return apps
