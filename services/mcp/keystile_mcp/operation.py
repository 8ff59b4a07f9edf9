"""What a POST to the MCP endpoint asks for: the JSON-RPC message, read as far as the policy needs it."""

from dataclasses import dataclass

import pydantic_core
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from mcp_types.methods import SPEC_CLIENT_METHODS, SPEC_CLIENT_NOTIFICATION_METHODS

METHODS = SPEC_CLIENT_METHODS | SPEC_CLIENT_NOTIFICATION_METHODS
"""Every method that a client may send, so every one that a metric may name."""


HTTP_METHODS = frozenset({"get", "delete"})
"""Requests without a message: a session's stream, and its end."""


class MessageError(Exception):
    """A body that is no usable JSON-RPC message.

    Args:
        code: JSON-RPC's error code.
        message: what is wrong.
        request_id: whose answer this is, where that can be told.
    """

    def __init__(self, code: int, message: str, request_id: object = None) -> None:
        super().__init__(message)
        self.code = code
        self.request_id = request_id if isinstance(request_id, str | int) else None


@dataclass(frozen=True, slots=True)
class Operation:
    """A JSON-RPC message: its method as a metric may name it, and the tool that it calls, if it calls one."""

    method: str
    tool: str | None = None


def bodiless_operation(http_method: str) -> Operation:
    """The operation that a request of an HTTP method other than POST asks for."""
    name = http_method.lower()
    return Operation(name if name in HTTP_METHODS else "unknown")


def read_operation(body: bytes) -> Operation:
    """Read one JSON-RPC message.

    What the policy reads and what the tool's server reads must be the same, so whatever two parsers could
    read differently is refused: text that is not UTF-8, a tool's name that is not a string.

    Raises:
        MessageError: the body is not JSON, or not one message (batches are gone since MCP 2025-06-18).
    """
    try:
        message = pydantic_core.from_json(body, cache_strings="keys")
    except ValueError:
        raise MessageError(PARSE_ERROR, "The body is not JSON in UTF-8") from None
    if not isinstance(message, dict):
        raise MessageError(INVALID_REQUEST, "The body must be one JSON-RPC message; batches are not supported")
    if "method" not in message:
        return Operation("response")
    method = message["method"]
    if method != "tools/call":
        return Operation(method if isinstance(method, str) and method in METHODS else "unknown")
    parameters = message.get("params")
    tool = parameters.get("name") if isinstance(parameters, dict) else None
    if not isinstance(tool, str):
        raise MessageError(INVALID_PARAMS, "tools/call must name a tool in params.name", message.get("id"))
    return Operation(method, tool)
