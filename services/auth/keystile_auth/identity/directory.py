"""All identities of an installation: who a person is here, and whether an identity still stands by somebody."""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from importlib import import_module
from types import TracebackType
from typing import TYPE_CHECKING, Self

from keystile_auth.identity import ldap
from keystile_auth.identity.answer import (
    Identity,
    IdentityGoneError,
    IdentityUnavailableError,
    SignIn,
    SignInAgainError,
    SignInRefusedError,
)
from keystile_auth.identity.header import HeaderIdentity
from keystile_auth.identity.local import LocalUsers
from keystile_auth.identity.plugin import PluginIdentity
from keystile_auth.identity.settings import IdentitySettings
from keystile_auth.store.upstream import UpstreamStore
from keystile_auth.store.users import User, UserStore
from keystile_auth.tokens.master_key import MasterKey, WrongMasterKeyError
from keystile_common import base64url
from keystile_common.client_certificate import ClientCertificate
from keystile_common.metrics import JwksMetrics
from keystile_common.settings import SettingsError

if TYPE_CHECKING:
    from keystile_auth.identity.ldap.identity import LdapIdentity
    from keystile_auth.identity.provider import Provider

_WITH_PASSWORDS = {"local", "ldap", "plugin"}
_CLAIM_SECONDS = 30
_ASK_SECONDS = 15.0
_WAIT_SECONDS = 10.0
_LOOK_SECONDS = 0.2


class Identities:
    """The identities of the settings. Used as an async context manager, inside the running event loop.

    Args:
        settings: by name.
        issuer: our own URL, below which providers send browsers back.
        local: users with passwords here.
        users: where all users are.
        store: what is kept of users of other identities.
        master_key: encrypts what identities can be asked with.
        clock: Unix seconds.
        metrics: counts fetches of providers' keys.

    Raises:
        SettingsError: a plugin cannot be loaded, or what a directory or SAML needs is not there.
    """

    def __init__(
        self,
        settings: Mapping[str, IdentitySettings],
        issuer: str,
        local: LocalUsers,
        users: UserStore,
        store: UpstreamStore,
        master_key: MasterKey,
        clock: Callable[[], float],
        metrics: JwksMetrics,
    ) -> None:
        self._settings = settings
        self.local = local
        self._users = users
        self._store = store
        self._master_key = master_key
        self._clock = clock
        self._open = AsyncExitStack()
        self.providers: dict[str, Provider] = {}
        self.directories: dict[str, LdapIdentity] = {}
        self.plugins: dict[str, PluginIdentity] = {}
        self.header: HeaderIdentity | None = None
        for name, each in settings.items():
            if each.kind == "plugin":
                self.plugins[name] = PluginIdentity(name, each)
            elif each.kind == "ldap":
                self.directories[name] = ldap.directory(name, each)
            elif each.kind == "oidc":
                self.providers[name] = _oidc_provider(name, each, f"{issuer}/login/callback/{name}", clock, metrics)
            elif each.kind == "header":
                self.header = HeaderIdentity(name, each, clock)
            elif each.kind == "saml":
                self.providers[name] = _saml_provider(name, each, f"{issuer}/saml/{name}", clock, store)

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            for provider in self.providers.values():
                await opened.enter_async_context(provider)
            for directory in self.directories.values():
                opened.callback(directory.close)
                await directory.start()
            self._open = opened.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()
        self.local.close()

    def shown_passwords(self, name: str) -> "LdapIdentity | PluginIdentity":
        """The identity that is to see a name and a password; local users are `local`'s."""
        return self.directories.get(name) or self.plugins[name]

    @property
    def with_passwords(self) -> dict[str, str]:
        """Those that are shown a name and a password, with their titles, in the order of the settings."""
        return {name: self.title(name) for name, each in self._settings.items() if each.kind in _WITH_PASSWORDS}

    @property
    def elsewhere(self) -> dict[str, str]:
        """Those that people are sent to, with their titles, in the order of the settings."""
        return {name: self.title(name) for name in self.providers}

    @property
    def have_others(self) -> bool:
        """Whether there is a way to sign in that a page can offer, beside a proxy that names people."""
        return any(each.kind != "header" for each in self._settings.values())

    @property
    def posting(self) -> "dict[str, Provider]":
        """Those that have the browser post their answers to us, by name."""
        return {name: each for name, each in self.providers.items() if each.service_metadata}

    @property
    def have_domains(self) -> bool:
        """Whether an e-mail address can tell an identity."""
        return any(each.domains for each in self._settings.values())

    def title(self, name: str) -> str:
        """What people read of an identity."""
        return self._settings[name].title or name

    def of_address(self, address: str) -> str | None:
        """The identity that people of this e-mail address are sent to, or None."""
        _, separator, domain = address.strip().rpartition("@")
        domain = domain.lower()
        return next((name for name, each in self._settings.items() if separator and domain in each.domains), None)

    async def know(self, name: str, sign_in: SignIn) -> User:
        """Keep somebody who has just signed in; answers the user.

        Raises:
            SignInRefusedError: an operator has disabled the user here.
        """
        identity, now = sign_in.identity, int(self._clock())
        sub = self._sub(name, identity.subject)
        user = User(
            sub=sub,
            username=f"{name}/{identity.username}",
            password_hash="",
            disabled=False,
            created=now,
            identity=name,
            subject=identity.subject,
            groups=identity.groups,
            checked=now,
            credential=self._sealed(sub, sign_in.credential),
            until=int(sign_in.until or 0),
        )
        await self._store.put(user)
        kept = await self._users.find(sub)
        if kept is None or kept.disabled:
            raise SignInRefusedError("disabled", "this account is disabled here")
        return kept

    def is_current(self, user: User) -> bool:
        """Whether a session of `user` still holds: its identity was heard lately, or can be asked at any time."""
        settings = self._settings.get(user.identity)
        if settings is None:
            return False
        return settings.kind == "local" or self._is_fresh(user, settings) or self._can_ask(user)

    def still_named(self, user: User, headers: Iterable[tuple[bytes, bytes]], shown: ClientCertificate | None) -> bool:
        """Whether a request may be one of `user`, as far as its headers can tell; True for users of other identities.

        Args:
            user: of the request's session.
            headers: of the request; see `HeaderIdentity.person`.
            shown: the certificate that came with it.

        Raises:
            SignInRefusedError: the headers name somebody, and are not the proxy's.
            IdentityGoneError: the proxy names somebody else, or other groups.
        """
        if self.header is None or user.identity != self.header.name:
            return True
        person = self.header.person(headers, shown)
        if person is None:
            return False
        if person.subject != user.subject:
            raise IdentityGoneError("another user")
        if set(person.groups) != set(user.groups):
            raise IdentityGoneError("other groups")
        return True

    async def confirm(self, user: User) -> User:
        """The user as the identity has it now, asked again where it was not heard for `recheck_seconds`.

        Raises:
            IdentityGoneError: the account is gone or disabled.
            SignInAgainError: the identity can be asked only by signing in, or is no longer in the settings.
            IdentityUnavailableError: it does not answer, for longer than is allowed.
        """
        settings = self._settings.get(user.identity)
        if settings is None:
            raise SignInAgainError
        if settings.kind == "local" or self._is_fresh(user, settings):
            return user
        if not self._can_ask(user):
            raise SignInAgainError
        try:
            return await self._asked(user, settings)
        except IdentityUnavailableError:
            allowed = settings.recheck_seconds + settings.recheck_allowance_seconds
            if settings.recheck_allowance_seconds and self._clock() - user.checked < allowed:
                return user
            raise

    async def _asked(self, user: User, settings: IdentitySettings) -> User:
        claim = await self._store.claim(user.sub, _CLAIM_SECONDS)
        if claim is None:
            return await self._heard_by_another(user)
        try:
            # What another has heard since we looked counts; a refresh token that it has used up must not be used.
            latest = await self._users.find(user.sub)
            if latest is None or latest.disabled:
                raise IdentityGoneError("disabled")
            if latest.checked != user.checked and self._is_fresh(latest, settings):
                return latest
            if not self._can_ask(latest):
                raise SignInAgainError
            return await self._ask(latest)
        finally:
            await self._store.release(user.sub, claim)

    async def _ask(self, user: User) -> User:
        try:
            async with asyncio.timeout(_ASK_SECONDS):
                sign_in = await self._answer(user)
        except TimeoutError:
            raise IdentityUnavailableError(self.title(user.identity), "did not answer in time") from None
        except IdentityGoneError:
            # Who has signed in anew meanwhile is not gone.
            if await self._store.recheck(user._replace(groups=(), checked=0, credential=""), user.credential):
                raise
            return await self._signed_in_anew(user)
        credential = self._sealed(user.sub, sign_in.credential)
        groups = sign_in.identity.groups
        heard = user._replace(groups=groups, checked=int(self._clock()), credential=credential)
        if not await self._store.recheck(heard, user.credential):
            return await self._signed_in_anew(user)
        return heard

    async def _answer(self, user: User) -> SignIn:
        if user.identity in self.providers:
            credential = self._opened(user)
            return await self.providers[user.identity].recheck(user.subject, credential)
        identity: Identity | None = await self.shown_passwords(user.identity).find(user.subject)
        if identity is None:
            raise IdentityGoneError("not found")
        return SignIn(identity)

    async def _signed_in_anew(self, user: User) -> User:
        latest = await self._users.find(user.sub)
        if latest is None or latest.disabled or latest.checked == 0:
            raise IdentityGoneError("disabled")
        return latest

    async def _heard_by_another(self, user: User) -> User:
        deadline = asyncio.get_running_loop().time() + _WAIT_SECONDS
        while asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_SECONDS)
            latest = await self._users.find(user.sub)
            if latest is None or latest.disabled or latest.checked == 0:
                raise IdentityGoneError("heard by another")
            if latest.checked > user.checked or latest.credential != user.credential:
                return latest
        raise IdentityUnavailableError(self.title(user.identity), "did not answer in time")

    def _is_fresh(self, user: User, settings: IdentitySettings) -> bool:
        is_over = 0 < user.until <= self._clock()
        return not is_over and self._clock() - user.checked < settings.recheck_seconds

    def _can_ask(self, user: User) -> bool:
        if user.identity in self.providers:
            return bool(user.credential)
        asked = self.directories.get(user.identity) or self.plugins.get(user.identity)
        return asked is not None and asked.can_find and user.checked > 0

    def _sub(self, name: str, subject: str) -> str:
        # Name, issuer and subject: the same subject of another identity, or of another server that took this one's
        # name, is another user. A local user's is shorter, so none is like it.
        settings = self._settings[name]
        issuer = self.providers[name].issuer if name in self.providers else _issuer(settings)
        text = json.dumps([settings.kind, name, issuer, subject])
        return f"user_{base64url.encode(hashlib.sha256(text.encode()).digest())}"

    def _sealed(self, sub: str, credential: str) -> str:
        if not credential:
            return ""
        return self._master_key.encrypt(f"identity credential {sub}", credential.encode())

    def _opened(self, user: User) -> str:
        try:
            return self._master_key.decrypt(f"identity credential {user.sub}", user.credential).decode()
        except (WrongMasterKeyError, ValueError):
            raise SignInAgainError from None


def _issuer(settings: IdentitySettings) -> str | None:
    """What tells one server that bears an identity's name from another, where it is no provider."""
    if settings.kind == "ldap":
        # Servers of a directory come and go, and what they call somebody is the same at all of them.
        return settings.subject.lower()
    return settings.plugin


def _oidc_provider(
    name: str, settings: IdentitySettings, redirect_uri: str, clock: Callable[[], float], metrics: JwksMetrics
) -> "Provider":
    # Not before they are asked for: aiohttp, which they are clients with, takes 10 MB.
    from keystile_auth.identity.github import GithubProvider  # noqa: PLC0415
    from keystile_auth.identity.oidc import OidcProvider  # noqa: PLC0415

    if settings.preset == "github":
        return GithubProvider(name, settings, redirect_uri, clock)
    return OidcProvider(name, settings, redirect_uri, clock, metrics)


def _saml_provider(
    name: str, settings: IdentitySettings, base: str, clock: Callable[[], float], store: UpstreamStore
) -> "Provider":
    # Not before it is asked for: pysaml2 is an extra, and costs half a second and 25 MB.
    try:
        module = import_module("keystile_auth.identity.saml.provider")
    except ModuleNotFoundError as problem:
        raise SettingsError(
            f"identity.{name}: the kind saml needs the package pysaml2 (here {problem.name} is missing); "
            "'pip install keystile-auth[saml]' brings it"
        ) from None
    provider: Provider = module.SamlProvider(name, settings, base, clock, store)
    return provider
