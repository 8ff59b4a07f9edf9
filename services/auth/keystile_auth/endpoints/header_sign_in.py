"""Signing in whom a front proxy names: without a page, since the proxy has asked already."""

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.pages import redirect
from keystile_auth.endpoints.parameters import ip_of
from keystile_auth.endpoints.sign_in import SignInPage
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.errors import RateLimitedError
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.identity.answer import SignIn, SignInRefusedError
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.header import HeaderIdentity
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.users import User
from keystile_common import client_certificate

_WINDOW_SECONDS = 300


class HeaderSignIn:
    """Tries it; what a client may do is still asked afterwards."""

    def __init__(
        self,
        page: SignInPage,
        browsers: Browsers,
        waiting: WaitingRequests,
        identities: Identities,
        limits: LimitStore,
        *,
        tries_per_address: int,
    ) -> None:
        self._page = page
        self._browsers = browsers
        self._waiting = waiting
        self._identities = identities
        self._limits = limits
        self._tries = tries_per_address

    async def try_in(
        self, request: Request, browser: Browser, identifier: str | None, asked: AuthorizationRequest | None
    ) -> Response | None:
        """Begin a session of whom the proxy names.

        None where there is no such proxy, it names nobody, or it is no page that is opened (Fetch Metadata).

        Args:
            request: to the sign-in page.
            browser: that sent it, in which nobody is signed in.
            identifier: of the waiting request, if there is one.
            asked: that request.

        Raises:
            RateLimitedError: too many requests of one address have claimed what they may not.
        """
        header = self._identities.header
        # An image or a frame of another site must not fill the list of sessions of whoever looks at it.
        if header is None or request.headers.get("sec-fetch-dest", "document") != "document":
            return None
        try:
            user = await self._who(header, request)
        except SignInRefusedError as refused:
            return await self._refused(header, refused, request, browser, identifier, asked)
        if user is None:
            return None if self._identities.have_others else self._nobody(header, browser, identifier, asked)
        signed_in = await self._browsers.sign_in(request, browser, user)
        if identifier and asked:
            await self._waiting.rebind(identifier, asked, signed_in)
        self._page.record(header.name, "success", user, asked, ip_of(request))
        return self._browsers.keep(signed_in, redirect(self._page.after(identifier)))

    async def _who(self, header: HeaderIdentity, request: Request) -> User | None:
        person = header.person(request.headers.raw, client_certificate.of(request.scope))
        return None if person is None else await self._identities.know(header.name, SignIn(person))

    def _nobody(
        self, header: HeaderIdentity, browser: Browser, identifier: str | None, asked: AuthorizationRequest | None
    ) -> Response:
        sentence = (
            f"{header.title} did not say who you are. This page must be opened at an address that leads through it."
        )
        return self._page.show(browser, identifier, asked, error=sentence, status=HTTPStatus.FORBIDDEN)

    async def _refused(
        self,
        header: HeaderIdentity,
        refused: SignInRefusedError,
        request: Request,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
    ) -> Response:
        ip = ip_of(request)
        # Anybody who reaches the server can send a header; each is a line of the audit log.
        count, left = await self._limits.count("header-address", ip, _WINDOW_SECONDS)
        if count > self._tries:
            if count == self._tries + 1:
                self._page.record(header.name, "limited", None, asked, ip)
            raise RateLimitedError("login", left)
        self._page.record(header.name, "failure", None, asked, ip, refused.reason)
        sentence = f"{header.title} did not sign you in: {refused.sentence}."
        return self._page.show(browser, identifier, asked, error=sentence, status=HTTPStatus.FORBIDDEN)
