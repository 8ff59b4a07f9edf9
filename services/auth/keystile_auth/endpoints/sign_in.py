"""What every way to sign in shares: the page, and the record of a try."""

from http import HTTPStatus

from starlette.responses import Response

from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.pages import Pages
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.identity.directory import Identities
from keystile_auth.store.users import User
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics


class SignInPage:
    """Shows the sign-in page with every identity of the settings, and records who came in and who did not."""

    def __init__(
        self, pages: Pages, browsers: Browsers, identities: Identities, audit: AuditLog, metrics: AuthMetrics
    ) -> None:
        self._pages = pages
        self._browsers = browsers
        self._identities = identities
        self._audit = audit
        self._metrics = metrics

    def at(self, prefix: str) -> None:
        """Say below which path the forms are answered."""
        self._prefix = prefix

    def after(self, identifier: str | None) -> str:
        """Where somebody goes who has signed in."""
        return f"{self._prefix}/consent?request={identifier}" if identifier else f"{self._prefix}/account"

    def show(
        self,
        browser: Browser,
        identifier: str | None,
        asked: AuthorizationRequest | None,
        *,
        username: str = "",
        error: str | None = None,
        status: int = 200,
        is_switch: bool = False,
    ) -> Response:
        """The page.

        Args:
            browser: whom it is shown to.
            identifier: of the waiting request, if there is one.
            asked: that request.
            username: what was typed before.
            error: what went wrong.
            status: of the HTTP answer.
            is_switch: whether the person wants to be somebody else than before.
        """
        elsewhere = self._identities.elsewhere
        # Without a request the form of an identity leads there at once.
        issuers = [self._identities.providers[name].address for name in elsewhere]
        page = self._pages.render(
            "login.html",
            status,
            form_targets=[asked.redirect_uri] if asked else issuers,
            action=f"{self._prefix}/login",
            upstream_action=f"{self._prefix}/login/upstream",
            csrf=self._browsers.csrf_token(browser),
            request_id=identifier,
            client_name=asked.client.name if asked else None,
            username=username[:128],
            error=error,
            # What was typed is wrong; not where a provider is away, or did not let somebody in.
            is_refused=status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.TOO_MANY_REQUESTS},
            password_identities=self._identities.with_passwords,
            elsewhere=elsewhere,
            by_address=self._identities.have_domains,
            by_header=self._identities.header.title if self._identities.header else None,
            again=f"{self._prefix}/login{f'?request={identifier}' if identifier else ''}",
            is_switch=is_switch,
        )
        return self._browsers.keep(browser, page)

    def record(
        self, identity: str, outcome: str, user: User | None, asked: AuthorizationRequest | None, ip: str, why: str = ""
    ) -> None:
        """Count and record a try.

        Args:
            identity: its name in the settings.
            outcome: `success`, `failure`, `limited` or `unavailable`.
            user: who came in.
            asked: the request that waits.
            ip: the network address.
            why: a few words more for the audit log; nothing that a stranger wrote.
        """
        self._metrics.logins.labels(identity, outcome).inc()
        # A failed try's name stays out: people type passwords into the wrong field.
        actor = Actor(user.sub if user else None, asked.client.id if asked else None, ip)
        reason = f"{identity} {outcome}{f': {why}' if why else ''}"
        self._audit.record(EventType.USER_LOGIN, "success" if user else "failure", actor, reason=reason)
