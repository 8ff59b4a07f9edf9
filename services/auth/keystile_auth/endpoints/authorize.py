"""The authorization endpoint (RFC 6749 section 3.1)."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.client import Client
from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.endpoints.browser import Browsers
from keystile_auth.endpoints.pages import PageError, redirect
from keystile_auth.endpoints.parameters import ip_of, parse, query_of
from keystile_auth.endpoints.waiting_request import WaitingRequests, answer_url
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_auth.grants import authorization_request
from keystile_auth.grants.authorization_request import AuthorizationRequest, ReturnAddress
from keystile_auth.tokens.resources import Resources
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics


class AuthorizationEndpoint:
    """Answers `GET /authorize`: checks the request and sends the browser to sign in or to consent."""

    def __init__(
        self,
        issuer: str,
        directory: ClientDirectory,
        resources: Resources,
        browsers: Browsers,
        waiting: WaitingRequests,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._issuer = issuer
        self._directory = directory
        self._resources = resources
        self._browsers = browsers
        self._waiting = waiting
        self._audit = audit
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The endpoint's route below the issuer's path."""
        self._prefix = prefix
        return [Route(f"{prefix}/authorize", self.get, methods=["GET"])]

    async def get(self, request: Request) -> Response:
        """One authorization request."""
        ip = ip_of(request)
        client, address, parameters, repeated = await self._trusted_address(request, ip)
        try:
            if repeated:
                raise OAuthError("invalid_request", f"the parameter {min(repeated)[:40]} must be given once")
            asked = authorization_request.check(parameters, client, address, self._resources)
        except OAuthError as problem:
            self._failed(problem, Actor(client_id=client.id, ip=ip))
            answer = {"error": problem.code, "error_description": problem.description}
            return redirect(answer_url(address.redirect_uri, address.state, self._issuer, answer))
        return await self._to_next_page(request, asked)

    async def _trusted_address(
        self, request: Request, ip: str
    ) -> tuple[Client, ReturnAddress, dict[str, str], set[str]]:
        """Who asks and where answers may go. Until both are known to belong together nothing is sent on."""
        client_id = None
        try:
            parameters, repeated = parse(query_of(request))
            for name in ("client_id", "redirect_uri"):
                if name in repeated:
                    raise OAuthError("invalid_request", f"the parameter {name} must be given once")
            client_id = parameters.get("client_id")
            if not client_id:
                raise OAuthError("invalid_request", "client_id is required")
            client = await self._directory.find(client_id, ip)
            return client, authorization_request.return_address(parameters, client), parameters, repeated
        except OAuthError as problem:
            self._failed(problem, Actor(client_id=client_id[:200] if client_id else None, ip=ip))
            if isinstance(problem, RateLimitedError):
                raise
            raise PageError(
                400,
                "This application cannot be connected",
                f"Its request is not valid: {problem.description}.",
                "Nothing was shared. Remove the connection in the application and add it again; "
                "if that does not help, tell its developer what stands here.",
                problem.code,
            ) from problem

    async def _to_next_page(self, request: Request, asked: AuthorizationRequest) -> Response:
        browser = await self._browsers.read(request)
        identifier = await self._waiting.keep(asked, browser)
        page = "consent" if browser.user else "login"
        return self._browsers.keep(browser, redirect(f"{self._prefix}/{page}?request={identifier}"))

    def _failed(self, problem: OAuthError, actor: Actor) -> None:
        self._metrics.authorization_requests.labels("error", problem.code).inc()
        reason = f"{problem.code}: {problem.description}"
        self._audit.record(EventType.ACCESS_DENIED, "denied", actor, reason=reason)
