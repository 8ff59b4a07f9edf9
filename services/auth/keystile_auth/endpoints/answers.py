"""JSON answers, and the one place where errors become them."""

from typing import Any

from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Send

from keystile_auth.errors import OAuthError
from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.recurring_requests import Answer

NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}

CORS = [
    Middleware(
        CORSMiddleware,
        # Clients in browsers call these from any origin. No cookie counts here, so no origin gains by it.
        allow_origins=["*"],
        allow_methods=["GET", "POST", "PUT", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "MCP-Protocol-Version"],
        expose_headers=["WWW-Authenticate", "Retry-After"],
        max_age=3600,
    )
]
"""For the routes that scripts in browsers may call; never /authorize or a page (RFC 9700 section 2.6)."""


def error_answer(request: Request, problem: OAuthError) -> Response:
    """An error as RFC 6749 section 5.2 writes it, with the challenge that belongs to a 401."""
    headers = dict(NO_STORE)
    if problem.code == "invalid_client":
        headers["WWW-Authenticate"] = f'Basic realm="{request.scope["path"]}"'
    elif problem.code == "invalid_token":
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return no_store({"error": problem.code, "error_description": problem.description}, int(problem.status), headers)


def unavailable_answer() -> Response:
    """The answer while the store, or an identity, is away: nothing was done, another try makes sense."""
    return no_store(
        {
            "error": "temporarily_unavailable",
            "error_description": "the server cannot reach its store, or an identity provider; try again",
        },
        503,
        {**NO_STORE, "Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def no_store(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """A JSON answer that no cache may keep."""
    return JSONResponse(content, status_code=status, headers=headers or NO_STORE)


_JSON_HEADERS = [(name.lower().encode(), value.encode()) for name, value in NO_STORE.items()]
_JSON_HEADERS.append((b"content-type", b"application/json"))
_JSON_HEAD = b"HTTP/1.1 200 OK\r\n" + b"".join(b"%s: %s\r\n" % header for header in _JSON_HEADERS)


def json_again(text: str) -> Answer:
    """The same as `send_json` to a request that recurs."""
    return Answer(_JSON_HEAD, text.encode())


async def send_json(send: Send, text: str) -> None:
    """Answer 200 with JSON that no cache may keep, without a framework's response around it.

    Args:
        send: of the ASGI connection.
        text: the JSON.
    """
    body = text.encode()
    headers = [*_JSON_HEADERS, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})
