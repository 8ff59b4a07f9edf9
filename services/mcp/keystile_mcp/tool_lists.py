"""Lists of tools: everyone sees those that a token of theirs could ever call.

Hiding is for the reader's sake, a shorter list without dead ends; what a call needs is asked at the call.
"""

from collections.abc import Callable, Iterable
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_mcp.answers import Answer
from keystile_mcp.policy import Policy


class ToolLists:
    """Takes out of each list of tools what the caller could never be granted.

    Args:
        policy: which scopes a tool needs.
        know: is told the names of all tools in a list, before any is taken out.
    """

    def __init__(self, policy: Policy, know: Callable[[Iterable[str]], None]) -> None:
        self._policy = policy
        self._know = know

    async def serve(self, app: ASGIApp, scope: Scope, receive: Receive, send: Send) -> None:
        """Let `app` serve a request whose answer may have a list of tools in it."""
        token = scope["user"].access_token
        grantable = (token.claims or {}).get("grantable_scopes")
        # None: the authorization server does not say, so everything might be.
        reachable = None if grantable is None else {*token.scopes, *grantable}

        def look(message: dict[str, Any]) -> dict[str, Any] | None:
            result = message.get("result")
            tools = result.get("tools") if isinstance(result, dict) else None
            if not isinstance(result, dict) or not isinstance(tools, list):
                return None
            return self._changed(message, result, tools, reachable)

        await app(scope, receive, Answer(send, look).send)

    def _changed(
        self, message: dict[str, Any], result: dict[str, Any], tools: list[Any], reachable: set[str] | None
    ) -> dict[str, Any] | None:
        self._know(name for tool in tools if (name := _name(tool)) is not None)
        shown = tools if reachable is None else [tool for tool in tools if self._is_reachable(tool, reachable)]
        # What depends on the token must not be kept for others (2026-07-28, caching).
        must_be_private = result.get("cacheScope") == "public"
        if len(shown) == len(tools) and not must_be_private:
            return None
        changed = {**result, "tools": shown} | ({"cacheScope": "private"} if must_be_private else {})
        return {**message, "result": changed}

    def _is_reachable(self, tool: Any, reachable: set[str]) -> bool:
        name = _name(tool)
        return name is not None and reachable.issuperset(self._policy.needed_for(name))


def _name(tool: Any) -> str | None:
    name = tool.get("name") if isinstance(tool, dict) else None
    return name if isinstance(name, str) else None
