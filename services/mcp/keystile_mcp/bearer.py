"""Bearer tokens in front of an ASGI application (RFC 6750).

Raw ASGI, since it runs on every request: with an answer in the cache it costs a few microseconds.
"""

import re
from urllib.parse import parse_qsl

from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_mcp.challenge import BearerError, Challenge, invalid_token, malformed_request, missing_token
from keystile_mcp.denials import Denials
from keystile_mcp.introspection_cache import Clock
from keystile_mcp.streams import BoundedStream, OpenStreams
from keystile_mcp.validation import TokenValidator

MAX_TOKEN_BYTES = 8 * 1024

_B64TOKEN = re.compile(rb"[A-Za-z0-9._~+/-]+=*")
_UNRECORDED = frozenset({"missing", "unavailable"})
"""Refusals that say nothing about the token: noise of clients that have none yet, and outages."""


class Bearer:
    """Lets a request through to `app` if it brings an access token that is good for this resource.

    `app` finds the SDK's `AuthenticatedUser` in `scope["user"]` and the scopes in `scope["auth"]`. It does
    not find the Authorization header: a token is for this resource alone, and nothing behind here may pass
    it on.

    Args:
        app: what is protected.
        validator: says whether a token is good.
        challenge: writes refusals.
        denials: records them.
        streams: notes the responses that are streams.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        app: ASGIApp,
        validator: TokenValidator,
        challenge: Challenge,
        denials: Denials,
        *,
        streams: OpenStreams,
        clock: Clock,
    ) -> None:
        self._app = app
        self._validator = validator
        self._challenge = challenge
        self._denials = denials
        self._streams = streams
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request of any method."""
        changes = self._streams.changes
        try:
            token = read_token(scope)
            answer = await self._validator.validate(token)
        except BearerError as error:
            await self._refuse(error, scope, send)
            return
        # httptools leaves white space at the end of a value, which is no part of it (RFC 9110 section 5.5).
        headers = [(name, value.rstrip(b" \t")) for name, value in scope["headers"] if name != b"authorization"]
        active = answer.token
        inner = {**scope, "headers": headers, "user": active.user, "auth": active.credentials}
        stream = BoundedStream(
            scope,
            send,
            token,
            answer,
            validator=self._validator,
            streams=self._streams,
            changes=changes,
            clock=self._clock,
        )
        try:
            await self._app(inner, receive, stream.send)
        finally:
            stream.close()

    async def _refuse(self, error: BearerError, scope: Scope, send: Send) -> None:
        self._validator.count(error)
        if error.result not in _UNRECORDED:
            self._denials.record(error, scope)
        await self._challenge.refuse(error, send)


def read_token(scope: Scope) -> str:
    """The access token of a request, from its Authorization header and nowhere else.

    Raises:
        BearerError: there is none, or the request is not as RFC 6750 section 2.1 wants it.
    """
    if scope["query_string"] and _names_a_token(scope["query_string"]):
        raise malformed_request("An access token must not be in the URL; send it in the Authorization header")
    values = [value.rstrip(b" \t") for name, value in scope["headers"] if name == b"authorization"]
    if not values:
        raise missing_token()
    if len(values) > 1:
        raise malformed_request("There must be one Authorization header")
    scheme, _, token = values[0].partition(b" ")
    if scheme.lower() != b"bearer":
        raise missing_token()
    if len(token) > MAX_TOKEN_BYTES:
        raise invalid_token("malformed", f"The access token is longer than {MAX_TOKEN_BYTES} bytes")
    if _B64TOKEN.fullmatch(token) is None:
        raise malformed_request("The Authorization header must be Bearer, one space and the access token")
    return str(token, "ascii")


def _names_a_token(query: bytes) -> bool:
    pairs = parse_qsl(query.decode("latin-1"), keep_blank_values=True)
    return any(name == "access_token" for name, _ in pairs)
