"""Signing in and out."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.pages import PageError, Pages, redirect
from keystile_auth.endpoints.parameters import form, ip_of
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.identity.local import LocalUsers
from keystile_auth.settings import SignInSettings
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.users import User
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics

_WINDOW_SECONDS = 300
_WRONG = "The user name or the password is wrong."


class LoginEndpoint:
    """Answers `/login`."""

    def __init__(
        self,
        pages: Pages,
        browsers: Browsers,
        waiting: WaitingRequests,
        users: LocalUsers,
        limits: LimitStore,
        settings: SignInSettings,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._pages = pages
        self._browsers = browsers
        self._waiting = waiting
        self._users = users
        self._limits = limits
        self._settings = settings
        self._audit = audit
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        self._prefix = prefix
        return [
            Route(f"{prefix}/login", self.get, methods=["GET"]),
            Route(f"{prefix}/login", self.post, methods=["POST"]),
        ]

    async def get(self, request: Request) -> Response:
        """The sign-in page, for a client's request or for the account page."""
        browser = await self._browsers.read(request)
        identifier = request.query_params.get("request")
        asked = await self._waiting.find(identifier, browser) if identifier else None
        if browser.user:
            return redirect(self._after(identifier))
        return self._page(browser, identifier, asked)

    async def post(self, request: Request) -> Response:
        """One try to sign in."""
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        identifier = parameters.get("request")
        asked = await self._waiting.find(identifier, browser) if identifier else None
        username, ip = parameters.get("username", ""), ip_of(request)
        wait = await self._count_try(username, ip)
        if wait:
            self._record("limited", None, asked, ip)
            self._metrics.rate_limited.labels("login").inc()
            minutes = -(-wait // 60)
            sentence = f"Too many tries. Wait {minutes} minute{'s' if minutes > 1 else ''}, then try again."
            limited = self._page(browser, identifier, asked, username, sentence, 429)
            limited.headers["Retry-After"] = str(wait)
            return limited
        user = await self._users.verify(username, parameters.get("password", ""))
        if user is None:
            self._record("failure", None, asked, ip)
            return self._page(browser, identifier, asked, username, _WRONG, 401)
        await self._uncount_try(username, ip)
        signed_in = await self._browsers.sign_in(request, browser, user)
        if identifier and asked:
            await self._waiting.rebind(identifier, asked, signed_in)
        self._record("success", user, asked, ip)
        return self._browsers.keep(signed_in, redirect(self._after(identifier)))

    def _after(self, identifier: str | None) -> str:
        return f"{self._prefix}/consent?request={identifier}" if identifier else f"{self._prefix}/account"

    async def _count_try(self, username: str, ip: str) -> int:
        """Count a try against user and address; answers the seconds to wait, 0 when it may go on.

        Counted before the password is looked at: were only failures counted, after it, a thousand tries at
        once would all be let through.
        """
        waits = []
        for limit, who, most in self._bounds(username, ip):
            count, left = await self._limits.count(limit, who, _WINDOW_SECONDS)
            waits.append(left if count > most else 0)
        return max(waits)

    async def _uncount_try(self, username: str, ip: str) -> None:
        for limit, who, _ in self._bounds(username, ip):
            await self._limits.count(limit, who, _WINDOW_SECONDS, by=-1)

    def _bounds(self, username: str, ip: str) -> list[tuple[str, str, int]]:
        return [
            ("login-user", username.casefold(), self._settings.failures_per_5_minutes_and_user),
            ("login-address", ip, self._settings.failures_per_5_minutes_and_address),
        ]

    def _page(
        self,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
        username: str = "",
        error: str | None = None,
        status: int = 200,
    ) -> Response:
        page = self._pages.render(
            "login.html",
            status,
            form_targets=[asked.redirect_uri] if asked else [],
            action=f"{self._prefix}/login",
            csrf=self._browsers.csrf_token(browser),
            request_id=identifier,
            client_name=asked.client.name if asked else None,
            username=username[:128],
            error=error,
        )
        return self._browsers.keep(browser, page)

    def _record(self, outcome: str, user: User | None, asked: AuthorizationRequest | None, ip: str) -> None:
        self._metrics.logins.labels("local", outcome).inc()
        # A failed try's name stays out: people type passwords into the wrong field.
        actor = Actor(user.sub if user else None, asked.client.id if asked else None, ip)
        self._audit.record(EventType.USER_LOGIN, "success" if user else "failure", actor, reason=f"local {outcome}")


def signed_in_user(browser: Browser) -> User:
    """The user of a page that needs one.

    Raises:
        PageError: 401.
    """
    if browser.user is None:
        raise PageError(
            401,
            "You are signed out",
            "Your session has ended.",
            "Sign in again, or start anew in the application.",
        )
    return browser.user
