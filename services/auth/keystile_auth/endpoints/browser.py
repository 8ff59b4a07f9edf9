"""The browser in front of us: its cookie, its CSRF token, who is signed in."""

import hashlib
import hmac
import re
import secrets
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from keystile_auth.endpoints.pages import PageError
from keystile_auth.endpoints.parameters import ip_of
from keystile_auth.identity.answer import IdentityGoneError, SignInRefusedError
from keystile_auth.identity.directory import Identities
from keystile_auth.store.sessions import Session, SessionStore
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens.master_key import MasterKey
from keystile_common import client_certificate
from keystile_common.audit import Actor, AuditLog, EventType

_COOKIE = re.compile(r"[A-Za-z0-9_-]{43}")
_MAX_USER_AGENT = 200


@dataclass(frozen=True, slots=True)
class Browser:
    """A browser. `secret` is its cookie's value, never stored; the store knows its hash, `id`."""

    secret: str
    session: Session | None
    user: User | None

    @property
    def id(self) -> str:
        """SHA-256 of the cookie's value, in hex."""
        return hashlib.sha256(self.secret.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"Browser(user={self.user.sub if self.user else None!r})"


class Browsers:
    """Reads and writes the session cookie: `__Host-`, Secure, HttpOnly, SameSite=Lax where the issuer is https."""

    def __init__(
        self,
        issuer: str,
        sessions: SessionStore,
        users: UserStore,
        master_key: MasterKey,
        lifetime_seconds: int,
        identities: Identities,
        audit: AuditLog,
    ) -> None:
        self._identities = identities
        self._audit = audit
        self._https = issuer.startswith("https:")
        # Cookies do not know ports: two servers on one loopback host must not take each other's.
        mark = hashlib.sha256(issuer.encode()).hexdigest()[:8]
        self._name = "__Host-keystile" if self._https else f"keystile-{mark}"
        self._sessions = sessions
        self._users = users
        self._csrf_key = master_key.derive("csrf")
        self._lifetime = lifetime_seconds

    async def read(self, request: Request) -> Browser:
        """The browser that sent this request; an unknown one gets a new cookie when it is answered."""
        secret = request.cookies.get(self._name, "")
        if not _COOKIE.fullmatch(secret):
            return Browser(secrets.token_urlsafe(32), None, None)
        browser = Browser(secret, None, None)
        session = await self._sessions.find(browser.id)
        user = await self._users.find(session.sub) if session else None
        if session is None or user is None or user.disabled or not self._identities.is_current(user):
            return browser
        return Browser(secret, session, user) if await self._is_of(request, session, user) else browser

    async def _is_of(self, request: Request, session: Session, user: User) -> bool:
        """Whether a session holds for a request; one whose proxy names somebody else now ends."""
        try:
            shown = client_certificate.of(request.scope)
            return self._identities.still_named(user, request.headers.raw, shown)
        except SignInRefusedError:
            return False
        except IdentityGoneError as gone:
            await self._sessions.delete(session)
            reason = f"{user.identity}: {gone}"
            self._audit.record(EventType.USER_LOGOUT, "success", Actor(user.sub, ip=ip_of(request)), reason=reason)
            return False

    async def sign_in(self, request: Request, browser: Browser, user: User) -> Browser:
        """Begin a session under a new id, so that one planted before the sign-in is worth nothing."""
        if browser.session is not None:
            await self._sessions.delete(browser.session)
        fresh = Browser(secrets.token_urlsafe(32), None, user)
        now = int(time.time())
        agent = request.headers.get("user-agent", "")[:_MAX_USER_AGENT]
        session = Session(fresh.id, user.sub, now, now, ip_of(request), agent)
        await self._sessions.create(session)
        return Browser(fresh.secret, session, user)

    async def sign_out(self, browser: Browser) -> Browser:
        """End the session, if there is one; the browser gets a new id."""
        if browser.session is not None:
            await self._sessions.delete(browser.session)
        return Browser(secrets.token_urlsafe(32), None, None)

    def csrf_token(self, browser: Browser) -> str:
        """What a form shown to this browser must bring back."""
        return hmac.digest(self._csrf_key, browser.secret.encode(), hashlib.sha256).hex()

    def check_csrf(self, browser: Browser, presented: str | None) -> None:
        """Refuse a form that was not shown to this browser.

        Raises:
            PageError: 403.
        """
        if not hmac.compare_digest(self.csrf_token(browser).encode(), (presented or "").encode()):
            raise PageError(
                403,
                "This form has expired",
                "It was made for another sign-in, or your browser does not keep this site's cookies.",
                "Go back, load the page anew and try again. If it happens each time, allow cookies for this site.",
            )

    def keep(self, browser: Browser, response: Response) -> Response:
        """Put the browser's cookie on the answer."""
        response.set_cookie(
            self._name,
            browser.secret,
            max_age=self._lifetime,
            path="/",
            secure=self._https,
            httponly=True,
            samesite="lax",
        )
        return response
