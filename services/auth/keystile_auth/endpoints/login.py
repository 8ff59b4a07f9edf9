"""Signing in with a name and a password; or without a page, where a front proxy says who somebody is."""

import unicodedata

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.header_sign_in import HeaderSignIn
from keystile_auth.endpoints.pages import PageError, redirect
from keystile_auth.endpoints.parameters import form, ip_of
from keystile_auth.endpoints.sign_in import SignInPage
from keystile_auth.endpoints.upstream import UpstreamEndpoint
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.identity.answer import IdentityUnavailableError, SignIn, SignInRefusedError
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.local import MAX_PASSWORD_CHARACTERS, MAX_USERNAME_CHARACTERS
from keystile_auth.settings import SignInSettings
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.users import LOCAL, User
from keystile_common.metrics import AuthMetrics

_WINDOW_SECONDS = 300
_MARKS = {"Mn", "Me"}
_WRONG = "The user name or the password is wrong."


class LoginEndpoint:
    """Answers `/login`."""

    def __init__(
        self,
        page: SignInPage,
        browsers: Browsers,
        waiting: WaitingRequests,
        identities: Identities,
        upstream: UpstreamEndpoint,
        headers: HeaderSignIn,
        limits: LimitStore,
        settings: SignInSettings,
        metrics: AuthMetrics,
    ) -> None:
        self._page = page
        self._browsers = browsers
        self._waiting = waiting
        self._identities = identities
        self._upstream = upstream
        self._headers = headers
        self._limits = limits
        self._settings = settings
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        self._page.at(prefix)
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
            return redirect(self._page.after(identifier))
        is_switch = "switch" in request.query_params
        named = None if is_switch else await self._headers.try_in(request, browser, identifier, asked)
        return named or self._page.show(browser, identifier, asked, is_switch=is_switch)

    async def post(self, request: Request) -> Response:
        """One try to sign in."""
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        identifier = parameters.get("request")
        asked = await self._waiting.find(identifier, browser) if identifier else None
        username, ip = parameters.get("username", ""), ip_of(request)
        elsewhere = self._identities.of_address(username)
        if elsewhere is not None:
            # Whatever stands in the password field is for another server, and goes no further.
            return await self._upstream.begin(
                browser, identifier, asked, elsewhere, hint=username, is_switch="switch" in parameters
            )
        name = self._chosen(parameters)
        wait = await self._count_try(username, ip)
        if wait:
            self._page.record(name, "limited", None, asked, ip)
            self._metrics.rate_limited.labels("login").inc()
            minutes = -(-wait // 60)
            sentence = f"Too many tries. Wait {minutes} minute{'s' if minutes > 1 else ''}, then try again."
            limited = self._page.show(browser, identifier, asked, username=username, error=sentence, status=429)
            limited.headers["Retry-After"] = str(wait)
            return limited
        why, error, status = "", _WRONG, 401
        try:
            user = await self._verify(name, username, parameters.get("password", ""))
        except SignInRefusedError as refused:
            user, why = None, refused.reason
            if refused.sentence:
                error, status = f"{self._identities.title(name)} did not sign you in: {refused.sentence}.", 403
        except IdentityUnavailableError as away:
            self._page.record(name, "unavailable", None, asked, ip)
            sentence = f"{away.title} does not answer at the moment. Try again in a minute."
            return self._page.show(browser, identifier, asked, username=username, error=sentence, status=503)
        if user is None:
            self._page.record(name, "failure", None, asked, ip, why)
            return self._page.show(browser, identifier, asked, username=username, error=error, status=status)
        await self._uncount_try(username, ip)
        signed_in = await self._browsers.sign_in(request, browser, user)
        if identifier and asked:
            await self._waiting.rebind(identifier, asked, signed_in)
        self._page.record(name, "success", user, asked, ip)
        return self._browsers.keep(signed_in, redirect(self._page.after(identifier)))

    def _chosen(self, parameters: dict[str, str]) -> str:
        """The identity that is to see the password: one only."""
        names = list(self._identities.with_passwords)
        chosen = parameters.get("identity", names[0] if names else "")
        if chosen not in names:
            raise PageError(400, "There is no such sign-in", "The form names a way to sign in that is not offered.")
        return chosen

    async def _verify(self, name: str, username: str, password: str) -> User | None:
        if name == LOCAL:
            return await self._identities.local.verify(username, password)
        if not username or not password:
            return None
        if len(username) > MAX_USERNAME_CHARACTERS or len(password) > MAX_PASSWORD_CHARACTERS:
            return None
        identity = await self._identities.shown_passwords(name).authenticate(username, password)
        if identity is None:
            return None
        try:
            return await self._identities.know(name, SignIn(identity))
        except SignInRefusedError:  # disabled here: as with a local user, it is not told
            return None

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
            ("login-user", _folded(username), self._settings.failures_per_5_minutes_and_user),
            ("login-address", ip, self._settings.failures_per_5_minutes_and_address),
        ]


def _folded(username: str) -> str:
    """A name as the most tolerant directory compares it (RFC 4518, Active Directory): all spellings count as one.

    Without accents, widths, case, what cannot be seen, and spaces that mean nothing.
    """
    plain = unicodedata.normalize("NFKD", username)
    seen = (
        each for each in plain if each.isspace() or (each.isprintable() and unicodedata.category(each) not in _MARKS)
    )
    return " ".join("".join(seen).casefold().split())


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
