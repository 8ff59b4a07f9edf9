"""What a POST to the MCP endpoint asks for: the JSON-RPC message, read as far as the policy needs it."""

import json
from dataclasses import dataclass
from typing import Any

import pydantic_core
from mcp_types import INVALID_PARAMS, INVALID_REQUEST, PARSE_ERROR
from mcp_types.methods import SPEC_CLIENT_METHODS, SPEC_CLIENT_NOTIFICATION_METHODS

_NAMES = frozenset({"jsonrpc", "id", "method", "params", "name", "arguments"})

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
    """A JSON-RPC message: its method as a metric may name it, the tool that it calls if it calls one, and its id."""

    method: str
    tool: str | None = None
    request_id: str | int | None = None


def bodiless_operation(http_method: str) -> Operation:
    """The operation that a request of an HTTP method other than POST asks for."""
    name = http_method.lower()
    return Operation(name if name in HTTP_METHODS else "unknown")


def read_operation(body: bytes, *, strictly: bool = False) -> Operation:
    """Read one JSON-RPC message.

    What the policy reads and what the tool's server reads must be the same, so whatever two parsers could
    read differently is refused: text that is not UTF-8, a tool's name that is not a string.

    Args:
        body: the JSON text.
        strictly: refuse a name that comes twice in one object, too, or in another case than the protocol has it. Some
            parsers take the first of two, and some do not mind the case.

    Raises:
        MessageError: the body is not JSON, or not one message (batches are gone since MCP 2025-06-18).
    """
    try:
        message = _from_json_strictly(body) if strictly else pydantic_core.from_json(body, cache_strings="keys")
    except (ValueError, RecursionError):
        also = ", with each name once and in the protocol's spelling" if strictly else ""
        raise MessageError(PARSE_ERROR, f"The body is not JSON in UTF-8{also}") from None
    if not isinstance(message, dict):
        raise MessageError(INVALID_REQUEST, "The body must be one JSON-RPC message; batches are not supported")
    if "method" not in message:
        return Operation("response")
    method = message["method"]
    request_id = message.get("id")
    if "id" in message and (not isinstance(request_id, str | int) or isinstance(request_id, bool)):
        raise MessageError(INVALID_REQUEST, "The id of a request must be a string or an integer")
    if method != "tools/call":
        known = isinstance(method, str) and method in METHODS
        return Operation(method if known else "unknown", request_id=request_id)
    parameters = message.get("params")
    tool = parameters.get("name") if isinstance(parameters, dict) else None
    if not isinstance(tool, str):
        raise MessageError(INVALID_PARAMS, "tools/call must name a tool in params.name", request_id)
    return Operation(method, tool, request_id)


def _from_json_strictly(body: bytes) -> Any:
    # pydantic_core reads it as well: what only one of them takes for JSON is none.
    pydantic_core.from_json(body, allow_inf_nan=False)
    message = json.loads(body.decode("utf-8"), object_pairs_hook=_object)
    if isinstance(message, dict):
        _refuse_other_case(message)
        if isinstance(message.get("params"), dict):
            _refuse_other_case(message["params"])
    return message


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a name twice")
    return members


def _refuse_other_case(members: dict[str, Any]) -> None:
    if any(name not in _NAMES and name.casefold() in _NAMES for name in members):
        raise ValueError("a name in another case")
