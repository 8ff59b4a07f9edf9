"""A backend that runs elsewhere: any MCP server with Streamable HTTP, in any language.

Of a request goes on what MCP needs and nothing else. The client's token never does (MCP authorization, token
passthrough), nor do cookies and forwarded addresses; of an answer neither cookies nor challenges come back.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Final

import aiohttp
import structlog
from mcp_types import INTERNAL_ERROR
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common import traces
from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.http_client import HttpClient
from keystile_common.metrics import McpMetrics
from keystile_common.settings import SettingsError
from keystile_mcp.key_files import KeyFileError, RenewedFile, SigningKey
from keystile_mcp.owned_sessions import OwnedSessions
from keystile_mcp.settings import McpSettings, UpstreamSettings
from keystile_mcp.transport import HostAndOrigin
from keystile_mcp.upstream_credentials import Identity, credentials

_REQUEST_HEADERS: Final = frozenset({b"accept", b"content-type", b"last-event-id", b"user-agent"})
_RESPONSE_HEADERS: Final = frozenset({"content-type", "cache-control", "allow", "retry-after"})
_MCP: Final = "mcp-"
# What an upstream says of our credentials, or of where it has gone, is not for the client.
_NOT_FOR_CLIENTS: Final = frozenset({401, 403, 407, *range(300, 400)})

_SENTENCE_OF_CREDENTIALS: Final = "This server has no credentials for the MCP server behind it"
_log = structlog.stdlib.get_logger(__name__)


class UpstreamError(Exception):
    """No answer can be had. `kind` is as the metric has it, `str()` a sentence for the log and for the client."""

    def __init__(self, kind: str, sentence: str, status: HTTPStatus) -> None:
        super().__init__(sentence)
        self.kind = kind
        self.status = status


class Upstream(HttpClient):
    """A backend: the MCP server at `settings.upstream.url`.

    Args:
        settings: all of them; `upstream.url` is given.
        metrics: where failures are counted.
        session_key: for `OwnedSessions`.

    Raises:
        SettingsError: the key for identities cannot be used.
    """

    reads_elsewhere = True

    def __init__(self, settings: McpSettings, metrics: McpMetrics, session_key: bytes) -> None:
        upstream = settings.upstream
        super().__init__(
            timeout_seconds=upstream.connect_timeout_seconds, ca_file=upstream.ca_file, limit=upstream.connections
        )
        self._url = upstream.url or ""
        self._credentials = credentials(upstream)
        self._identity = _identity(settings.resource, upstream)
        # A call may take as long as it takes; only reaching the server may not.
        self._request_timeout = aiohttp.ClientTimeout(total=None, connect=upstream.connect_timeout_seconds)
        self._failures = metrics.upstream_failures
        self._trouble: str | None = None
        self.app: ASGIApp = HostAndOrigin(OwnedSessions(self._serve, session_key), settings)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves."""
        async with self:
            yield

    async def tools(self) -> frozenset[str]:
        """None: they are learned from its lists."""
        return frozenset()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _body(receive)
        answering = asyncio.create_task(self._answer(scope, body, send))
        leaving = asyncio.create_task(_disconnected(receive))
        try:
            # When the client goes away so does our request, which tells the server to stop.
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.gather(leaving, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await answering

    async def _answer(self, scope: Scope, body: bytes, send: Send) -> None:
        started = False
        try:
            async with self._open(scope, body) as response:
                await send(_start(response))
                started = True
                async for chunk in _chunks(response):
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
                await send({"type": "http.response.body", "body": b""})
            self._note(None)
        except UpstreamError as problem:
            self._failures.labels(problem.kind).inc()
            self._note(str(problem))
            if started:
                # Cut off rather than completed: half an answer must not look like a whole one.
                raise
            await _refuse(problem, scope.get("mcp_request_id"), send)

    @contextlib.asynccontextmanager
    async def _open(self, scope: Scope, body: bytes) -> AsyncIterator[aiohttp.ClientResponse]:
        try:
            async with self.session.request(
                scope["method"],
                self._url,
                data=body or None,
                headers=traces.inject(self._headers_of(scope)),
                allow_redirects=False,
                auto_decompress=False,
                timeout=self._request_timeout,
            ) as response:
                if response.status in _NOT_FOR_CLIENTS:
                    sentence = f"The MCP server behind this one answered with status {response.status}"
                    raise UpstreamError("refused", sentence, HTTPStatus.BAD_GATEWAY)
                yield response
        except KeyFileError as problem:
            raise UpstreamError("credentials", _SENTENCE_OF_CREDENTIALS, HTTPStatus.BAD_GATEWAY) from problem
        except TimeoutError:
            raise _unreachable("timeout") from None
        except (aiohttp.ClientConnectionError, OSError):
            raise _unreachable("connection") from None
        except aiohttp.ClientError:
            sentence = "The MCP server behind this one answers what is not HTTP"
            raise UpstreamError("protocol", sentence, HTTPStatus.BAD_GATEWAY) from None

    def _headers_of(self, scope: Scope) -> dict[str, str]:
        headers = {
            name.decode("latin-1"): value.decode("latin-1")
            for name, value in scope["headers"]
            if name in _REQUEST_HEADERS or name.startswith(_MCP.encode())
        }
        headers["accept-encoding"] = "identity"
        headers |= self._credentials()
        if self._identity is not None:
            headers[Identity.HEADER] = self._identity.of(scope["user"].access_token)
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


def _unreachable(kind: str) -> UpstreamError:
    return UpstreamError(
        kind,
        f"The MCP server behind this one cannot be reached; try again in {RETRY_AFTER_SECONDS} seconds",
        HTTPStatus.SERVICE_UNAVAILABLE,
    )


async def _body(receive: Receive) -> bytes:
    body = b""
    while True:
        message = await receive()
        body += bytes(message.get("body", b""))
        if not message.get("more_body", False):
            return body


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _start(response: aiohttp.ClientResponse) -> Message:
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in response.headers.items()
        if name.lower() in _RESPONSE_HEADERS or name.lower().startswith(_MCP)
    ]
    return {"type": "http.response.start", "status": response.status, "headers": headers}


async def _chunks(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # As they come; the next is read when the client has taken this one.
    try:
        async for chunk in response.content.iter_any():
            yield chunk
    except (aiohttp.ClientError, OSError):
        sentence = "The MCP server behind this one broke off its answer"
        raise UpstreamError("broken_off", sentence, HTTPStatus.BAD_GATEWAY) from None


async def _refuse(problem: UpstreamError, request_id: object, send: Send) -> None:
    error: dict[str, object] = {"code": INTERNAL_ERROR, "message": str(problem)}
    headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-store")]
    if problem.status == HTTPStatus.SERVICE_UNAVAILABLE:
        error["data"] = {"retryAfterSeconds": RETRY_AFTER_SECONDS}
        headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error}).encode()
    headers.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": int(problem.status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
