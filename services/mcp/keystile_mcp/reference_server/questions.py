"""Tools that ask the client: for its model's answer, for its user's, for a page to be opened, for its roots.

Revision 2026-07-28 asks inside the answer to the call (`InputRequiredResult`); the client calls again with what was
found out, and with a `requestState` that only this server can read, bound to the caller and to ten minutes. Older
revisions ask in the session while the call goes on. `Resolve` does whichever the client speaks; `open_account` shows
both ways by hand, for what `Resolve` has no word for.
"""

import uuid
from typing import Annotated

from mcp.server.elicitation import AcceptedElicitation, ElicitationResult
from mcp.server.mcpserver import Context, Elicit, ListRoots, MCPServer, Resolve, Sample
from mcp_types import (
    CreateMessageResult,
    ElicitRequest,
    ElicitRequestURLParams,
    ElicitResult,
    InputRequiredResult,
    ListRootsResult,
    SamplingMessage,
    TextContent,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel, Field

_ASKED = "asked to open the account page"


class Meal(BaseModel):
    """What the form asks."""

    dish: str = Field(min_length=1, max_length=80, description="What you would like to eat")
    guests: int = Field(default=1, ge=1, le=20, description="For how many")


def _ask_model(question: str) -> Sample:
    return Sample([SamplingMessage(role="user", content=TextContent(text=question))], max_tokens=200)


def _ask_for_meal() -> Elicit[Meal]:
    return Elicit("What shall be cooked?", Meal)


def _ask_for_roots() -> ListRoots:
    return ListRoots()


async def ask_model(
    question: Annotated[str, Field(max_length=2000, description="What to ask")],
    answer: Annotated[CreateMessageResult, Resolve(_ask_model)],
) -> str:
    """Let the client's own model answer a question (sampling)."""
    said = answer.content.text if isinstance(answer.content, TextContent) else f"({answer.content.type})"
    return f"{answer.model} answers {question!r}: {said}"


async def order_meal(answer: Annotated[ElicitationResult[Meal], Resolve(_ask_for_meal)]) -> str:
    """Ask the user for a meal, in a form (elicitation)."""
    if isinstance(answer, AcceptedElicitation):
        return f"{answer.data.dish} for {answer.data.guests}"
    return f"No meal: the user chose to {answer.action}"


async def list_roots(answer: Annotated[ListRootsResult, Resolve(_ask_for_roots)]) -> str:
    """Ask the client for the folders that it works in (roots)."""
    return "\n".join(str(root.uri) for root in answer.roots) or "No roots"


def register(server: MCPServer, account_url: str) -> None:
    """Add the tools to `server`.

    Args:
        server: gets the tools.
        account_url: where users see and end their connections.
    """

    async def open_account(context: Context) -> str | InputRequiredResult:
        """Ask the user to open the page where their connections are listed and ended (URL elicitation)."""
        # A link must not tell who the user is, since whoever gets hold of it could open it: this one is the same for
        # everyone, and the page has its own sign-in. So nothing is known here of who opened it, and nothing claimed.
        capabilities = context.client_capabilities
        if capabilities is None or capabilities.elicitation is None or capabilities.elicitation.url is None:
            return f"This client opens no pages; yours is {account_url}"
        page = ElicitRequestURLParams(
            message="Your connections are listed at the authorization server: those of whoever signs in there.",
            url=account_url,
        )
        if context.protocol_version in MODERN_PROTOCOL_VERSIONS:
            answer = (context.input_responses or {}).get("account")
            if not isinstance(answer, ElicitResult) or context.request_state != _ASKED:
                return InputRequiredResult(input_requests={"account": ElicitRequest(params=page)}, request_state=_ASKED)
            action = answer.action
        else:
            action = (await context.elicit_url(page.message, page.url, elicitation_id=str(uuid.uuid4()))).action
        return "The user agreed to open the page" if action == "accept" else f"The user chose to {action}"

    for tool in (ask_model, order_meal, list_roots, open_account):
        server.tool()(tool)
