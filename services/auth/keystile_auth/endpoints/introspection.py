"""Token introspection (RFC 7662): an ASGI application of its own, for it is asked more often than all else together.

What resource servers send all day, an opaque token and what proved them before, is recognised by its form and answered
without a framework. Everything else takes the same way as at the other endpoints, to the same answers.
"""

import re
import time
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from keystile_auth.clients.authentication import PresentedCredentials, Proved, ResourceAuthenticator
from keystile_auth.endpoints.answers import json_again, send_json
from keystile_auth.endpoints.parameters import (
    FORM,
    authorization_of,
    body_of,
    content_type_of,
    form_of,
    ip_of,
    presented_credentials,
    require_form,
)
from keystile_auth.errors import OAuthError
from keystile_auth.store.grants import GrantStore
from keystile_auth.tokens.access_token import AccessTokens
from keystile_auth.tokens.opaque import Token, parse_access_token
from keystile_auth.tokens.resources import Resource
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.recurring_requests import Answer, AnswerAgain

_INACTIVE = '{"active":false}'
_FORM = FORM.encode()
_OPAQUE = re.compile(rb"token=(kst_at_[A-Za-z0-9_-]{49})(?=&|\Z)")
"""How a body with an opaque token begins: nothing of it is encoded, so what follows is read alike whichever it is."""
_RESTS = (b"", b"&token_type_hint=access_token")
"""What follows it where the head proves the resource."""


class IntrospectionEndpoint:
    """Answers `POST /introspect`. A resource learns of tokens that are for itself and of no others (section 4)."""

    def __init__(
        self,
        authenticator: ResourceAuthenticator,
        access_tokens: AccessTokens,
        grants: GrantStore,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._authenticator = authenticator
        self._access_tokens = access_tokens
        self._grants = grants
        self._audit = audit
        self._duration = metrics.introspection_duration
        self._failures = metrics.client_auth_failures
        self._count = {
            result: metrics.introspection_requests.labels(result)
            for result in ("active", "inactive", "unauthorized", "invalid", "error")
        }

    def routes(self, prefix: str) -> list[Route]:
        """The endpoint's route below the issuer's path, for what does not come by `Direct`."""
        return [Route(f"{prefix}/introspect", self, methods=["POST"])]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One introspection request that comes by the framework: of a script in a browser."""
        await self.serve(scope, receive, send)

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> AnswerAgain | None:
        """One introspection request that comes by `Direct`.

        Raises:
            OAuthError: it is refused; nothing was answered yet.
            StoreUnavailableError: the store is away; nothing was answered yet.
        """
        request = Request(scope, receive)
        body = await body_of(request)
        opaque = _Opaque.of(scope, body)
        proved = self._authenticator.proved(opaque.proof) if opaque else None
        if opaque is None or proved is None:
            answer = await self._counted(self._serve_any(request, body, opaque))
            # It may be what only now has proved the resource.
            proved = self._authenticator.proved(opaque.proof) if opaque else None
        else:
            answer = await self._counted(self._answer(opaque.token, proved.resource))
        await send_json(send, answer)
        return partial(self._serve_again, proved, opaque.rests) if opaque and proved else None

    def _serve_again(
        self, proved: Proved, rests: tuple[bytes, ...], body: bytes
    ) -> Answer | Coroutine[Any, Any, Answer] | None:
        """Answer a request with a head that, alone or with one of these rests of a body, proved the resource."""
        match = _OPAQUE.match(body)
        if match is None or body[match.end() :] not in rests or not self._authenticator.is_good(proved):
            return None
        started = time.perf_counter()
        token, resource = parse_access_token(match[1].decode()), proved.resource
        stored = self._grants.kept_access_token(token.grant_id, token.hash) if token else None
        if token is not None and stored is None:
            return self._look_up(token, resource)
        answer = _INACTIVE if stored is None or stored.audience != resource.uri else stored.answer
        self._note("inactive" if answer is _INACTIVE else "active", started)
        return json_again(answer)

    async def _look_up(self, token: Token, resource: Resource) -> Answer:
        return json_again(await self._counted(self._stored(token.grant_id, token.hash, resource)))

    async def _counted(self, answering: Awaitable[str]) -> str:
        started, result = time.perf_counter(), "error"
        try:
            answer = await answering
            result = "inactive" if answer is _INACTIVE else "active"
        except OAuthError as problem:
            result = "unauthorized" if problem.code == "invalid_client" else "invalid"
            raise
        finally:
            self._note(result, started)
        return answer

    def _note(self, result: str, started: float) -> None:
        self._count[result].inc()
        self._duration.observe(time.perf_counter() - started)

    async def _serve_any(self, request: Request, body: bytes, opaque: "_Opaque | None") -> str:
        require_form(content_type_of(request))
        parameters = form_of(body)
        presented = presented_credentials(authorization_of(request), parameters)
        proved = await self._authenticate(presented, ip_of(request))
        if opaque is not None:
            self._authenticator.remember(opaque.proof, proved)
        if "token" not in parameters:
            raise OAuthError("invalid_request", "token is required")
        return await self._answer(parameters["token"], proved.resource)

    async def _authenticate(self, presented: PresentedCredentials, ip: str) -> Proved:
        try:
            return await self._authenticator.authenticate(presented)
        except OAuthError as problem:
            self._failures.labels(presented.method).inc()
            actor = Actor(client_id=presented.client_id[:200], ip=ip)
            self._audit.record(EventType.CLIENT_AUTHENTICATION, "failure", actor, reason=problem.description)
            raise

    async def _answer(self, text: str, resource: Resource) -> str:
        # A JWT too is active only while the store has it: a revoked one is not, though its signature holds.
        token = await self._access_tokens.find_name(text)
        return await self._stored(token.grant_id, token.hash, resource) if token else _INACTIVE

    async def _stored(self, grant_id: str, token_hash: str, resource: Resource) -> str:
        stored = await self._grants.find_access_token(grant_id, token_hash)
        if stored is None or stored.audience != resource.uri:
            return _INACTIVE
        return stored.answer


class _Opaque(NamedTuple):
    """A request whose form is known: an opaque token, and beside it what says who asks.

    `proof` is all of that as it came: the value of the Authorization header, or what follows the token in the body.
    `rests` is what may follow the token in other requests with the same proof.
    """

    token: str
    proof: bytes
    rests: tuple[bytes, ...]

    @classmethod
    def of(cls, scope: Scope, body: bytes) -> "_Opaque | None":
        """A request as one of these, or None for any other."""
        match = _OPAQUE.match(body)
        if match is None:
            return None
        authorization, is_form = None, False
        for name, value in scope["headers"]:
            if name == b"authorization":
                if authorization is not None:
                    return None
                authorization = value
            elif name == b"content-type":
                if is_form or value != _FORM:
                    return None
                is_form = True
        if not is_form:
            return None
        token, rest = match[1].decode(), body[match.end() :]
        if authorization is None:
            return cls(token, b"form " + rest, (rest,))
        return cls(token, b"header " + authorization, _RESTS) if rest in _RESTS else None
