"""Prompts: plain, with arguments, with a resource in it."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.mcpserver import MCPServer
from mcp.server.mcpserver.prompts.base import UserMessage
from mcp.shared.exceptions import MCPError
from mcp_types import INVALID_PARAMS, EmbeddedResource, Prompt, TextContent, TextResourceContents
from pydantic import Field

from keystile_mcp.reference_server import resources

LANGUAGES = ("English", "French", "German", "Greek", "Italian", "Polish", "Portuguese", "Spanish")


def introduce_yourself() -> str:
    """Ask the model to introduce itself."""
    return "Introduce yourself in two sentences."


def translate(
    text: Annotated[str, Field(description="What to translate")],
    language: Annotated[str, Field(description="Into which language")] = "English",
) -> str:
    """Ask for a translation."""
    return f"Translate this into {language}:\n\n{text}"


def discuss_note(number: Annotated[str, Field(description="Which note, 1 to 100")]) -> list[UserMessage]:
    """Ask about a note, with the note in the prompt."""
    found = resources.number_in(resources.TEMPLATE.format(number=number))
    if found is None:
        raise MCPError(INVALID_PARAMS, f"There is no note {number[:40]!r}; they are 1 to {resources.NOTES}")
    contents = TextResourceContents(uri=resources.uri(found), text=resources.text(found), mime_type=resources.MIME_TYPE)
    return [
        UserMessage(EmbeddedResource(resource=contents)),
        UserMessage(TextContent(text="What is this note about?")),
    ]


def _check(prompts: Iterable[Prompt], params: Mapping[str, Any]) -> None:
    """Refuse a request that names no prompt, or leaves out what the prompt needs."""
    prompt = next((prompt for prompt in prompts if prompt.name == params.get("name")), None)
    if prompt is None:
        raise MCPError(INVALID_PARAMS, "There is no prompt of this name")
    given = params.get("arguments") or {}
    missing = [each.name for each in prompt.arguments or () if each.required and each.name not in given]
    if missing:
        raise MCPError(INVALID_PARAMS, f"The prompt needs {', '.join(missing)}")


def register(server: MCPServer) -> None:
    """Add the prompts to `server`."""

    async def check(ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        # The SDK takes these for failures of its own, with a stack in the log.
        params = ctx.params or {}
        if ctx.method == "prompts/get" and isinstance(params.get("arguments") or {}, dict):
            _check(await server.list_prompts(), params)
        return await call_next(ctx)

    for prompt in (introduce_yourself, translate, discuss_note):
        server.prompt()(prompt)
    server.middleware.append(check)
