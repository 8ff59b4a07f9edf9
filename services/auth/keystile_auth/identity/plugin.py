"""Identities that an operator writes: a Python class that is shown a name and a password."""

import asyncio
from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Protocol, runtime_checkable

import structlog

from keystile_auth.identity.answer import Identity, IdentityUnavailableError
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError

_TIMEOUT_SECONDS = 10.0

_log = structlog.stdlib.get_logger(__name__)


class PluginError(SettingsError):
    """A plugin that cannot be used; `str()` names it and says why."""


@runtime_checkable
class IdentityPlugin(Protocol):
    """What the factory of a plugin answers.

    It may have a second method, `async def find(self, subject: str) -> Identity | None`: the same person without a
    password, or None once the account is gone or disabled. Without it people sign in again after `recheck_seconds`.
    """

    async def authenticate(self, username: str, password: str) -> Identity | None:
        """Who has this name and password, or None."""


class PluginIdentity:
    """Asks a plugin, and bears what it does.

    Args:
        name: in the settings.
        settings: of this identity, kind `plugin`.

    Raises:
        PluginError: there is no such factory, or what it answers is no plugin.
    """

    def __init__(self, name: str, settings: IdentitySettings) -> None:
        self.title = settings.title or name
        self.settings = settings
        path = settings.plugin or ""
        module, _, factory = path.partition(":")
        try:
            plugin = getattr(import_module(module), factory)()
        except Exception as problem:  # noqa: BLE001 (whatever other people's code does when it is loaded)
            raise PluginError(f"identity.{name}.plugin: {path} cannot be loaded ({type(problem).__name__})") from None
        if not isinstance(plugin, IdentityPlugin):
            raise PluginError(f"identity.{name}.plugin: what {path} answers has no method authenticate")
        self._plugin = plugin
        self._find = getattr(plugin, "find", None)

    @property
    def can_find(self) -> bool:
        """Whether it can be asked about somebody without a password."""
        return self._find is not None

    async def authenticate(self, username: str, password: str) -> Identity | None:
        """Who has this name and password, or None.

        Raises:
            IdentityUnavailableError: it fails, takes too long, or answers something else.
        """
        return await self._ask(lambda: self._plugin.authenticate(username, password))

    async def find(self, subject: str) -> Identity | None:
        """The person of this subject, or None when the account is gone or disabled.

        Raises:
            IdentityUnavailableError: as `authenticate`.
        """
        find = self._find
        if find is None:
            raise IdentityUnavailableError(self.title, "cannot be asked")
        answer = await self._ask(lambda: find(subject))
        if answer is not None and answer.subject != subject:
            raise IdentityUnavailableError(self.title, "answers about somebody else")
        return answer

    async def _ask(self, question: Callable[[], Awaitable[object]]) -> Identity | None:
        try:
            async with asyncio.timeout(_TIMEOUT_SECONDS):
                answer = await question()
        except Exception as problem:  # noqa: BLE001
            # Its kind alone: the text could carry the password.
            _log.error("an identity plugin failed", identity=self.title, kind=type(problem).__name__)
            raise IdentityUnavailableError(self.title, "failed") from None
        if answer is not None and not isinstance(answer, Identity):
            _log.error("an identity plugin answered no Identity", identity=self.title, kind=type(answer).__name__)
            raise IdentityUnavailableError(self.title, "failed")
        return answer
