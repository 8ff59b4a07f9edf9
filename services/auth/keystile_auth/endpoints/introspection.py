"""Token introspection (RFC 7662)."""

import time

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.authentication import ResourceAuthenticator
from keystile_auth.endpoints.answers import NO_STORE
from keystile_auth.endpoints.parameters import form, ip_of, presented_credentials
from keystile_auth.errors import OAuthError
from keystile_auth.store.grants import GrantStore
from keystile_auth.tokens.access_token import AccessTokens
from keystile_auth.tokens.resources import Resource
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.store import StoreUnavailableError

_INACTIVE = '{"active":false}'


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
        """The endpoint's route below the issuer's path."""
        return [Route(f"{prefix}/introspect", self.post, methods=["POST"])]

    async def post(self, request: Request) -> Response:
        """One introspection request."""
        started = time.perf_counter()
        result = "error"
        try:
            parameters = await form(request)
            resource = await self._authenticate(request, parameters)
            if "token" not in parameters:
                raise OAuthError("invalid_request", "token is required")
            answer = await self._answer(parameters["token"], resource)
            result = "inactive" if answer is _INACTIVE else "active"
        except OAuthError as problem:
            result = "unauthorized" if problem.code == "invalid_client" else "invalid"
            raise
        except StoreUnavailableError:
            result = "error"
            raise
        finally:
            self._count[result].inc()
            self._duration.observe(time.perf_counter() - started)
        return Response(answer, media_type="application/json", headers=NO_STORE)

    async def _authenticate(self, request: Request, parameters: dict[str, str]) -> Resource:
        presented = presented_credentials(request, parameters)
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
        stored = await self._grants.find_access_token(token.grant_id, token.hash) if token else None
        if stored is None or stored.audience != resource.uri:
            return _INACTIVE
        return stored.answer
