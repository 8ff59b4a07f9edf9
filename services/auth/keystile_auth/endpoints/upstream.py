"""Signing in at another server: consent first, then there and back (MCP security best practices, confused deputy)."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.consent_page import ConsentPage, Destination, consent_target
from keystile_auth.endpoints.pages import PageError, redirect
from keystile_auth.endpoints.parameters import form, ip_of, parse, query_of, single
from keystile_auth.endpoints.sign_in import SignInPage
from keystile_auth.endpoints.waiting_request import WaitingRequests
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.identity.answer import IdentityUnavailableError, SignIn, SignInRefusedError
from keystile_auth.identity.directory import Identities
from keystile_auth.identity.pending import PendingSignIns
from keystile_auth.identity.permissions import permitted_scopes
from keystile_auth.store.limits import LimitStore
from keystile_auth.store.users import User, UserStore
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics

if TYPE_CHECKING:
    from keystile_auth.identity.provider import Provider

_WINDOW_SECONDS = 300
_MAX_HINT_CHARACTERS = 254
_DENIED = {"access_denied", "login_required", "interaction_required", "consent_required", "account_selection_required"}


class UpstreamEndpoint:
    """Answers `/login/upstream` and `/login/callback`."""

    def __init__(
        self,
        page: SignInPage,
        consent_page: ConsentPage,
        browsers: Browsers,
        waiting: WaitingRequests,
        identities: Identities,
        users: UserStore,
        pending: PendingSignIns,
        limits: LimitStore,
        audit: AuditLog,
        metrics: AuthMetrics,
        *,
        tries_per_address: int,
    ) -> None:
        self._page = page
        self._consent_page = consent_page
        self._browsers = browsers
        self._waiting = waiting
        self._identities = identities
        self._users = users
        self._pending = pending
        self._limits = limits
        self._audit = audit
        self._metrics = metrics
        self._tries = tries_per_address

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        self._action = f"{prefix}/login/upstream"
        if not self._identities.providers:
            return []
        return [
            Route(self._action, self.post, methods=["POST"]),
            Route(f"{prefix}/login/callback/{{identity}}", self.callback, methods=["GET"]),
        ]

    async def post(self, request: Request) -> Response:
        """An identity was chosen; with `decision`, what a client asks for was decided on too."""
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        identifier = parameters.get("request")
        asked = await self._waiting.find(identifier, browser) if identifier else None
        hint, is_switch = parameters.get("email"), "switch" in parameters
        name = parameters.get("identity") or self._identities.of_address(hint or "")
        if name is None and hint:
            sentence = "Nobody here signs in with an address of this domain."
            return self._page.show(browser, identifier, asked, error=sentence, status=400, is_switch=is_switch)
        if name not in self._identities.providers:
            raise PageError(400, "There is no such sign-in", "The form names a way to sign in that is not offered.")
        decision = parameters.get("decision")
        if decision is None or asked is None:
            return await self.begin(browser, identifier, asked, name, hint=hint, is_switch=is_switch)
        if decision == "deny":
            return await self._denied(identifier, browser, ip_of(request))
        if decision != "allow":
            raise OAuthError("invalid_request", "decision must be allow or deny")
        return await self._send(browser, identifier, asked, name, hint=hint, is_switch=is_switch)

    async def begin(
        self,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
        name: str,
        *,
        hint: str | None,
        is_switch: bool,
    ) -> Response:
        """The way to an identity: past the consent page where a client asks, at once where none does."""
        if browser.user:
            return redirect(self._page.after(identifier))
        if asked is None or identifier is None:
            return await self._send(browser, None, None, name, hint=hint, is_switch=is_switch)
        provider = self._identities.providers[name]
        destination = Destination(name, provider.title, provider.address, hint, is_switch=is_switch)
        return self._consent_page.before_sign_in(identifier, asked, browser, destination, self._action)

    async def _send(
        self,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
        name: str,
        *,
        hint: str | None,
        is_switch: bool,
    ) -> Response:
        attempt = self._pending.new()
        try:
            url = await self._identities.providers[name].authorization_url(
                attempt, (hint or "")[:_MAX_HINT_CHARACTERS] or None, other_user=is_switch
            )
        except IdentityUnavailableError as away:
            self._metrics.logins.labels(name, "unavailable").inc()
            return self._away(away, browser, identifier, asked)
        # Only now: before the person has consented there is nothing that a callback could lead to.
        await self._pending.keep(attempt, browser.id, name, identifier)
        return self._browsers.keep(browser, redirect(url))

    async def callback(self, request: Request) -> Response:
        """What an identity sent the browser back with."""
        name = request.path_params["identity"]
        parameters = single(parse(query_of(request)))
        state = parameters.get("state", "")
        provider = self._identities.providers.get(name)
        if provider is None or provider.service_metadata:  # those post their answers
            raise sign_in_is_over()
        return await self.finish(request, name, state, lambda: self._who(provider, parameters, state))

    async def finish(self, request: Request, name: str, state: str, ask: Callable[[], Awaitable[SignIn]]) -> Response:
        """Sign somebody in who comes back, in the browser that was sent, once.

        Args:
            request: of that browser.
            name: of the identity.
            state: of the sign-in.
            ask: checks what the identity answered; called when the browser is the one that was sent.

        Raises:
            PageError: 400: no such sign-in is on its way in this browser.
            RateLimitedError: too many tries from this address.
        """
        browser, ip = await self._browsers.read(request), ip_of(request)
        pending = await self._pending.take(state, browser.id, name)
        if pending is None:
            raise sign_in_is_over()
        asked = await self._waiting.find(pending.request, browser) if pending.request else None
        count, left = await self._limits.count("login-address", ip, _WINDOW_SECONDS)
        if count > self._tries:
            self._page.record(name, "limited", None, asked, ip)
            raise RateLimitedError("login", left)
        try:
            user = await self._identities.know(name, await ask())
        except IdentityUnavailableError as away:
            self._page.record(name, "unavailable", None, asked, ip)
            return self._away(away, browser, pending.request, asked)
        except SignInRefusedError as refused:
            self._page.record(name, "failure", None, asked, ip, refused.reason)
            sentence = f"{self._identities.title(name)} did not sign you in: {refused.sentence}."
            return self._page.show(browser, pending.request, asked, error=sentence, status=403, is_switch=True)
        await self._limits.count("login-address", ip, _WINDOW_SECONDS, by=-1)
        signed_in = await self._browsers.sign_in(request, browser, user)
        self._page.record(name, "success", user, asked, ip)
        if pending.request and asked:
            await self._remember(asked, user, ip)
            await self._waiting.rebind(pending.request, asked, signed_in)
        return self._browsers.keep(signed_in, redirect(self._page.after(pending.request)))

    async def _who(self, provider: "Provider", parameters: dict[str, str], state: str) -> SignIn:
        provider.check_issuer(parameters.get("iss"))
        error = parameters.get("error")
        if error is not None:
            # Its own description could say anything to anybody: only codes that are known are shown.
            shown = error if error in _DENIED else "an error"
            raise SignInRefusedError(f"answered {shown}", f"it answered {shown}")
        if "code" not in parameters:
            raise SignInRefusedError("no code", "its answer is not complete")
        return await provider.sign_in(parameters["code"], self._pending.of(state))

    async def _remember(self, asked: AuthorizationRequest, user: User, ip: str) -> None:
        """Keep the consent that was given before the sign-in, as far as the user may give it."""
        scopes = {scope for scope in asked.scopes if scope in permitted_scopes(asked.resource, user)}
        if not scopes:
            return
        granted = await self._users.consented(user.sub, asked.client.id, asked.resource.uri)
        await self._users.remember_consent(user.sub, asked.client.id, asked.resource.uri, granted | scopes)
        actor = Actor(user.sub, asked.client.id, ip)
        self._audit.record(EventType.CONSENT, "success", actor, target=consent_target(asked))

    async def _denied(self, identifier: str | None, browser: Browser, ip: str) -> Response:
        asked = await self._waiting.take(identifier, browser)
        self._metrics.authorization_requests.labels("denied", "access_denied").inc()
        actor = Actor(client_id=asked.client.id, ip=ip)
        self._audit.record(EventType.CONSENT, "denied", actor, target=consent_target(asked))
        answer = {"error": "access_denied", "error_description": "the user did not allow it"}
        return redirect(self._waiting.answer_url(asked, answer))

    def _away(
        self,
        away: IdentityUnavailableError,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
    ) -> Response:
        return self._page.show(browser, identifier, asked, error=away.sentence, status=503)


def sign_in_is_over() -> PageError:
    """What is said of an answer that no sign-in waits for."""
    return PageError(
        400,
        "This sign-in is over",
        "It was finished already, took too long, or was begun in another browser.",
        "Go back to the application and connect again.",
    )
