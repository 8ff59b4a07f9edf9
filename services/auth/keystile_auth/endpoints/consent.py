"""Consent: a person sees who asks for what, and decides."""

from dataclasses import replace
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients import redirect_uri
from keystile_auth.endpoints.browser import Browsers
from keystile_auth.endpoints.consent_page import ConsentPage, consent_target
from keystile_auth.endpoints.login import signed_in_user
from keystile_auth.endpoints.pages import redirect
from keystile_auth.endpoints.parameters import form, ip_of
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.errors import OAuthError
from keystile_auth.grants.authorization_code import AuthorizationCodeGrant
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.identity.permissions import permitted_scopes
from keystile_auth.store.users import User, UserStore
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics


class ConsentEndpoint:
    """Answers `/consent`."""

    def __init__(
        self,
        page: ConsentPage,
        browsers: Browsers,
        waiting: WaitingRequests,
        users: UserStore,
        codes: AuthorizationCodeGrant,
        audit: AuditLog,
        metrics: AuthMetrics,
        *,
        always_ask_native_clients: bool,
    ) -> None:
        self._page = page
        self._browsers = browsers
        self._waiting = waiting
        self._users = users
        self._codes = codes
        self._audit = audit
        self._metrics = metrics
        self._always_ask_native = always_ask_native_clients

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        self._prefix = prefix
        return [
            Route(f"{prefix}/consent", self.get, methods=["GET"]),
            Route(f"{prefix}/consent", self.post, methods=["POST"]),
            Route(f"{prefix}/consent/switch-user", self.switch_user, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """The consent page; or straight on, where all of it was consented to before."""
        browser = await self._browsers.read(request)
        identifier = request.query_params.get("request", "")
        asked = await self._waiting.find(identifier, browser)
        if browser.user is None:
            return redirect(f"{self._prefix}/login?request={identifier}")
        offered = _permitted(asked, browser.user)
        if asked.scopes and not offered.scopes:
            await self._waiting.take(identifier, browser)
            return self._nothing_permitted(asked, browser.user, ip_of(request))
        granted = await self._users.consented(browser.user.sub, asked.client.id, asked.resource.uri)
        if set(offered.scopes) <= granted and offered.scopes and not self._must_ask(asked):
            await self._waiting.take(identifier, browser)
            return await self._grant(offered, browser.user, ip_of(request), "remembered")
        return self._page.for_user(identifier, offered, browser, browser.user, granted, self._prefix)

    async def post(self, request: Request) -> Response:
        """A decision."""
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        user = signed_in_user(browser)
        decision = parameters.get("decision")
        if decision not in {"allow", "deny"}:
            raise OAuthError("invalid_request", "decision must be allow or deny")
        taken = await self._waiting.take(parameters.get("request"), browser)
        asked = _permitted(taken, user)
        if taken.scopes and not asked.scopes:
            return self._nothing_permitted(taken, user, ip_of(request))
        actor = Actor(user.sub, asked.client.id, ip_of(request))
        if decision == "deny":
            self._metrics.authorization_requests.labels("denied", "access_denied").inc()
            self._audit.record(EventType.CONSENT, "denied", actor, target=consent_target(asked))
            answer = {"error": "access_denied", "error_description": "the user did not allow it"}
            return redirect(self._waiting.answer_url(asked, answer))
        granted = await self._users.consented(user.sub, asked.client.id, asked.resource.uri)
        scopes = granted | set(asked.scopes)
        await self._users.remember_consent(user.sub, asked.client.id, asked.resource.uri, scopes)
        self._audit.record(EventType.CONSENT, "success", actor, target=consent_target(asked))
        return await self._grant(asked, user, ip_of(request), "asked")

    async def switch_user(self, request: Request) -> Response:
        """Sign out and sign in as somebody else, for the same request."""
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        identifier = parameters.get("request", "")
        asked = await self._waiting.find(identifier, browser)
        if browser.user:
            actor = Actor(browser.user.sub, asked.client.id, ip_of(request))
            self._audit.record(EventType.USER_LOGOUT, "success", actor, reason="switch_user")
        signed_out = await self._browsers.sign_out(browser)
        await self._waiting.rebind(identifier, asked, signed_out)
        return self._browsers.keep(signed_out, redirect(f"{self._prefix}/login?request={identifier}&switch=1"))

    def _must_ask(self, asked: AuthorizationRequest) -> bool:
        is_native = redirect_uri.is_loopback(asked.redirect_uri) or urlsplit(asked.redirect_uri).scheme != "https"
        return self._always_ask_native and is_native

    async def _grant(self, asked: AuthorizationRequest, user: User, ip: str, reason: str) -> Response:
        code, grant_id = await self._codes.issue(asked, user)
        self._metrics.authorization_requests.labels("granted", "").inc()
        target = {**consent_target(asked), "grant": grant_id}
        self._audit.record(
            EventType.CODE_ISSUED,
            "success",
            Actor(user.sub, asked.client.id, ip),
            reason=reason,
            target=target,
        )
        return redirect(self._waiting.answer_url(asked, {"code": code}))

    def _nothing_permitted(self, asked: AuthorizationRequest, user: User, ip: str) -> Response:
        self._metrics.authorization_requests.labels("denied", "access_denied").inc()
        actor = Actor(user.sub, asked.client.id, ip)
        self._audit.record(EventType.CONSENT, "denied", actor, reason="not permitted", target=consent_target(asked))
        answer = {"error": "access_denied", "error_description": "the user may not be granted any of these scopes"}
        return redirect(self._waiting.answer_url(asked, answer))


def _permitted(asked: AuthorizationRequest, user: User) -> AuthorizationRequest:
    """The request without the scopes that the user may not be granted: they are not offered."""
    permitted = permitted_scopes(asked.resource, user)
    return replace(asked, scopes=tuple(scope for scope in asked.scopes if scope in permitted))
