"""Token introspection (RFC 7662): an ASGI application of its own, for it is asked more often than all else together.

What resource servers send all day, an opaque token and a secret that was right before, is recognised by its form and
answered without a framework. Everything else takes the same way as at the other endpoints, to the same answers.
"""

import re
import time
from collections.abc import Awaitable, Coroutine
from functools import partial
from typing import Any

from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from keystile_auth.clients.authentication import ResourceAuthenticator
from keystile_auth.endpoints.answers import json_again, send_json
from keystile_auth.endpoints.parameters import FORM, authorization_of, form, ip_of, presented_credentials
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
_OPAQUE = re.compile(rb"token=(kst_at_[A-Za-z0-9_-]{49})(?:&token_type_hint=access_token)?")
"""A body that every way of reading a form reads alike: nothing in it is encoded, and no name comes twice."""


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
        authorization = _lone_authorization(scope)
        resource = self._authenticator.proved(authorization) if authorization else None
        if resource is None:
            await send_json(send, await self._counted(self._serve_any(Request(scope, receive), authorization)))
            return None
        message = await receive()
        match = _OPAQUE.fullmatch(message.get("body", b"")) if not message.get("more_body") else None
        if match is None:
            request = Request(scope, _again(message, receive))
            await send_json(send, await self._counted(self._serve_any(request, authorization)))
            return None
        await send_json(send, await self._counted(self._answer(match[1].decode(), resource)))
        return partial(self._serve_again, resource)

    def _serve_again(self, resource: Resource, body: bytes) -> Answer | Coroutine[Any, Any, Answer] | None:
        """Answer a request with a head whose secret proved the resource: the secrets are those of the settings."""
        match = _OPAQUE.fullmatch(body)
        if match is None:
            return None
        started = time.perf_counter()
        token = parse_access_token(match[1].decode())
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

    async def _serve_any(self, request: Request, authorization: bytes | None) -> str:
        parameters = await form(request)
        resource = await self._authenticate(request, parameters)
        if authorization is not None:
            self._authenticator.remember(authorization, resource)
        if "token" not in parameters:
            raise OAuthError("invalid_request", "token is required")
        return await self._answer(parameters["token"], resource)

    async def _authenticate(self, request: Request, parameters: dict[str, str]) -> Resource:
        presented = presented_credentials(authorization_of(request), parameters)
        try:
            return await self._authenticator.authenticate(presented)
        except OAuthError as problem:
            self._failures.labels(presented.method).inc()
            actor = Actor(client_id=presented.client_id[:200], ip=ip_of(request))
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


def _lone_authorization(scope: Scope) -> bytes | None:
    """The Authorization header, where there is one alone and the body is declared to be a form as everybody does."""
    found, is_form = None, False
    for name, value in scope["headers"]:
        if name == b"authorization":
            if found is not None:
                return None
            found = value
        elif name == b"content-type":
            if is_form or value != _FORM:
                return None
            is_form = True
    return found if is_form else None


def _again(message: Message, receive: Receive) -> Receive:
    """What was received, and then what comes."""
    first: list[Message] = [message]

    async def receive_again() -> Message:
        return first.pop() if first else await receive()

    return receive_again
