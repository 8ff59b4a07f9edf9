"""Tool calls, as the audit log and the metrics tell of them."""

from collections.abc import Iterable
from typing import Any

from mcp.server.auth.middleware.auth_context import get_access_token
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp_types import CallToolResult
from starlette.requests import Request

from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import McpMetrics
from keystile_mcp.denials import client_address

UNKNOWN = "unknown"


class ToolCalls:
    """Records every tool call; a middleware of the SDK's MCP server, where a tool's outcome is known.

    Args:
        audit: the audit log.
        metrics: where calls are counted.
        resource: this resource's identifier, for the audit log.
    """

    def __init__(self, audit: AuditLog, metrics: McpMetrics, resource: str) -> None:
        self._audit = audit
        self._calls = metrics.tool_calls
        self._resource = resource
        self._tools: frozenset[str] = frozenset()

    def know(self, tools: Iterable[str]) -> None:
        """Say which tools there are; no other name gets into a metric or the audit log."""
        self._tools = frozenset(tools)

    def record_denied(self, tool: str | None, actor: Actor) -> None:
        """Record a request that lacked scopes: a call of `tool`, or no tool call if that is None."""
        if tool is not None:
            self._calls.labels(self._known(tool), "denied").inc()
        self._audit.record(
            EventType.ACCESS_DENIED, "denied", actor, reason="insufficient_scope", target=self._target(tool)
        )

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Pass a message on, and record its outcome if it is a tool call."""
        if ctx.method != "tools/call":
            return await call_next(ctx)
        problem: str | None = "error"  # raised, or cancelled with its request
        try:
            result = await call_next(ctx)
            problem = "tool_error" if _is_error(result) else None
        finally:
            self._record(ctx, problem)
        return result

    def _record(self, context: ServerRequestContext[Any, Any], problem: str | None) -> None:
        outcome = "failure" if problem else "success"
        name = (context.params or {}).get("name")
        tool = self._known(name if isinstance(name, str) else UNKNOWN)
        self._calls.labels(tool, outcome).inc()
        self._audit.record(EventType.TOOL_CALLED, outcome, _actor(context), reason=problem, target=self._target(tool))

    def _target(self, tool: str | None) -> dict[str, str]:
        target = {"resource": self._resource}
        return target if tool is None else {**target, "tool": self._known(tool)}

    def _known(self, tool: str) -> str:
        return tool if tool in self._tools else UNKNOWN


def _actor(context: ServerRequestContext[Any, Any]) -> Actor:
    request = context.request
    address = client_address(request.scope) if isinstance(request, Request) else None
    token = get_access_token()
    return Actor(token.subject, token.client_id, address) if token else Actor(ip=address)


def _is_error(result: HandlerResult) -> bool:
    # A handler may answer with the SDK's model or with the JSON it becomes.
    match result:
        case CallToolResult(is_error=True) | {"isError": True}:
            return True
        case _:
            return False
