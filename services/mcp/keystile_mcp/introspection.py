"""Asking the authorization server about a token (RFC 7662)."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Mapping
from http import HTTPStatus

import aiohttp
import structlog
from opentelemetry.trace import SpanKind, Tracer

from keystile_common import opaque, traces
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_mcp.access_token_claims import ClaimsError, read_introspected
from keystile_mcp.credentials import credentials
from keystile_mcp.discovery import find_address
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError, read_active, read_answer
from keystile_mcp.issuers import Issuer
from keystile_mcp.key_files import KeyFileError

MAX_ANSWER_BYTES = 64 * 1024

_log = structlog.stdlib.get_logger(__name__)


class AnyIntrospection(HttpClient, ABC):
    """An endpoint that says what a token is good for. Used as an async context manager.

    Args:
        issuer: whose endpoint it is.
        tracer: what it traces with.
        headers: sent with every request.
    """

    def __init__(self, issuer: Issuer, tracer: Tracer, headers: Mapping[str, str]) -> None:
        settings = issuer.introspection
        super().__init__(
            timeout_seconds=settings.timeout_seconds,
            authorities=TrustedAuthorities(settings.ca_file, "introspection.ca_file") if settings.ca_file else None,
            headers={"Accept": "application/json", **headers},
            limit=settings.connections,
        )
        self.issuer = issuer
        self._url = issuer.introspection_url
        self._timeout_seconds = settings.timeout_seconds
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
                active = await self._ask_or_say_why(token)
        except IntrospectionError as problem:
            self._note(str(problem))
            raise
        self._note(None)
        self.has_answered = True
        return active

    async def address(self) -> str:
        """Where to ask, from the settings or the issuer's metadata.

        Raises:
            DiscoveryError: neither says so.
        """
        if self._url is None:
            self._url = await find_address(self, self.issuer.identifier, "introspection_endpoint")
        return self._url

    @abstractmethod
    async def ask(self, token: str) -> ActiveToken | None:
        """Ask about `token`; None if it is not active.

        Raises:
            IntrospectionError: no usable answer.
        """

    async def _ask_or_say_why(self, token: str) -> ActiveToken | None:
        try:
            return await self._ask_again_if_cut_off(token)
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

    async def _ask_again_if_cut_off(self, token: str) -> ActiveToken | None:
        async with asyncio.timeout(self._timeout_seconds):
            try:
                return await self.ask(token)
            except (aiohttp.ClientConnectorSSLError, aiohttp.ClientConnectorCertificateError):
                raise
            except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
                # A server that stops closes the connections that it keeps open, and this question may have been on its
                # way on one. Another replica answers it; to be asked twice does no harm.
                return await self.ask(token)

    def _note(self, trouble: str | None) -> None:
        # A line when trouble begins, changes or ends; one a request would drown the log during an outage.
        if trouble == self._trouble:
            return
        self._trouble = trouble
        url = self._url or self.issuer.identifier
        if trouble is None:
            _log.info("introspection works again", url=url)
        else:
            _log.error("introspection fails", url=url, problem=trouble)


class IntrospectionClient(AnyIntrospection):
    """The introspection endpoint of one authorization server. Used as an async context manager."""

    def __init__(self, issuer: Issuer, tracer: Tracer) -> None:
        self._credentials = credentials(issuer.introspection, issuer.identifier)
        super().__init__(issuer, tracer, self._credentials.headers())

    async def ask(self, token: str) -> ActiveToken | None:
        """Ask about `token`."""
        async with self.request(
            "POST",
            await self.address(),
            data={"token": token, "token_type_hint": "access_token", **self._credentials.form()},
            headers=traces.inject({}),
        ) as response:
            if response.status == HTTPStatus.UNAUTHORIZED:
                raise IntrospectionError("it refuses introspection.client_id, or what proves it")
            if response.status != HTTPStatus.OK:
                raise IntrospectionError(f"it answered with status {response.status}")
            body = await body_of(response)
        active = read(body, self.issuer)
        if active is None or not self.issuer.is_keystile:
            return active
        return active.of_session(opaque.grant_of(token))


def read(body: bytes, issuer: Issuer) -> ActiveToken | None:
    """What an answer of `issuer` says, or None if the token is not active.

    Raises:
        IntrospectionError: the answer is not what RFC 7662 says.
    """
    if issuer.is_keystile:
        active = read_answer(body, issuer.identifier, issuer.resource, issuer.audiences)
        return active if active is None or issuer.until is None else active.ending(issuer.until)
    answer = read_active(body)
    try:
        return None if answer is None else read_introspected(answer, issuer)
    except ClaimsError as problem:
        raise IntrospectionError(f"the answer {problem}") from None


async def body_of(response: aiohttp.ClientResponse) -> bytes:
    """The body of `response`.

    Raises:
        IntrospectionError: it is too large to be an answer.
    """
    body = b""
    while not response.content.at_eof():
        body += await response.content.read(MAX_ANSWER_BYTES + 1 - len(body))
        if len(body) > MAX_ANSWER_BYTES:
            raise IntrospectionError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return body
