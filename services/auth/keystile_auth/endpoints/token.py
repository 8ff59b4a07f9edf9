"""The token endpoint (RFC 6749 section 3.2)."""

import secrets
import time
from collections.abc import Coroutine
from functools import cache
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from keystile_auth.clients.authentication import ClientAuthenticator, PresentedCredentials
from keystile_auth.clients.client import Client
from keystile_auth.endpoints.answers import CORS, NO_STORE, json_again, send_json
from keystile_auth.endpoints.parameters import (
    authorization_of,
    body_of,
    content_type_of,
    form_of,
    ip_of,
    presented_credentials,
    require_form,
)
from keystile_auth.errors import OAuthError
from keystile_auth.grants.authorization_code import AuthorizationCodeGrant, CodeRequest, CodeReusedError
from keystile_auth.grants.client_credentials import ClientCredentialsGrant
from keystile_auth.grants.presented import Presented
from keystile_auth.grants.refresh_token import RefreshRequest, RefreshTokenGrant, RefreshTokenReusedError
from keystile_auth.grants.resource_owner import UserGoneError
from keystile_auth.grants.token_response import TokenResponse
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.recurring_requests import Answer, AnswerAgain
from keystile_common.store import StoreUnavailableError

GRANT_TYPES = ("authorization_code", "refresh_token", "client_credentials")
_EVENTS = {
    "issued": EventType.TOKEN_ISSUED,
    "refreshed": EventType.TOKEN_REFRESHED,
    "repaired": EventType.REFRESH_TOKEN_GENERATION_LOST,
}


class _Head:
    """What the head of a token request says; requests that recur have it in common."""

    def __init__(self, request: Request) -> None:
        self.ip = ip_of(request)
        self.content_type = content_type_of(request)
        self.authorization = authorization_of(request)


class _Asked:
    """A token request. What it says is read once, though it may come again and again."""

    def __init__(self, head: _Head, body: bytes) -> None:
        self._head = head
        self._body = body
        # Not `cached_property`, which takes a lock on Python 3.11.
        self._parameters: dict[str, str] | None = None
        self._presented: PresentedCredentials | None = None

    @property
    def ip(self) -> str:
        """As `ip_of`."""
        return self._head.ip

    @property
    def parameters(self) -> dict[str, str]:
        """As `form`."""
        if self._parameters is None:
            require_form(self._head.content_type)
            self._parameters = form_of(self._body)
        return self._parameters

    @property
    def presented(self) -> PresentedCredentials:
        """As `presented_credentials`."""
        if self._presented is None:
            self._presented = presented_credentials(self._head.authorization, self.parameters)
        return self._presented


class TokenEndpoint:
    """Answers `POST /token`."""

    def __init__(
        self,
        authenticator: ClientAuthenticator,
        authorization_code: AuthorizationCodeGrant,
        refresh_token: RefreshTokenGrant,
        client_credentials: ClientCredentialsGrant,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._authenticator = authenticator
        self._authorization_code = authorization_code
        self._refresh_token = refresh_token
        self._client_credentials = client_credentials
        self._audit = audit
        self._metrics = metrics
        # What every request counts, looked up once.
        self._count = cache(metrics.token_requests.labels)
        self._duration = {each: metrics.token_request_duration.labels(each) for each in (*GRANT_TYPES, "unknown")}
        self._issued = {
            (token, each): metrics.tokens_issued.labels(token, each)
            for token in ("access_token", "refresh_token")
            for each in GRANT_TYPES
        }

    def routes(self, prefix: str) -> list[Route]:
        """The endpoint's route below the issuer's path."""
        return [Route(f"{prefix}/token", self.post, methods=["POST", "OPTIONS"], middleware=CORS)]

    async def post(self, request: Request) -> Response:
        """One token request that comes by the framework: of a script in a browser."""
        asked = _Asked(_Head(request), await body_of(request))
        return Response(await self._serve(asked), headers=NO_STORE, media_type="application/json")

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> AnswerAgain:
        """One token request that comes by `Direct`.

        Raises:
            OAuthError: it is refused; nothing was answered yet.
            StoreUnavailableError: the store is away; nothing was answered yet.
        """
        request = Request(scope, receive)
        head, body = _Head(request), await body_of(request)
        asked = _Asked(head, body)
        await send_json(send, await self._serve(asked))
        return self._again(head, body, asked)

    def _again(self, head: _Head, last_body: bytes, last: _Asked) -> AnswerAgain:
        def serve_again(body: bytes) -> Coroutine[Any, Any, Answer]:
            nonlocal last_body, last
            if body != last_body:
                last_body, last = body, _Asked(head, body)
            return self._serve_again(last)

        return serve_again

    async def _serve_again(self, asked: _Asked) -> Answer:
        return json_again(await self._serve(asked))

    async def _serve(self, asked: _Asked) -> str:
        started = time.perf_counter()
        ip, grant_type, client_id = asked.ip, "unknown", None
        try:
            parameters = asked.parameters
            if parameters.get("grant_type") in GRANT_TYPES:
                grant_type = parameters["grant_type"]
            credentials = asked.presented
            # Before it is known who asks: what holds the grant is read with it.
            found = await self._find(grant_type, parameters)
            client = await self._authenticate(credentials, ip, found)
            client_id = client.id
            answer = await self._grant(client, parameters, found)
        except OAuthError as problem:
            self._count(grant_type, "error", problem.code).inc()
            self._record_failure(problem, Actor(client_id=client_id, ip=ip), grant_type)
            raise
        except StoreUnavailableError:
            self._count(grant_type, "error", "temporarily_unavailable").inc()
            raise
        finally:
            self._duration[grant_type].observe(time.perf_counter() - started)
        self._record(answer, Actor(answer.sub, client.id, ip), grant_type)
        return answer.to_json()

    async def _find(self, grant_type: str, parameters: dict[str, str]) -> Presented[Any] | None:
        match grant_type:
            case "authorization_code":
                return await self._authorization_code.find(parameters.get("code", ""))
            case "refresh_token":
                return await self._refresh_token.find(parameters.get("refresh_token", ""))
            case _:
                return None

    async def _authenticate(self, presented: PresentedCredentials, ip: str, found: Presented[Any] | None) -> Client:
        document = found.held.client if found and found.held.grant.client_id == presented.client_id else None
        try:
            return await self._authenticator.authenticate(presented, ip, document)
        except OAuthError as problem:
            if problem.code == "invalid_client":
                self._metrics.client_auth_failures.labels(presented.method).inc()
                # The id is what a stranger wrote: only its beginning goes into the log.
                actor = Actor(client_id=presented.client_id[:200], ip=ip)
                self._audit.record(EventType.CLIENT_AUTHENTICATION, "failure", actor, reason=problem.description)
            raise

    async def _grant(self, client: Client, parameters: dict[str, str], found: Presented[Any] | None) -> TokenResponse:
        resource = parameters.get("resource")
        match parameters.get("grant_type"):
            case "authorization_code":
                _require(parameters, "code")
                request = CodeRequest(
                    found,
                    parameters.get("code_verifier"),
                    parameters.get("redirect_uri"),
                    resource,
                    _new_attempt(),
                )
                return await self._authorization_code.redeem(client, request)
            case "refresh_token":
                _require(parameters, "refresh_token")
                refresh = RefreshRequest(found, parameters.get("scope"), resource, _new_attempt())
                return await self._refresh_token.rotate(client, refresh)
            case "client_credentials":
                return await self._client_credentials.issue(client, resource, parameters.get("scope"))
            case None:
                raise OAuthError("invalid_request", "grant_type is required")
            case _:
                raise OAuthError("unsupported_grant_type", f"grant_type must be one of {', '.join(GRANT_TYPES)}")

    def _record(self, answer: TokenResponse, actor: Actor, grant_type: str) -> None:
        self._count(grant_type, "success", "").inc()
        self._issued["access_token", grant_type].inc()
        if answer.refresh_token:
            self._issued["refresh_token", grant_type].inc()
        target = {"resource": answer.resource, "grant": answer.grant_id, "scope": answer.scope}
        self._audit.record(_EVENTS[answer.event], "success", actor, reason=grant_type, target=target)

    def _record_failure(self, problem: OAuthError, actor: Actor, grant_type: str) -> None:
        match problem:
            case RefreshTokenReusedError(grant=grant):
                self._metrics.refresh_token_reuse.inc()
                self._metrics.token_revocations.labels("refresh_token_reuse").inc()
                kind = EventType.REFRESH_TOKEN_REUSE_DETECTED
            case CodeReusedError(grant=grant):
                self._metrics.token_revocations.labels("code_reuse").inc()
                kind = EventType.CODE_REUSE_DETECTED
            case UserGoneError(grant=grant, ended=ended):
                self._metrics.token_revocations.labels("identity").inc(ended)
                actor = Actor(grant.sub, actor.client_id, actor.ip)
                target = {"resource": grant.resource, "grant": grant.id}
                self._audit.record(EventType.GRANT_ENDED, "success", actor, reason="identity", target=target)
                return
            case _:
                if actor.client_id is not None:
                    kind = EventType.ACCESS_DENIED
                    self._audit.record(kind, "denied", actor, reason=f"{problem.code}: {problem.description}",
                                       target={"grant_type": grant_type})  # fmt: skip
                return
        actor = Actor(grant.sub, actor.client_id, actor.ip)
        self._audit.record(kind, "denied", actor, target={"resource": grant.resource, "grant": grant.id})


def _new_attempt() -> str:
    return secrets.token_urlsafe(12)


def _require(parameters: dict[str, str], name: str) -> None:
    if name not in parameters:
        raise OAuthError("invalid_request", f"{name} is required")
