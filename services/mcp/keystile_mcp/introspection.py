"""Asking the authorization server about a token (RFC 7662)."""

from http import HTTPStatus

import aiohttp
import structlog
from opentelemetry.trace import SpanKind, Tracer

from keystile_common import traces
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_mcp.credentials import credentials
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError, read_answer
from keystile_mcp.key_files import KeyFileError
from keystile_mcp.settings import McpSettings

MAX_ANSWER_BYTES = 64 * 1024

_log = structlog.stdlib.get_logger(__name__)


class IntrospectionClient(HttpClient):
    """The introspection endpoint of one authorization server. Used as an async context manager."""

    def __init__(self, settings: McpSettings, tracer: Tracer) -> None:
        self._credentials = credentials(settings.introspection, settings.authorization_server)
        ca_file = settings.introspection.ca_file
        super().__init__(
            timeout_seconds=settings.introspection.timeout_seconds,
            authorities=TrustedAuthorities(ca_file, "introspection.ca_file") if ca_file else None,
            headers={"Accept": "application/json", **self._credentials.headers()},
            limit=settings.introspection.connections,
        )
        self._url = settings.introspection_url
        self._issuer = settings.authorization_server
        self._resource = settings.resource
        self._timeout_seconds = settings.introspection.timeout_seconds
        self._tracer = tracer
        self._trouble: str | None = None
        self.has_answered = False

    async def introspect(self, token: str) -> ActiveToken | None:
        """Ask about `token`.

        Returns:
            What the authorization server says of it, or None if it is not active.

        Raises:
            IntrospectionError: no usable answer within the time that the settings give.
        """
        try:
            with self._tracer.start_as_current_span("introspect", kind=SpanKind.CLIENT):
                active = read_answer(await self._ask(token), self._issuer, self._resource)
        except IntrospectionError as problem:
            self._note(str(problem))
            raise
        self._note(None)
        self.has_answered = True
        return active

    async def _ask(self, token: str) -> bytes:
        try:
            async with self.request(
                "POST",
                self._url,
                data={"token": token, "token_type_hint": "access_token", **self._credentials.form()},
                headers=traces.inject({}),
            ) as response:
                if response.status == HTTPStatus.UNAUTHORIZED:
                    raise IntrospectionError("it refuses introspection.client_id, or what proves it")
                if response.status != HTTPStatus.OK:
                    raise IntrospectionError(f"it answered with status {response.status}")
                return await _body(response)
        except KeyFileError as problem:
            raise IntrospectionError(str(problem)) from None
        except TimeoutError:
            raise IntrospectionError(f"no answer within {self._timeout_seconds:g} s") from None
        except aiohttp.ClientConnectorCertificateError as problem:
            reason = getattr(problem.certificate_error, "verify_message", "")
            raise IntrospectionError(f"its certificate is not accepted ({reason})") from None
        except aiohttp.ClientConnectorSSLError:
            raise IntrospectionError("it does not speak TLS as it should") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise IntrospectionError(f"it cannot be reached ({type(problem).__name__})") from None

    def _note(self, trouble: str | None) -> None:
        # A line when trouble begins, changes or ends; one a request would drown the log during an outage.
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("introspection works again", url=self._url)
        else:
            _log.error("introspection fails", url=self._url, problem=trouble)


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while not response.content.at_eof():
        body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
        if len(body) > MAX_ANSWER_BYTES:
            raise IntrospectionError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return body
