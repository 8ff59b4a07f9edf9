"""Requests of a session that lives in another replica: handed over to it, and taken over from others.

What is handed over was checked: token, policy, and that the session is the caller's. The replica that takes it over
believes that because of a code over all of it with the key that only replicas have.
"""

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, Final

import uvicorn
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common import server
from keystile_common.limits import LimitsMiddleware
from keystile_mcp.bodies import read_body, replay
from keystile_mcp.forwarding import Forwarder
from keystile_mcp.settings import MAX_BODY_BYTES, HandoverSettings

HEADER: Final = "keystile-handover"
MAX_AGE_SECONDS: Final = 30
NAME: Final = "The replica that this session lives in"
_STOP_SECONDS: Final = 2


class Handover:
    """Hands requests over to other replicas.

    Args:
        settings: how long connecting may take.
        clock: Unix time in seconds.
    """

    def __init__(self, settings: HandoverSettings, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self.forwarder = Forwarder(NAME, connect_seconds=settings.connect_timeout_seconds, limit=0)

    async def hand_over(self, address: str, key: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the replica at `address` serve a request.

        Raises:
            ForwardingError: it does not.
        """
        body = await read_body(receive)
        if body is None:
            return
        headers = {HEADER: _seal(_claims(scope, body, self._clock()), key)}
        await self.forwarder.forward(f"http://{address}/", headers, lambda _: None, scope, body, receive, send)


class Takeover:
    """Serves what other replicas hand over, on a port that only they reach.

    Args:
        app: serves sessions of this process; it finds the caller in `scope["user"]`.
        clock: Unix time in seconds.
    """

    def __init__(self, app: ASGIApp, clock: Callable[[], float] = time.time) -> None:
        self._app = app
        self._clock = clock
        self._key = b""

    @contextlib.asynccontextmanager
    async def running(self, listen: HandoverSettings, key: bytes) -> AsyncIterator[None]:
        """Listen, inside the running event loop.

        Args:
            listen: where.
            key: which every replica has.

        Raises:
            ListenError: the address cannot be listened on.
        """
        self._key = key
        listener = server.bind(listen, "KEYSTILE_HANDOVER__PORT")
        config = uvicorn.Config(
            LimitsMiddleware(self, MAX_BODY_BYTES),
            access_log=False,
            log_config=None,
            server_header=False,
            proxy_headers=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_STOP_SECONDS,
        )
        inner = _InnerServer(config)
        task = asyncio.create_task(inner.serve(sockets=[listener]))
        try:
            yield
        finally:
            inner.should_exit = True
            await task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, if it comes from a replica."""
        body = await read_body(receive)
        if body is None:
            return
        claims = _open(scope, self._key)
        if claims is None or not self._fits(claims, scope, body):
            await Response(status_code=403)(scope, receive, send)
            return
        headers = [header for header in scope["headers"] if header[0] != HEADER.encode()]
        user = AuthenticatedUser(AccessToken(token="", **claims["caller"]))
        taken = {**scope, "path": claims["path"], "headers": headers, "user": user}
        await self._app(taken, replay(body, receive), send)

    def _fits(self, claims: dict[str, Any], scope: Scope, body: bytes) -> bool:
        said = (claims["method"], claims["session"], claims["body"])
        seen = (scope["method"], _session_id(scope), _digest(body))
        return said == seen and abs(self._clock() - claims["time"]) <= MAX_AGE_SECONDS


class _InnerServer(uvicorn.Server):
    # The signals are for the server that serves the clients.
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _claims(scope: Scope, body: bytes, now: float) -> dict[str, Any]:
    caller = scope["user"].access_token
    return {
        "time": now,
        "method": scope["method"],
        "path": scope["path"],
        "session": _session_id(scope),
        "body": _digest(body),
        "caller": {
            "client_id": caller.client_id,
            "scopes": caller.scopes,
            "expires_at": caller.expires_at,
            "resource": caller.resource,
            "subject": caller.subject,
            "claims": caller.claims,
        },
    }


def _seal(claims: dict[str, Any], key: bytes) -> str:
    text = base64.urlsafe_b64encode(json.dumps(claims).encode())
    return f"{text.decode()}.{hmac.digest(key, text, hashlib.sha256).hex()}"


def _open(scope: Scope, key: bytes) -> dict[str, Any] | None:
    values = [value for name, value in scope["headers"] if name == HEADER.encode()]
    if len(values) != 1 or not key:
        return None
    text, _, code = values[0].partition(b".")
    if not hmac.compare_digest(code, hmac.digest(key, text, hashlib.sha256).hex().encode()):
        return None
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(text))
    return claims


def _session_id(scope: Scope) -> str | None:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == b"mcp-session-id"), None)


def _digest(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
