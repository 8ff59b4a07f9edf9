"""OpenID providers: discovery, the code flow with PKCE, keys that are rotated, people who are asked about again."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, TypeGuard
from urllib.parse import urlsplit

import structlog

from keystile_auth.identity import id_token
from keystile_auth.identity.answer import (
    Identity,
    IdentityGoneError,
    IdentityUnavailableError,
    SignIn,
    SignInRefusedError,
)
from keystile_auth.identity.attempt import Attempt
from keystile_auth.identity.id_token import Expected
from keystile_auth.identity.provider import Provider
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.jws import JwsError, Key, public_keys
from keystile_common.metrics import JwksMetrics
from keystile_common.settings import is_loopback_host

_KEEP_SECONDS = 3600
_REFETCH_SECONDS = 10
_RETRY_SECONDS = 10
_OFFLINE = {"entra": ["offline_access"], "okta": ["offline_access"], "keycloak": ["offline_access"],
            "auth0": ["offline_access"]}  # fmt: skip
_NAMES = {"google": ("email",), "auth0": ("nickname", "email")}
_GROUPS = {"keycloak": "realm_access.roles", "entra": "groups"}

_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Metadata:
    """What we need of a provider's discovery document."""

    authorization_endpoint: str
    token_endpoint: str
    userinfo_endpoint: str | None
    jwks_uri: str
    token_method: str
    sends_iss: bool


class OidcProvider(Provider):
    """An OpenID provider. See `Provider` for the arguments; `metrics` counts what is fetched of keys."""

    def __init__(
        self,
        name: str,
        settings: IdentitySettings,
        redirect_uri: str,
        clock: Callable[[], float],
        metrics: JwksMetrics,
    ) -> None:
        super().__init__(name, settings, redirect_uri, clock)
        self._issuer = settings.issuer_url
        self._refreshes = metrics.refreshes
        self._metadata: Metadata | None = None
        self._metadata_until = float("-inf")
        self._metadata_tries = self._key_tries = 0
        self._keys: tuple[Key, ...] = ()
        self._keys_tried = float("-inf")
        self._lock = asyncio.Lock()

    async def authorization_url(self, attempt: Attempt, login_hint: str | None, *, other_user: bool) -> str:
        """See `Provider`."""
        metadata = await self._discover()
        query = self._authorization_query(
            attempt,
            self._scopes(),
            nonce=attempt.nonce,
            login_hint=login_hint,
            prompt=self._prompt(other_user=other_user),
            access_type="offline" if self.settings.preset == "google" and self._keeps else None,
        )
        joint = "&" if urlsplit(metadata.authorization_endpoint).query else "?"
        return f"{metadata.authorization_endpoint}{joint}{query}"

    def check_issuer(self, iss: str | None) -> None:
        """See `Provider`."""
        super().check_issuer(iss)
        if iss is None and self._metadata is not None and self._metadata.sends_iss:
            raise SignInRefusedError("iss", "the answer does not say whose it is")

    async def sign_in(self, code: str, attempt: Attempt) -> SignIn:
        """See `Provider`."""
        metadata = await self._discover()
        answer = await self._token(
            metadata.token_endpoint,
            metadata.token_method,
            grant_type="authorization_code",
            code=code,
            redirect_uri=self._redirect_uri,
            code_verifier=attempt.code_verifier,
        )
        if answer.status != HTTPStatus.OK or "error" in answer.content:
            self._note_refusal(answer.content)
            raise SignInRefusedError("code", "it did not accept its own answer")
        token = answer.content
        expected = Expected(self._issuer, self._client_id, attempt.nonce)
        claims = await self._claims(token, expected)
        if self.settings.userinfo:
            claims = {**claims, **await self._userinfo(token.get("access_token"), claims["sub"])}
        return SignIn(self._person(claims), self._credential(token))

    async def recheck(self, subject: str, credential: str) -> SignIn:
        """See `Provider`."""
        metadata = await self._discover()
        answer = await self._token(
            metadata.token_endpoint, metadata.token_method, grant_type="refresh_token", refresh_token=credential
        )
        error = answer.content.get("error")
        if error == "invalid_grant":
            raise IdentityGoneError("invalid_grant")
        if answer.status != HTTPStatus.OK or error is not None:
            # Our own credentials may have been changed there: that says nothing of the person.
            self._note_refusal(answer.content)
            raise IdentityUnavailableError(self.title, "does not answer about its users")
        try:
            identity = self._person(await self._refreshed_claims(answer.content, subject))
        except SignInRefusedError as refused:
            raise IdentityGoneError(refused.reason) from None
        return SignIn(identity, self._credential(answer.content) or credential)

    async def _refreshed_claims(self, token: Mapping[str, Any], subject: str) -> Mapping[str, Any]:
        claims: dict[str, Any] = {}
        if "id_token" in token:
            claims = await self._claims(token, Expected(self._issuer, self._client_id, None))
            if claims["sub"] != subject:
                raise IdentityUnavailableError(self.title, "answers about somebody else")
        if self.settings.userinfo or not claims:
            claims |= await self._userinfo(token.get("access_token"), subject)
        return claims

    def _person(self, claims: Mapping[str, Any]) -> Identity:
        preset = self.settings.preset
        named = self.settings.username_claim
        names = (named,) if named else (*_NAMES.get(preset, ("preferred_username",)), "email")
        groups = self.settings.groups_claim or _GROUPS.get(preset, "groups")
        return self._identity(claims["sub"], claims, names, groups)

    @property
    def _keeps(self) -> bool:
        return self.settings.recheck == "refresh_token"

    def _credential(self, token: Mapping[str, Any]) -> str:
        value = token.get("refresh_token")
        return value if self._keeps and isinstance(value, str) else ""

    def _scopes(self) -> list[str]:
        chosen = self.settings.scopes or ["profile", "email"]
        offline = _OFFLINE.get(self.settings.preset, []) if self._keeps else []
        return list(dict.fromkeys(["openid", *chosen, *offline]))

    def _prompt(self, *, other_user: bool) -> str | None:
        # Google gives a refresh token only with consent.
        consent = ["consent"] if self.settings.preset == "google" and self._keeps else []
        return " ".join([*consent, *(["select_account"] if other_user else [])]) or None

    async def _claims(self, token: Mapping[str, Any], expected: Expected) -> dict[str, Any]:
        text = id_token.read(token.get("id_token"))
        access_token, now = token.get("access_token"), self._clock()
        try:
            return id_token.check(text, await self._known_keys(), expected, access_token, now)
        except JwsError as problem:
            keys = await self._renewed_keys(problem)
        try:
            return id_token.check(text, keys, expected, access_token, now)
        except JwsError as problem:
            raise self._unsigned(problem) from None

    async def _userinfo(self, access_token: object, subject: str) -> dict[str, Any]:
        metadata = await self._discover()
        if metadata.userinfo_endpoint is None or not isinstance(access_token, str):
            raise IdentityUnavailableError(self.title, "has no userinfo")
        headers = {"Authorization": f"Bearer {access_token}"}
        answer = await self._json("GET", metadata.userinfo_endpoint, headers=headers)
        if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise SignInRefusedError("userinfo", "it does not tell about this account")
        # OpenID Connect Core section 5.3.2: of somebody else, it must not be used.
        if answer.status != HTTPStatus.OK or answer.content.get("sub") != subject:
            raise SignInRefusedError("userinfo sub", "it tells about another account")
        return dict(answer.content)

    async def _known_keys(self) -> tuple[Key, ...]:
        if not self._keys or self._clock() - self._keys_tried > _KEEP_SECONDS:
            return await self._fetch_keys()
        return self._keys

    async def _renewed_keys(self, problem: JwsError) -> tuple[Key, ...]:
        # The provider may have new keys; ask, but not for every forgery that comes.
        if self._clock() - self._keys_tried <= _REFETCH_SECONDS:
            raise self._unsigned(problem)
        return await self._fetch_keys()

    def _unsigned(self, problem: JwsError) -> SignInRefusedError:
        return SignInRefusedError(f"id_token {problem.kind}", f"it sent a proof that is not valid ({problem.kind})")

    async def _fetch_keys(self) -> tuple[Key, ...]:
        tries = self._key_tries
        metadata = await self._discover()
        async with self._lock:
            if self._key_tries == tries:  # nobody else has asked meanwhile
                self._keys = await self._published_keys(metadata.jwks_uri) or self._keys
                self._keys_tried = self._clock()
                self._key_tries += 1
            if not self._keys:
                raise IdentityUnavailableError(self.title, "does not tell its keys")
            return self._keys

    async def _published_keys(self, url: str) -> tuple[Key, ...]:
        try:
            answer = await self._json("GET", url)
            keys = public_keys(answer.content) if answer.status == HTTPStatus.OK else ()
        except (IdentityUnavailableError, ValueError):
            keys = ()
        self._refreshes.labels("success" if keys else "error").inc()
        return keys

    async def _discover(self) -> Metadata:
        if self._metadata is not None and self._clock() < self._metadata_until:
            return self._metadata
        tries = self._metadata_tries
        async with self._lock:
            if self._metadata_tries == tries:  # nobody else has asked meanwhile
                try:
                    await self._read_metadata()
                finally:
                    self._metadata_tries += 1
            if self._metadata is None:
                raise IdentityUnavailableError(self.title, "could not be reached")
            return self._metadata

    async def _read_metadata(self) -> None:
        try:
            answer = await self._json("GET", f"{self._issuer.rstrip('/')}/.well-known/openid-configuration")
            self._metadata = self._checked_metadata(answer.status, answer.content)
            self._metadata_until = self._clock() + _KEEP_SECONDS
        except IdentityUnavailableError:
            if self._metadata is None:
                raise
            # What was true an hour ago serves until it answers again.
            self._metadata_until = self._clock() + _RETRY_SECONDS

    def _checked_metadata(self, status: int, document: Mapping[str, Any]) -> Metadata:
        if status != HTTPStatus.OK:
            raise self._unusable("has no discovery document")
        if document.get("issuer") != self._issuer:
            raise self._unusable("calls itself by another issuer than the settings do")
        endpoints: dict[str, str] = {}
        for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint"):
            url = document.get(name)
            if url is None and name == "userinfo_endpoint":
                continue
            if not self._is_trusted(url):
                raise self._unusable(f"has no {name} at an https URL")
            endpoints[name] = url
        methods = document.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        basic = not isinstance(methods, list) or "client_secret_basic" in methods
        return Metadata(
            endpoints["authorization_endpoint"],
            endpoints["token_endpoint"],
            endpoints.get("userinfo_endpoint"),
            endpoints["jwks_uri"],
            "client_secret_basic" if basic else "client_secret_post",
            document.get("authorization_response_iss_parameter_supported") is True,
        )

    def _is_trusted(self, url: object) -> TypeGuard[str]:
        if not isinstance(url, str) or not url.isascii() or not url.isprintable():
            return False
        parts = urlsplit(url)
        if parts.username or parts.password or parts.fragment or not parts.hostname:
            return False
        # Plain http is for a provider on this machine, which the settings name as such.
        plain = self._issuer.startswith("http:") and parts.scheme == "http" and is_loopback_host(parts.hostname)
        return parts.scheme == "https" or plain

    def _unusable(self, why: str) -> IdentityUnavailableError:
        _log.error("an identity cannot be used", identity=self.title, problem=why)
        return IdentityUnavailableError(self.title, why)

    def _note_refusal(self, content: Mapping[str, Any]) -> None:
        error = content.get("error")
        known = {"invalid_client", "unauthorized_client", "invalid_request", "invalid_grant", "invalid_scope"}
        _log.warning("an identity refused us", identity=self.title, error=error if error in known else "other")
