"""The account page: what a user has connected, and where the user is signed in."""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.directory import ClientDirectory
from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.consent_page import ScopeLine
from keystile_auth.endpoints.login import signed_in_user
from keystile_auth.endpoints.pages import Pages, redirect
from keystile_auth.endpoints.parameters import form, ip_of
from keystile_auth.errors import OAuthError
from keystile_auth.store.grant import Grant
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.sessions import SessionStore
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens.resources import Resources
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.store import every_step

_NOTICES = {
    "connection-ended": "Access has ended. The application must ask again.",
    "session-ended": "That session has ended.",
}


@dataclass(frozen=True, slots=True)
class Connection:
    """All live grants of a user to one client for one resource, as one line of the page."""

    id: str
    client_name: str
    client_host: str | None
    resource_name: str
    resource_uri: str
    scopes: list[ScopeLine]
    since: datetime
    last_used: datetime | None


class AccountEndpoint:
    """Answers `/account` and the forms on it."""

    def __init__(
        self,
        pages: Pages,
        browsers: Browsers,
        directory: ClientDirectory,
        resources: Resources,
        grants: GrantStore,
        users: UserStore,
        sessions: SessionStore,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._pages = pages
        self._browsers = browsers
        self._directory = directory
        self._resources = resources
        self._grants = grants
        self._users = users
        self._sessions = sessions
        self._audit = audit
        self._metrics = metrics

    def routes(self, prefix: str) -> list[Route]:
        """The routes below the issuer's path."""
        self._prefix = prefix
        self._actions = {
            "end_connection": f"{prefix}/account/end-connection",
            "end_session": f"{prefix}/account/end-session",
            "sign_out": f"{prefix}/account/sign-out",
            "sign_out_everywhere": f"{prefix}/account/sign-out-everywhere",
        }
        forms: dict[str, Callable[[Request], Awaitable[Response]]] = {
            "end_connection": self.end_connection,
            "end_session": self.end_session,
            "sign_out": self.sign_out,
            "sign_out_everywhere": self.sign_out_everywhere,
        }
        return [
            Route(f"{prefix}/account", self.get, methods=["GET"]),
            Route(f"{prefix}/account/signed-out", self.signed_out, methods=["GET"]),
            *(Route(self._actions[name], _whole(endpoint), methods=["POST"]) for name, endpoint in forms.items()),
        ]

    async def get(self, request: Request) -> Response:
        """The page."""
        browser = await self._browsers.read(request)
        if browser.user is None or browser.session is None:
            return redirect(f"{self._prefix}/login")
        sessions = [
            {
                "id": each.id,
                "current": each.id == browser.session.id,
                "since": _time(each.created),
                "last_seen": _time(each.seen),
                "ip": each.ip,
                "user_agent": each.user_agent,
            }
            for each in await self._sessions.of_user(browser.user.sub)
        ]
        page = self._pages.render(
            "account.html",
            user=browser.user,
            csrf=self._browsers.csrf_token(browser),
            connections=await self._connections(browser.user, ip_of(request)),
            sessions=sessions,
            actions=self._actions,
            notice=_NOTICES.get(request.query_params.get("notice", "")),
        )
        return self._browsers.keep(browser, page)

    async def signed_out(self, _: Request) -> Response:
        """What is shown after signing out."""
        return self._pages.render("signed_out.html", sign_in_url=f"{self._prefix}/login")

    async def end_connection(self, request: Request) -> Response:
        """End every grant to a client for a resource, with all tokens, and forget the consent."""
        _, user, parameters = await self._form(request)
        # Codes on their way too: redeemed a moment later, one would begin the connection anew.
        # And those that ended a moment ago: that may have been answered with 503.
        grants = [each for each in await self._grants.all_of_user(user.sub) if _is_of(each, parameters.get("id"))]
        for grant in grants:
            # Consent first: the client could otherwise come back unasked in between.
            await self._users.forget_consent(user.sub, grant.client_id, grant.resource)
            if await self._grants.end(grant.id, "user"):
                self._metrics.token_revocations.labels("user").inc()
                target = {"resource": grant.resource, "grant": grant.id}
                actor = Actor(user.sub, grant.client_id, ip_of(request))
                self._audit.record(EventType.GRANT_ENDED, "success", actor, reason="user", target=target)
        return redirect(f"{self._prefix}/account?notice=connection-ended")

    async def end_session(self, request: Request) -> Response:
        """End one of the user's sessions."""
        browser, user, parameters = await self._form(request)
        session_id = parameters.get("id", "")[:64]
        session = await self._sessions.find(session_id)
        if session is None:
            await self._sessions.confirm_deleted(session_id)
        if session is not None and session.sub == user.sub:
            await self._sessions.delete(session)
            self._logged_out(user, request, "ended")
        if browser.session and session and session.id == browser.session.id:
            return redirect(f"{self._prefix}/account/signed-out")
        return redirect(f"{self._prefix}/account?notice=session-ended")

    async def sign_out(self, request: Request) -> Response:
        """End this browser's session."""
        browser, user, _ = await self._form(request)
        signed_out = await self._browsers.sign_out(browser)
        self._logged_out(user, request, "user")
        return self._browsers.keep(signed_out, redirect(f"{self._prefix}/account/signed-out"))

    async def sign_out_everywhere(self, request: Request) -> Response:
        """End all of the user's sessions; what is connected stays connected."""
        browser, user, _ = await self._form(request)
        await self._sessions.delete_all_of_user(user.sub)
        signed_out = await self._browsers.sign_out(browser)
        self._logged_out(user, request, "everywhere")
        return self._browsers.keep(signed_out, redirect(f"{self._prefix}/account/signed-out"))

    async def _form(self, request: Request) -> tuple[Browser, User, dict[str, str]]:
        browser = await self._browsers.read(request)
        parameters = await form(request)
        self._browsers.check_csrf(browser, parameters.get("csrf"))
        return browser, signed_in_user(browser), parameters

    async def _connections(self, user: User, ip: str) -> list[Connection]:
        by_id: dict[str, list[Grant]] = {}
        for grant in await self._grants.of_user(user.sub):
            by_id.setdefault(_connection_id(grant), []).append(grant)
        return [await self._connection(identifier, grants, ip) for identifier, grants in by_id.items()]

    async def _connection(self, identifier: str, grants: list[Grant], ip: str) -> Connection:
        first = grants[0]
        try:
            client = await self._directory.find(first.client_id, ip)
            name, host = client.name, client.verified_host or client.host
        except OAuthError:  # its registration or document is gone; the grant must still be seen and ended
            name, host = first.client_id[:80], None
        resource = self._resources.find(first.resource)
        scopes = dict.fromkeys(scope for grant in grants for scope in grant.scopes)
        used = [grant.used for grant in grants if grant.used is not None]
        return Connection(
            id=identifier,
            client_name=name,
            client_host=host,
            resource_name=resource.title if resource else first.resource,
            resource_uri=first.resource,
            scopes=[ScopeLine(each, resource.scopes.get(each, each) if resource else each, True) for each in scopes],
            since=_time(min(grant.created for grant in grants) // 1000),
            last_used=_time(max(used) // 1000) if used else None,
        )

    def _logged_out(self, user: User, request: Request, reason: str) -> None:
        self._audit.record(EventType.USER_LOGOUT, "success", Actor(user.sub, ip=ip_of(request)), reason=reason)


def _whole(endpoint: Callable[[Request], Awaitable[Response]]) -> Callable[[Request], Awaitable[Response]]:
    """Have all that a form asks for done and recorded before it is said that it may still be lost."""

    async def done(request: Request) -> Response:
        with every_step("account"):
            return await endpoint(request)

    return done


def _is_of(grant: Grant, connection_id: str | None) -> bool:
    return _connection_id(grant) == connection_id


def _connection_id(grant: Grant) -> str:
    return hashlib.sha256(f"{grant.client_id} {grant.resource}".encode()).hexdigest()[:32]


def _time(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)
