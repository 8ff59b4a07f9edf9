"""What OpenID providers and OAuth servers that are none have in common: a redirect, a code, small JSON answers."""

import hashlib
import json
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote_plus, urlencode

import aiohttp

from keystile_auth.identity.answer import (
    Identity,
    IdentityUnavailableError,
    SignIn,
    SignInRefusedError,
    claim_values,
)
from keystile_auth.identity.attempt import Attempt
from keystile_auth.identity.settings import IdentitySettings
from keystile_common import base64url
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient

_TIMEOUT_SECONDS = 5.0
_MAX_BYTES = 512 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """A JSON object and the HTTP status that it came with; a list comes as the member `list`."""

    status: int
    content: Mapping[str, Any]


class Provider(HttpClient):
    """A server elsewhere that people sign in at. Used as an async context manager.

    Args:
        name: in the settings.
        settings: of this identity, kind `oidc` or `saml`.
        redirect_uri: where it sends browsers back to; no other identity has the same one.
        clock: Unix seconds.
    """

    service_metadata: str = ""
    """Our own metadata, an XML document, of those that post their answers to us (SAML)."""

    def __init__(self, name: str, settings: IdentitySettings, redirect_uri: str, clock: Callable[[], float]) -> None:
        authorities = None
        if settings.ca_file:
            authorities = TrustedAuthorities(settings.ca_file, f"identity.{name}.ca_file", beside_system=True)
        super().__init__(
            timeout_seconds=_TIMEOUT_SECONDS, authorities=authorities, headers={"Accept": "application/json"}
        )
        self.title = settings.title or name
        self.settings = settings
        self._redirect_uri = redirect_uri
        self._clock = clock
        self._client_id = settings.client_id or ""
        self._client_secret = settings.client_secret.get_secret_value() if settings.client_secret else None

    @property
    def issuer(self) -> str:
        """What it calls itself: its users are others than those of another."""
        return self.settings.issuer_url

    @property
    def address(self) -> str:
        """A URL at the server that browsers are sent to, as far as it is known."""
        return self.settings.issuer_url

    async def authorization_url(self, attempt: Attempt, login_hint: str | None, *, other_user: bool) -> str:
        """Where to send the browser.

        Args:
            attempt: what its answer is bound to.
            login_hint: the address that the person typed.
            other_user: whether the person wants to be somebody else than the provider may think.

        Raises:
            IdentityUnavailableError: the provider does not answer.
        """
        raise NotImplementedError

    def check_issuer(self, iss: str | None) -> None:
        """Check the `iss` of an authorization response (RFC 9207).

        Raises:
            SignInRefusedError: it is another server's answer, or has none though this server says it always has.
        """
        if iss is not None and iss != self.settings.issuer_url:
            raise SignInRefusedError("iss", "the answer is not its own")

    async def sign_in(self, code: str, attempt: Attempt) -> SignIn:
        """Redeem a code and learn who signed in.

        Raises:
            SignInRefusedError: what the provider answers does not hold, or the person may not sign in here.
            IdentityUnavailableError: it does not answer.
        """
        raise NotImplementedError

    async def recheck(self, subject: str, credential: str) -> SignIn:
        """Ask again about somebody who signed in.

        Raises:
            IdentityGoneError: the account is gone or disabled, or may no longer sign in here.
            IdentityUnavailableError: it does not answer.
        """
        raise NotImplementedError

    def _authorization_query(self, attempt: Attempt, scopes: list[str], **more: str | None) -> str:
        digest = hashlib.sha256(attempt.code_verifier.encode()).digest()
        values = {
            "response_type": "code",
            "client_id": self._client_id,
            "redirect_uri": self._redirect_uri,
            "scope": " ".join(scopes),
            "state": attempt.state,
            "code_challenge": base64url.encode(digest),
            "code_challenge_method": "S256",
            **more,
        }
        return urlencode({name: value for name, value in values.items() if value})

    async def _token(self, url: str, method: str, **parameters: str) -> Answer:
        """Ask the token endpoint, authenticating by `method` (RFC 6749 section 2.3.1)."""
        headers = {}
        form = dict(parameters)
        if self._client_secret is None or method == "client_secret_post":
            form["client_id"] = self._client_id
            if self._client_secret is not None:
                form["client_secret"] = self._client_secret
        else:
            login = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        return await self._json("POST", url, data=form, headers=headers)

    async def _json(self, method: str, url: str, **arguments: Any) -> Answer:
        """A small JSON answer.

        Raises:
            IdentityUnavailableError: none came, or one that is no such thing.
        """
        status, body = await self._body(method, url, _MAX_BYTES, **arguments)
        try:
            content = json.loads(body)
        except (ValueError, RecursionError):
            content = None
        if isinstance(content, list):
            content = {"list": content}
        if not isinstance(content, dict):
            if status == HTTPStatus.OK:
                raise IdentityUnavailableError(self.title, "answered something that is no JSON object")
            content = {}
        return Answer(status, content)

    async def _body(self, method: str, url: str, most: int, **arguments: Any) -> tuple[int, bytes]:
        """The status and the body of an answer, of `most` bytes.

        Raises:
            IdentityUnavailableError: none came, or one that says to come later.
        """
        try:
            async with self.request(method, url, **arguments) as response:
                body = b""
                while len(body) <= most and not response.content.at_eof():
                    body += await response.content.read(most + 1 - len(body))
                status = response.status
        except (aiohttp.ClientError, OSError, ValueError, TimeoutError):
            raise IdentityUnavailableError(self.title, "could not be reached") from None
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status == HTTPStatus.TOO_MANY_REQUESTS:
            raise IdentityUnavailableError(self.title, f"answered {status}")
        if len(body) > most:
            raise IdentityUnavailableError(self.title, "answered more than it may")
        return status, body

    def _identity(self, subject: str, claims: Mapping[str, Any], name_claims: tuple[str, ...], groups: str) -> Identity:
        """The person of `claims`, who must be one of those who may sign in here."""
        for name, allowed in self.settings.required_claims.items():
            if not set(claim_values(claims, name)) & set(allowed):
                raise SignInRefusedError(f"required_claims {name}", "this account may not sign in here")
        names = [value for name in name_claims for value in claim_values(claims, name)]
        try:
            return Identity(subject, next(iter(names), ""), claim_values(claims, groups))
        except ValueError:
            raise SignInRefusedError("sub", "it did not say who this is") from None
