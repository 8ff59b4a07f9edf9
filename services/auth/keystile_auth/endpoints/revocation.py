"""Token revocation (RFC 7009)."""

import json

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.authentication import ClientAuthenticator
from keystile_auth.clients.client import Client
from keystile_auth.endpoints.answers import CORS, NO_STORE
from keystile_auth.endpoints.parameters import authorization_of, form, ip_of, presented_credentials
from keystile_auth.errors import OAuthError
from keystile_auth.store.grants import GrantStore
from keystile_auth.tokens import opaque
from keystile_auth.tokens.access_token import AccessTokens
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.store import every_step


class RevocationEndpoint:
    """Answers `POST /revoke`. A refresh token takes its whole grant with it, an access token only itself."""

    def __init__(
        self,
        authenticator: ClientAuthenticator,
        grants: GrantStore,
        access_tokens: AccessTokens,
        refresh_tokens: opaque.RefreshTokens,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._authenticator = authenticator
        self._grants = grants
        self._access_tokens = access_tokens
        self._refresh_tokens = refresh_tokens
        self._audit = audit
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The endpoint's route below the issuer's path."""
        return [Route(f"{prefix}/revoke", self.post, methods=["POST", "OPTIONS"], middleware=CORS)]

    async def post(self, request: Request) -> Response:
        """One revocation request; 200 whether there was such a token or not (section 2.2)."""
        parameters = await form(request)
        presented = presented_credentials(authorization_of(request), parameters)
        ip = ip_of(request)
        try:
            client = await self._authenticator.authenticate(presented, ip)
        except OAuthError as problem:
            if problem.code == "invalid_client":
                self._metrics.client_auth_failures.labels(presented.method).inc()
            raise
        if "token" not in parameters:
            raise OAuthError("invalid_request", "token is required")
        with every_step("token.revoke"):  # recorded though it is not confirmed: asked again, it would be no news
            await self._revoke(parameters["token"], client, ip)
        return Response(status_code=200, headers=NO_STORE)

    async def _revoke(self, text: str, client: Client, ip: str) -> None:
        access, refresh = await self._access_tokens.find_name(text), self._refresh_tokens.parse(text)
        if refresh is not None:
            grant = await self._grants.find(refresh.grant_id)
            if grant is not None and grant.client_id == client.id and await self._grants.end(grant.id, "client"):
                self._record(grant.sub, client, ip, {"resource": grant.resource, "grant": grant.id})
        elif access is not None:
            stored = await self._grants.find_access_token(access.grant_id, access.hash)
            if stored is None:
                # Perhaps the same request as a moment ago, which was answered that the revocation may still be lost.
                await self._grants.confirm(access.grant_id)
            answer = json.loads(stored.answer) if stored else {}
            if answer.get("client_id") == client.id and await self._grants.revoke_access_token(
                access.grant_id, access.hash
            ):
                self._record(answer["sub"], client, ip, {"resource": answer["aud"], "token": access.hash})

    def _record(self, sub: str, client: Client, ip: str, target: dict[str, str]) -> None:
        self._metrics.token_revocations.labels("client").inc()
        self._audit.record(
            EventType.TOKEN_REVOKED, "success", Actor(sub, client.id, ip), reason="client", target=target
        )
