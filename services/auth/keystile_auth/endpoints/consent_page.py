"""The consent page: for somebody who is signed in, and for somebody who is about to, elsewhere."""

from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from starlette.responses import Response

from keystile_auth.clients import redirect_uri
from keystile_auth.clients.client import Source
from keystile_auth.endpoints.browser import Browser, Browsers
from keystile_auth.endpoints.pages import Pages
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.store.users import User


@dataclass(frozen=True, slots=True)
class ScopeLine:
    """A scope on a page: its name, the sentence, whether it was granted before."""

    name: str
    text: str
    already: bool


@dataclass(frozen=True, slots=True)
class ClientFacts:
    """What a page says of a client, and which of it is more than the client's own word."""

    name: str
    id: str
    uri_host: str | None
    verified_host: str | None
    is_self_registered: bool


@dataclass(frozen=True, slots=True)
class Destination:
    """The identity that somebody is about to be sent to, and what goes along."""

    name: str
    title: str
    url: str
    hint: str | None
    is_switch: bool


class ConsentPage:
    """Renders it."""

    def __init__(self, pages: Pages, browsers: Browsers) -> None:
        self._pages = pages
        self._browsers = browsers

    def for_user(
        self,
        identifier: str,
        asked: AuthorizationRequest,
        browser: Browser,
        user: User,
        granted: frozenset[str],
        prefix: str,
    ) -> Response:
        """The page for `user`, who has granted the scopes `granted` before."""
        return self._render(
            identifier,
            asked,
            browser,
            granted,
            form_targets=[asked.redirect_uri],
            action=f"{prefix}/consent",
            switch_user_action=f"{prefix}/consent/switch-user",
            user=user,
            destination=None,
        )

    def before_sign_in(
        self, identifier: str, asked: AuthorizationRequest, browser: Browser, destination: Destination, action: str
    ) -> Response:
        """The page for somebody who is then sent to `destination`."""
        return self._render(
            identifier,
            asked,
            browser,
            frozenset(),
            # The identity may send the browser straight back, and the chain then ends at the client.
            form_targets=[asked.redirect_uri, destination.url],
            action=action,
            switch_user_action=None,
            user=None,
            destination=destination,
        )

    def _render(
        self, identifier: str, asked: AuthorizationRequest, browser: Browser, granted: frozenset[str], **values: Any
    ) -> Response:
        client = asked.client
        parts = urlsplit(asked.redirect_uri)
        page = self._pages.render(
            "consent.html",
            csrf=self._browsers.csrf_token(browser),
            request_id=identifier,
            client=ClientFacts(
                client.name,
                client.id,
                client.host,
                client.verified_host,
                client.source is Source.REGISTRATION,
            ),
            redirect_host=parts.netloc if parts.scheme in {"https", "http"} else f"{parts.scheme}:",
            redirect_is_loopback=redirect_uri.is_loopback(asked.redirect_uri) or parts.scheme != "https",
            resource={"name": asked.resource.title, "uri": asked.resource.uri},
            scopes=[ScopeLine(name, asked.resource.scopes[name], name in granted) for name in asked.scopes],
            **values,
        )
        return self._browsers.keep(browser, page)


def consent_target(asked: AuthorizationRequest) -> dict[str, str]:
    """What a consent is about, for the audit log."""
    return {"resource": asked.resource.uri, "scope": " ".join(asked.scopes)}
