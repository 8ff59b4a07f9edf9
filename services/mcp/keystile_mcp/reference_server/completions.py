"""Completions: what an argument of a prompt or of a resource template may be."""

from mcp.server.mcpserver import MCPServer
from mcp_types import Completion, CompletionArgument, CompletionContext, PromptReference, ResourceTemplateReference

from keystile_mcp.reference_server import resources
from keystile_mcp.reference_server.prompts import LANGUAGES

MOST = 100
"""So many values an answer may have."""


async def complete(
    ref: PromptReference | ResourceTemplateReference, argument: CompletionArgument, _: CompletionContext | None
) -> Completion | None:
    """What the argument may go on as; None where nothing is known."""
    name = ref.name if isinstance(ref, PromptReference) else ref.uri
    values = {
        ("translate", "language"): LANGUAGES,
        ("discuss_note", "number"): _NUMBERS,
        (resources.TEMPLATE, "number"): _NUMBERS,
    }.get((name, argument.name))
    if values is None:
        return None
    found = [value for value in values if value.casefold().startswith(argument.value.casefold())]
    return Completion(values=found[:MOST], total=len(found), has_more=len(found) > MOST)


_NUMBERS = tuple(str(number) for number in range(1, resources.NOTES + 1))


def register(server: MCPServer) -> None:
    """Add completions to `server`."""
    server.completion()(complete)  # type: ignore[no-untyped-call] # the SDK gives it no types
