"""Authorization requests that wait for a person to sign in and decide, bound to one browser."""

import secrets
from dataclasses import replace
from typing import Any
from urllib.parse import urlencode

from keystile_auth.clients.client import Client
from keystile_auth.endpoints.browser import Browser
from keystile_auth.endpoints.pages import PageError
from keystile_auth.grants.authorization_request import AuthorizationRequest
from keystile_auth.store.sessions import SessionStore
from keystile_auth.tokens.resources import Resources

_MAX_ID_CHARACTERS = 64


class WaitingRequests:
    """Keeps checked authorization requests between pages. The browser holds an id, never the request itself."""

    def __init__(self, issuer: str, sessions: SessionStore, resources: Resources, seconds: int) -> None:
        self._issuer = issuer
        self._sessions = sessions
        self._resources = resources
        self._seconds = seconds

    async def keep(self, request: AuthorizationRequest, browser: Browser) -> str:
        """Store a request for `browser`; answers its id."""
        identifier = secrets.token_urlsafe(16)
        await self._sessions.put_request(identifier, _document(request, browser), self._seconds)
        return identifier

    async def find(self, identifier: str | None, browser: Browser) -> AuthorizationRequest:
        """The request of this id.

        Raises:
            PageError: 400: there is none, or it waits in another browser.
        """
        document = await self._sessions.find_request(_bounded(identifier))
        return self._check(document, browser)

    async def take(self, identifier: str | None, browser: Browser) -> AuthorizationRequest:
        """As `find`, and nobody can take it again: one request, one decision."""
        await self.find(identifier, browser)
        return self._check(await self._sessions.take_request(_bounded(identifier)), browser)

    async def rebind(self, identifier: str, request: AuthorizationRequest, browser: Browser) -> None:
        """Bind a request to the id its browser got at sign-in or sign-out."""
        await self._sessions.put_request(identifier, _document(request, browser), self._seconds)

    def answer_url(self, request: AuthorizationRequest, parameters: dict[str, str]) -> str:
        """Where to send the browser with an answer; see `answer_url`."""
        return answer_url(request.redirect_uri, request.state, self._issuer, parameters)

    def _check(self, document: dict[str, Any] | None, browser: Browser) -> AuthorizationRequest:
        resource = self._resources.find(document["resource"]) if document else None
        if document is None or resource is None or not secrets.compare_digest(document["browser"], browser.id):
            raise PageError(
                400,
                "This request is over",
                "It was answered already, took too long, or was begun in another browser.",
                "Go back to the application and connect again.",
            )
        return AuthorizationRequest(
            client=Client.from_json(document["client"]),
            redirect_uri=document["redirect_uri"],
            state=document["state"],
            resource=resource,
            scopes=tuple(document["scopes"]),
            code_challenge=document["code_challenge"],
        )


def answer_url(redirect_uri: str, state: str | None, issuer: str, parameters: dict[str, str]) -> str:
    """A redirect URI with an answer in its query, `state` as it came, and `iss` (RFC 9207)."""
    query = urlencode({**parameters, **({"state": state} if state is not None else {}), "iss": issuer})
    return f"{redirect_uri}{'&' if '?' in redirect_uri else '?'}{query}"


def _document(request: AuthorizationRequest, browser: Browser) -> dict[str, Any]:
    # The client as it was when the request came: its document may change while a person reads. Only what the pages
    # show, since anybody may have any number of requests wait.
    client = replace(
        request.client, redirect_uris=(request.redirect_uri,), secret_hash=None, registration_token_hash=None, jwks=None
    )
    return {
        "browser": browser.id,
        "client": client.to_json(),
        "redirect_uri": request.redirect_uri,
        "state": request.state,
        "resource": request.resource.uri,
        "scopes": list(request.scopes),
        "code_challenge": request.code_challenge,
    }


def _bounded(identifier: str | None) -> str:
    return (identifier or "")[:_MAX_ID_CHARACTERS]
