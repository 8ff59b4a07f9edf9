"""JSON-RPC errors as HTTP answers."""

import json
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import Send


async def refuse(
    send: Send,
    status: HTTPStatus,
    code: int,
    message: str,
    *,
    request_id: object = None,
    data: object = None,
    headers: Sequence[tuple[bytes, bytes]] = (),
) -> None:
    """Answer a request with an error.

    Args:
        send: where the answer goes.
        status: of HTTP.
        code: of JSON-RPC (section 5.1) or MCP.
        message: a sentence; never anything that the client sent.
        request_id: whose answer this is, where that can be told.
        data: more about it, for programs.
        headers: besides those of every answer.
    """
    error = {"code": code, "message": message, **({} if data is None else {"data": data})}
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()
    usual = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
    ]
    await send({"type": "http.response.start", "status": int(status), "headers": [*usual, *headers]})
    await send({"type": "http.response.body", "body": body})
