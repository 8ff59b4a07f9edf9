"""The client registration endpoint and the client configuration endpoint (RFC 7591, RFC 7592)."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.client import Client
from keystile_auth.clients.registration import Registration
from keystile_auth.endpoints.answers import CORS, NO_STORE, no_store
from keystile_auth.endpoints.parameters import bearer_token, ip_of, json_object
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.limits import LimitStore
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.store import every_step

_WINDOW_SECONDS = 3600


class RegistrationEndpoint:
    """Answers `POST /register` and `GET`, `PUT`, `DELETE` below it."""

    def __init__(
        self,
        base: str,
        registration: Registration,
        grants: GrantStore,
        limits: LimitStore,
        per_hour: int,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._base = base
        self._registration = registration
        self._grants = grants
        self._limits = limits
        self._per_hour = per_hour
        self._audit = audit
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        one = f"{prefix}/register/{{client_id}}"
        return [
            Route(f"{prefix}/register", self.post, methods=["POST", "OPTIONS"], middleware=CORS),
            Route(one, self.manage, methods=["GET", "PUT", "DELETE", "OPTIONS"], middleware=CORS),
        ]

    async def post(self, request: Request) -> Response:
        """Register a client."""
        ip = ip_of(request)
        await self._limit(ip)
        try:
            client, secret, token = await self._registration.register(await json_object(request))
        except OAuthError as problem:
            self._metrics.client_registrations.labels("registration", "refused").inc()
            self._audit.record(
                EventType.CLIENT_REGISTERED,
                "failure",
                Actor(ip=ip),
                reason=f"{problem.code}: {problem.description}",
            )
            raise
        self._metrics.client_registrations.labels("registration", "registered").inc()
        self._audit.record(EventType.CLIENT_REGISTERED, "success", Actor(client_id=client.id, ip=ip))
        return no_store(self._document(client, secret, token), 201)

    async def manage(self, request: Request) -> Response:
        """Read, replace or delete a client's own registration."""
        token = bearer_token(request)
        client = await self._registration.authenticate(request.path_params["client_id"], token)
        actor = Actor(client_id=client.id, ip=ip_of(request))
        if request.method == "PUT":
            client, secret = await self._registration.update(client, await json_object(request))
            self._audit.record(EventType.CLIENT_UPDATED, "success", actor)
            return no_store(self._document(client, secret, token or ""))
        if request.method == "DELETE":
            await self._delete(client, actor)
            return Response(status_code=204, headers=NO_STORE)
        return no_store(self._document(client, None, token or ""))

    async def _delete(self, client: Client, actor: Actor) -> None:
        # Grants first: cut short, it can be asked again. And once more, for what began in between.
        ended = await self._grants.end_all_of_client(client.id, "client_deleted")
        with every_step("client.delete"):
            await self._registration.delete(client)
            ended += await self._grants.end_all_of_client(client.id, "client_deleted")
            self._metrics.token_revocations.labels("client_deleted").inc(ended)
            self._audit.record(EventType.CLIENT_DELETED, "success", actor, target={"grants": str(ended)})

    async def _limit(self, ip: str) -> None:
        count, left = await self._limits.count("registration", ip, _WINDOW_SECONDS)
        if count > self._per_hour:
            self._metrics.client_registrations.labels("registration", "limited").inc()
            raise RateLimitedError("registration", left)

    def _document(self, client: Client, secret: str | None, token: str) -> dict[str, Any]:
        optional = {"client_uri": client.client_uri, "jwks": client.jwks, "jwks_uri": client.jwks_uri}
        return {
            "client_id": client.id,
            "client_id_issued_at": client.issued,
            "client_name": client.name,
            "redirect_uris": list(client.redirect_uris),
            "grant_types": list(client.grant_types),
            "response_types": ["code"],
            "token_endpoint_auth_method": client.auth_methods[0],
            **{name: value for name, value in optional.items() if value is not None},
            **({"client_secret": secret, "client_secret_expires_at": 0} if secret else {}),
            "registration_client_uri": f"{self._base}/register/{client.id}",
            "registration_access_token": token,
        }
