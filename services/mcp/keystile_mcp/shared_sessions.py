"""Sessions of the older revisions over several replicas: any replica takes any session's request.

The SDK keeps a session in the process that opened it. Here the store says which that is, and a request that comes to
another replica is handed over. When the replica of a session has died, the session is not found: its client opens
another one (MCP, session management).
"""

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any, Final

import structlog
from mcp.server.auth.middleware.bearer_auth import AuthorizationContext
from mcp.server.auth.provider import principal_components
from mcp.server.streamable_http import EventCallback, EventMessage, EventStore, StreamableHTTPServerTransport
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp_types import INTERNAL_ERROR, INVALID_REQUEST, JSONRPCMessage, jsonrpc_message_adapter
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common import tasks
from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.metrics import McpMetrics
from keystile_common.store import StoreUnavailableError
from keystile_mcp.forwarding import ForwardingError, Started
from keystile_mcp.handover import Handover, Takeover
from keystile_mcp.json_rpc import refuse
from keystile_mcp.session_store import ALIVE_SECONDS, Residence, SessionStore
from keystile_mcp.settings import HandoverSettings

IDLE_SECONDS: Final = 30 * 60
"""How long a session may be without a request."""
REMEMBERED_SECONDS: Final = IDLE_SECONDS + 120
KEEP_EVERY_SECONDS: Final = 60
_VERSION: Final = b"mcp-protocol-version"
_SESSION: Final = b"mcp-session-id"

_log = structlog.stdlib.get_logger(__name__)


class SessionEvents(EventStore):
    """The events of one session, for a client that comes back (MCP, resumability and redelivery)."""

    def __init__(self, sessions: SessionStore, session_id: str) -> None:
        self._sessions = sessions
        self._session_id = session_id

    async def store_event(self, stream_id: str, message: JSONRPCMessage | None) -> str:
        """Keep an event and answer its id; one that cannot be kept goes out all the same, and is not repeated."""
        text = "" if message is None else message.model_dump_json(by_alias=True, exclude_unset=True)
        try:
            return await self._sessions.add_event(self._session_id, stream_id, text)
        except StoreUnavailableError:
            return "lost"

    async def replay_events_after(self, last_event_id: str, send_callback: EventCallback) -> str | None:
        """Repeat what came after an event in the stream it is of."""
        found = await self._sessions.events_after(self._session_id, last_event_id)
        if found is None:
            return None
        stream, events = found
        for event in events:
            if event.message:
                await send_callback(EventMessage(jsonrpc_message_adapter.validate_json(event.message), event.id))
        return stream


class SharedManager(StreamableHTTPSessionManager):
    """The SDK's manager; each of its sessions has events of its own.

    The SDK's one store of events for all sessions would tell them apart by the ids that clients number their
    requests with, so one client could read what another was told.
    """

    def __init__(self, app: Any, sessions: SessionStore, **arguments: Any) -> None:
        super().__init__(app, session_idle_timeout=IDLE_SECONDS, **arguments)
        self._sessions = sessions

    @property
    def session_ids(self) -> list[str]:
        """The sessions that live here."""
        return list(self._server_instances)

    def has(self, session_id: str) -> bool:
        """Whether a session lives here."""
        return session_id in self._server_instances

    async def drop(self, session_id: str) -> None:
        """End a session."""
        transport = self._server_instances.get(session_id)
        if transport is not None:
            await self._discard_session(session_id, transport)

    def _admit_session(self, requestor: AuthorizationContext | None) -> StreamableHTTPServerTransport | None:
        transport = super()._admit_session(requestor)
        if transport is not None and transport.mcp_session_id is not None:
            transport._event_store = SessionEvents(self._sessions, transport.mcp_session_id)
        return transport


class SharedSessions:
    """Serves the sessions that live here by `local`, and those of other replicas by these.

    Args:
        local: the SDK's application.
        manager: its sessions.
        sessions: what the replicas share.
        listen: where this one takes over requests.
        metrics: where hand-overs are counted.
    """

    def __init__(
        self,
        local: ASGIApp,
        manager: SharedManager,
        sessions: SessionStore,
        *,
        listen: HandoverSettings,
        metrics: McpMetrics,
    ) -> None:
        self._local = local
        self._manager = manager
        self._sessions = sessions
        self._listen = listen
        self._handover = Handover(listen)
        self._takeover = Takeover(self._serve_taken)
        self._handovers = metrics.session_handovers
        self._kept: dict[str, float] = {}
        self._key = b""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which requests are handed over and taken over; the store answers."""
        self._key = await self._sessions.shared_key()
        async with self._handover.forwarder, self._takeover.running(self._listen, self._key):
            living = asyncio.create_task(self._live())
            try:
                yield
            finally:
                await tasks.end(living)
            # Whoever asks for them now learns at once that they are gone.
            with contextlib.suppress(StoreUnavailableError):
                await self._sessions.end(self._manager.session_ids)

    async def _live(self) -> None:
        while True:
            with contextlib.suppress(StoreUnavailableError):
                await self._sessions.live(self._listen.reachable_at)
            await asyncio.sleep(ALIVE_SECONDS / 3)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request that the bearer check and the policy let through."""
        session_id = _session_of(scope)
        try:
            if session_id is None:
                await self._local(scope, receive, self._settling(scope, send))
            elif self._manager.has(session_id):
                await self._serve_here(session_id, scope, receive, send)
            else:
                await self._serve_elsewhere(session_id, scope, receive, send)
        except StoreUnavailableError:
            await _unavailable(send)

    async def _serve_taken(self, scope: Scope, receive: Receive, send: Send) -> None:
        session_id = _session_of(scope)
        if session_id is None or not self._manager.has(session_id):
            # Never on to a third: what the store says may be old, and a circle would have no end.
            await _not_found(send)
        else:
            await self._serve_here(session_id, scope, receive, send)

    async def _serve_here(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        now = time.monotonic()
        if now - self._kept.get(session_id, now) >= KEEP_EVERY_SECONDS:
            self._kept[session_id] = now
            # What is not noted now is noted with the next request; the SDK knows the session either way.
            with contextlib.suppress(StoreUnavailableError):
                await self._sessions.keep(session_id)
        await self._local(scope, receive, send)
        if not self._manager.has(session_id):
            self._kept.pop(session_id, None)
            with contextlib.suppress(StoreUnavailableError):
                await self._sessions.end([session_id])

    async def _serve_elsewhere(self, session_id: str, scope: Scope, receive: Receive, send: Send) -> None:
        residence = await self._sessions.find(session_id)
        if (
            residence is None
            or residence.principal != _principal(scope)
            or residence.address == self._listen.reachable_at
        ):
            await _not_found(send)
            return
        answer = Started(send)
        try:
            await self._handover.hand_over(residence.address, self._key, scope, receive, answer)
            self._handovers.labels("answered").inc()
        except ForwardingError as problem:
            is_gone = not answer.is_started and await self._is_gone(residence.address, problem)
            self._handovers.labels("gone" if is_gone else "failed").inc()
            if answer.is_started:
                raise
            if is_gone:
                _log.warning("a replica with sessions is gone", address=residence.address)
                await self._sessions.end([session_id])
                await _not_found(send)
            else:
                await _unavailable(send)

    async def _is_gone(self, address: str, problem: ForwardingError) -> bool:
        # One that is slow keeps its sessions; of one whose machine has died nothing comes back either, but it no
        # longer says that it lives.
        return problem.kind == "connection" or (
            problem.kind == "timeout" and not await self._sessions.is_alive(address)
        )

    def _settling(self, scope: Scope, send: Send) -> Send:
        """A `send` that has the store remember a session before its client learns of it."""
        dropped = False

        async def settle_and_send(message: Message) -> None:
            nonlocal dropped
            if message["type"] == "http.response.start":
                session_id = next((value.decode() for name, value in message["headers"] if name == _SESSION), None)
                if session_id is not None and self._manager.has(session_id):
                    dropped = not await self._settle(session_id, scope)
                    if dropped:
                        await _unavailable(send)
            if not dropped:
                await send(message)

        return settle_and_send

    async def _settle(self, session_id: str, scope: Scope) -> bool:
        try:
            await self._sessions.settle(session_id, Residence(self._listen.reachable_at, _principal(scope)))
        except StoreUnavailableError:
            await self._manager.drop(session_id)
            return False
        self._kept[session_id] = time.monotonic()
        return True


def _session_of(scope: Scope) -> str | None:
    """The session that a request is of; one of a revision without sessions is of none, whatever it says."""
    headers = dict(scope["headers"])
    version = headers.get(_VERSION)
    if version is not None and version.decode("latin-1") not in HANDSHAKE_PROTOCOL_VERSIONS:
        return None
    session_id = headers.get(_SESSION)
    return None if session_id is None else session_id.decode("latin-1")


def _principal(scope: Scope) -> str:
    return json.dumps(principal_components(scope["user"].access_token))


async def _not_found(send: Send) -> None:
    await refuse(send, HTTPStatus.NOT_FOUND, INVALID_REQUEST, "Session not found")


async def _unavailable(send: Send) -> None:
    retry = [(b"retry-after", str(RETRY_AFTER_SECONDS).encode())]
    sentence = "The session cannot be reached at the moment; try again"
    await refuse(send, HTTPStatus.SERVICE_UNAVAILABLE, INTERNAL_ERROR, sentence, headers=retry)
