"""Sessions of servers that know nothing of users: only whoever opened one can use it.

A session's id is given to the client with a code over it and its owner, and comes back with every request. So
nothing has to be remembered, and any replica with the same key can tell. An id without its owner's code is
answered as one that does not exist (MCP, session hijacking).
"""

import contextlib
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator
from http import HTTPStatus

from mcp.server.auth.provider import AccessToken, principal_components
from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common import base64url
from keystile_mcp.json_rpc import refuse
from keystile_mcp.session_store import SessionStore

HEADER = b"mcp-session-id"
MAX_ID_BYTES = 1024
_CODE_BYTES = 16


class OwnedSessions:
    """Puts the owner's code on the session ids that `app` makes, and takes it off those that come back.

    Args:
        app: an MCP server as ASGI.
        sessions: has the key that all replicas sign with; None where this process is the only one.
        start_seconds: how long the store may take to answer at the start.
    """

    def __init__(self, app: ASGIApp, sessions: SessionStore | None, start_seconds: float) -> None:
        self._app = app
        self._sessions = sessions
        self._start_seconds = start_seconds
        self._key = secrets.token_bytes(32)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves."""
        if self._sessions is None:
            yield
            return
        async with self._sessions.connected(self._start_seconds):
            self._key = await self._sessions.shared_key()
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request that the bearer check let through."""
        owner = scope["user"].access_token
        headers = []
        for name, value in scope["headers"]:
            if name != HEADER:
                headers.append((name, value))
            elif (session_id := self._open(value, owner)) is not None:
                headers.append((name, session_id))
            else:
                await refuse(send, HTTPStatus.NOT_FOUND, INVALID_REQUEST, "Session not found")
                return

        async def send_sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                sealed = [
                    (name, self._seal(value, owner) if name.lower() == HEADER else value)
                    for name, value in message.get("headers", ())
                ]
                message = {**message, "headers": sealed}
            await send(message)

        await self._app({**scope, "headers": headers}, receive, send_sealed)

    def _seal(self, session_id: bytes, owner: AccessToken) -> bytes:
        return session_id + b"." + self._code(session_id, owner)

    def _open(self, sealed: bytes, owner: AccessToken) -> bytes | None:
        session_id, _, code = sealed.rpartition(b".")
        fits = len(sealed) <= MAX_ID_BYTES and hmac.compare_digest(code, self._code(session_id, owner))
        return session_id if fits else None

    def _code(self, session_id: bytes, owner: AccessToken) -> bytes:
        # As JSON, so that no two owners read the same.
        text = json.dumps([*principal_components(owner), session_id.decode("latin-1")]).encode()
        digest = hmac.digest(self._key, text, hashlib.sha256)[:_CODE_BYTES]
        return base64url.encode(digest).encode()
