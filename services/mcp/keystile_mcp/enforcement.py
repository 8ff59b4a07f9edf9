"""The policy in front of an MCP server: no request goes on without the scopes that it needs."""

from collections.abc import Sequence
from http import HTTPStatus

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from prometheus_client import Counter
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common.audit import Actor
from keystile_common.metrics import McpMetrics
from keystile_mcp.backend import Backend
from keystile_mcp.bodies import read_body, replay
from keystile_mcp.challenge import Challenge, insufficient_scope
from keystile_mcp.denials import client_address
from keystile_mcp.json_rpc import refuse
from keystile_mcp.operation import MessageError, Operation, bodiless_operation, read_operation
from keystile_mcp.policy import Policy
from keystile_mcp.tool_calls import ToolCalls
from keystile_mcp.tool_lists import ToolLists

_MAY_LIST_TOOLS = frozenset({"tools/list", "get"})
"""A session's stream, too, when it repeats answers that a client has missed."""


class PolicyEnforcement:
    """Reads what an authenticated request asks for, and lets it through to `backend` if its token may.

    The body decides, not the Mcp-Method and Mcp-Name headers: it is what the MCP server acts on. It goes on
    unchanged. A cap on its size is set further out, before anything of it is read.

    Args:
        backend: the MCP server.
        policy: which scopes an operation needs.
        challenge: writes refusals.
        tool_calls: records calls.
        metrics: where requests are counted.
    """

    def __init__(
        self, backend: Backend, policy: Policy, challenge: Challenge, tool_calls: ToolCalls, metrics: McpMetrics
    ) -> None:
        self._app = backend.app
        self._strictly = backend.reads_elsewhere
        self._policy = policy
        self._challenge = challenge
        self._tool_calls = tool_calls
        self._tool_lists = ToolLists(policy, tool_calls.know)
        self._requests = RequestCounter(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request that the bearer check let through."""
        user: AuthenticatedUser = scope["user"]
        if scope["method"] != "POST":
            operation = bodiless_operation(scope["method"])
        else:
            body = await read_body(receive)
            if body is None:
                return
            try:
                operation = read_operation(body, strictly=self._strictly)
            except MessageError as error:
                self._requests.count("unknown", HTTPStatus.BAD_REQUEST)
                await refuse(send, HTTPStatus.BAD_REQUEST, error.code, str(error), request_id=error.request_id)
                return
            receive = replay(body, receive)
            scope["mcp_request_id"] = operation.request_id
        needed = self._policy.needed_for(operation.tool)
        missing = [needed_scope for needed_scope in needed if needed_scope not in user.scopes]
        if missing:
            await self._deny(operation, needed, missing, scope, send)
            return
        send = self._requests.counting(operation.method, send)
        if operation.tool is not None:
            await self._tool_calls.serve(self._app, operation, scope, receive, send)
        elif operation.method in _MAY_LIST_TOOLS:
            await self._tool_lists.serve(self._app, scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _deny(
        self, operation: Operation, needed: Sequence[str], missing: Sequence[str], scope: Scope, send: Send
    ) -> None:
        token = scope["user"].access_token
        self._requests.count(operation.method, HTTPStatus.FORBIDDEN)
        self._tool_calls.record_denied(operation.tool, Actor(token.subject, token.client_id, client_address(scope)))
        await self._challenge.refuse(insufficient_scope(needed, missing), send)


class RequiredScopes:
    """Lets an authenticated request through to `app` if its token has what every request needs.

    Args:
        app: any ASGI application.
        required: the scopes.
        challenge: writes refusals.
    """

    def __init__(self, app: ASGIApp, required: Sequence[str], challenge: Challenge) -> None:
        self._app = app
        self._required = required
        self._challenge = challenge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request that the bearer check let through."""
        missing = [needed for needed in self._required if needed not in scope["user"].scopes]
        if missing:
            await self._challenge.refuse(insufficient_scope(self._required, missing), send)
        else:
            await self._app(scope, receive, send)


class RequestCounter:
    """Counts MCP requests by method and outcome: success, denied, failure."""

    def __init__(self, metrics: McpMetrics) -> None:
        self._requests = metrics.requests
        # Methods come from a closed set, so this stays small; a bound counter costs a quarter of a look-up.
        self._bound: dict[tuple[str, str], Counter] = {}

    def count(self, method: str, status: int) -> None:
        """Count a request that was answered with `status`."""
        outcome = "success" if status < HTTPStatus.BAD_REQUEST else "failure"
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            outcome = "denied"
        counter = self._bound.get((method, outcome))
        if counter is None:
            counter = self._bound[method, outcome] = self._requests.labels(method, outcome)
        counter.inc()

    def counting(self, method: str, send: Send) -> Send:
        """A `send` that counts the response once it starts."""

        async def count_and_send(message: Message) -> None:
            if message["type"] == "http.response.start":
                self.count(method, message["status"])
            await send(message)

        return count_and_send
