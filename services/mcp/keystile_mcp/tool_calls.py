"""Tool calls, as the audit log and the metrics tell of them."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any

from prometheus_client import Counter
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import McpMetrics
from keystile_mcp.answers import Answer
from keystile_mcp.denials import client_address
from keystile_mcp.operation import Operation

UNKNOWN = "unknown"
MAX_TOOLS = 1000
"""So many names at most get into metrics; a server that has more of them counts the rest as unknown."""


class ToolCalls:
    """Records every tool call, by what the answer to it says.

    Args:
        audit: the audit log.
        metrics: where calls are counted.
        resource: this resource's identifier, for the audit log.
    """

    def __init__(self, audit: AuditLog, metrics: McpMetrics, resource: str) -> None:
        self._audit = audit
        self._calls = metrics.tool_calls
        self._resource = resource
        self._tools: set[str] = set()
        # Names and outcomes are closed sets; a bound counter costs a quarter of a look-up.
        self._bound: dict[tuple[str, str], Counter] = {}

    def know(self, tools: Iterable[str]) -> None:
        """Say which tools the server has; no other name gets into a metric or the audit log."""
        for tool in tools:
            if len(self._tools) < MAX_TOOLS:
                self._tools.add(tool)

    def record_denied(self, tool: str | None, actor: Actor) -> None:
        """Record a request that lacked scopes: a call of `tool`, or no tool call if that is None."""
        if tool is not None:
            self._count(tool, "denied")
        self._audit.record(
            EventType.ACCESS_DENIED, "denied", actor, reason="insufficient_scope", target=self._target(tool)
        )

    async def serve(self, app: ASGIApp, call: Operation, scope: Scope, receive: Receive, send: Send) -> None:
        """Let `app` serve a request that calls a tool, and record how it ended."""
        problem: str | None = "no_answer"  # the client went away, or the server broke

        def look(message: dict[str, Any]) -> None:
            nonlocal problem
            # In a stream there may be other requests and notifications before the answer.
            if "method" not in message and message.get("id") == call.request_id:
                problem = _problem(message)

        answer = Answer(send, look)
        try:
            await app(scope, receive, answer.send)
        finally:
            if answer.status is not None and answer.status >= HTTPStatus.BAD_REQUEST:
                problem = "error"
            self._record(call, problem, _actor(scope))

    def _record(self, call: Operation, problem: str | None, actor: Actor) -> None:
        outcome = "failure" if problem else "success"
        self._count(call.tool, outcome)
        self._audit.record(EventType.TOOL_CALLED, outcome, actor, reason=problem, target=self._target(call.tool))

    def _count(self, tool: str | None, outcome: str) -> None:
        key = self._known(tool), outcome
        counter = self._bound.get(key)
        if counter is None:
            counter = self._bound[key] = self._calls.labels(*key)
        counter.inc()

    def _target(self, tool: str | None) -> dict[str, str]:
        target = {"resource": self._resource}
        return target if tool is None else {**target, "tool": self._known(tool)}

    def _known(self, tool: str | None) -> str:
        return tool if tool in self._tools and tool is not None else UNKNOWN


def _actor(scope: Scope) -> Actor:
    token = scope["user"].access_token
    return Actor(token.subject, token.client_id, client_address(scope))


def _problem(message: dict[str, Any]) -> str | None:
    if "error" in message:
        return "error"
    result = message.get("result")
    return "tool_error" if isinstance(result, dict) and result.get("isError") is True else None
