"""A backend that runs elsewhere: any MCP server with Streamable HTTP, in any language.

The client's token never goes on (MCP authorization, token passthrough), nor do cookies and forwarded addresses.
"""

import contextlib
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

import structlog
from mcp_types import INTERNAL_ERROR
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_common.certificates import TrustedAuthorities
from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.metrics import McpMetrics
from keystile_common.settings import SettingsError
from keystile_mcp.bodies import read_body
from keystile_mcp.forwarding import Forwarder, ForwardingError, Started
from keystile_mcp.host_and_origin import HostAndOrigin
from keystile_mcp.json_rpc import refuse
from keystile_mcp.key_files import KeyFileError, RenewedFile, SigningKey
from keystile_mcp.owned_sessions import OwnedSessions
from keystile_mcp.session_store import SessionStore
from keystile_mcp.settings import ResourceServerSettings, UpstreamSettings
from keystile_mcp.upstream_credentials import Identity, credentials

NAME: Final = "The MCP server behind this one"
# What an upstream says of our credentials, or of where it has gone, is not for the client.
_NOT_FOR_CLIENTS: Final = frozenset({401, 403, 407, *range(300, 400)})

_log = structlog.stdlib.get_logger(__name__)


class Upstream:
    """A backend: the MCP server at `settings.upstream.url`.

    Args:
        settings: all of them; `upstream.url` is given.
        metrics: where failures are counted.
        sessions: for `OwnedSessions`.

    Raises:
        SettingsError: the key for identities cannot be used.
    """

    reads_elsewhere = True

    def __init__(
        self, settings: ResourceServerSettings, metrics: McpMetrics, sessions: SessionStore | None = None
    ) -> None:
        upstream = settings.upstream
        self._url = upstream.url or ""
        self._forwarder = Forwarder(
            NAME,
            connect_seconds=upstream.connect_timeout_seconds,
            authorities=TrustedAuthorities(upstream.ca_file, "upstream.ca_file") if upstream.ca_file else None,
            limit=upstream.connections,
        )
        self._credentials = credentials(upstream)
        self._identity = _identity(settings.resource, upstream)
        self._failures = metrics.upstream_failures
        self._trouble: str | None = None
        self._owned = OwnedSessions(self._serve, sessions, settings.store.start_seconds)
        self.app: ASGIApp = HostAndOrigin(self._owned, settings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves."""
        async with self._owned.running(), self._forwarder:
            yield

    async def tools(self) -> frozenset[str]:
        """None: they are learned from its lists."""
        return frozenset()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await read_body(receive)
        if body is None:
            return
        answer = Started(send)
        try:
            headers = self._headers(scope)
            await self._forwarder.forward(self._url, headers, _check, scope, body, receive, answer)
            self._note(None)
        except ForwardingError as problem:
            self._failures.labels(problem.kind).inc()
            self._note(str(problem))
            if answer.is_started:
                # Cut off rather than completed: half an answer must not look like a whole one.
                raise
            await _refuse(problem, scope.get("mcp_request_id"), send)

    def _headers(self, scope: Scope) -> dict[str, str]:
        try:
            headers = dict(self._credentials())
            if self._identity is not None:
                headers[Identity.HEADER] = self._identity.of(scope["user"].access_token)
        except KeyFileError as problem:
            _log.error("no credentials for the upstream", problem=str(problem))
            sentence = "This server has no credentials for the MCP server behind it"
            raise ForwardingError("credentials", sentence, HTTPStatus.BAD_GATEWAY) from None
        return headers

    def _note(self, trouble: str | None) -> None:
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("the upstream works again", url=self._url)
        else:
            _log.error("the upstream fails", url=self._url, problem=trouble)


def _identity(resource: str, upstream: UpstreamSettings) -> Identity | None:
    if upstream.identity_key_file is None:
        return None
    key = SigningKey(RenewedFile("upstream.identity_key_file", upstream.identity_key_file))
    try:
        key.sign({})
    except KeyFileError as problem:
        raise SettingsError(str(problem)) from None
    return Identity(key, resource, upstream.url or "")


def _check(status: int) -> None:
    if status in _NOT_FOR_CLIENTS:
        raise ForwardingError("refused", f"{NAME} answered with status {status}", HTTPStatus.BAD_GATEWAY)


async def _refuse(problem: ForwardingError, request_id: object, send: Send) -> None:
    data, headers = None, []
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        data = {"retryAfterSeconds": RETRY_AFTER_SECONDS}
        headers = [(b"retry-after", str(RETRY_AFTER_SECONDS).encode())]
    await refuse(send, problem.status, INTERNAL_ERROR, str(problem), request_id=request_id, data=data, headers=headers)
