"""A directory as an identity: who has a name and a password there, and who is still there."""

import asyncio
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import structlog

from keystile_auth.identity.answer import Identity, IdentityUnavailableError
from keystile_auth.identity.ldap import account, filters
from keystile_auth.identity.ldap.connection import (
    AwayError,
    BadFilterError,
    Connection,
    Deadline,
    NoSuchBaseError,
    RefusedError,
    Server,
    TooManyError,
)
from keystile_auth.identity.ldap.entry import Entry, UnreadableEntryError, subject_value
from keystile_auth.identity.ldap.groups import Groups
from keystile_auth.identity.ldap.pool import Pool
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError

_T = TypeVar("_T")
# Shorter than anybody waits for a page, and than a refresh waits for an identity.
_ANSWER_SECONDS = 10.0

_log = structlog.stdlib.get_logger(__name__)


class LdapIdentity:
    """Searches with our account and binds as the person, in threads of its own.

    Args:
        name: in the settings.
        settings: of this identity, kind `ldap`.

    Raises:
        SettingsError: the certificate authorities cannot be read.
    """

    can_find = True

    def __init__(self, name: str, settings: IdentitySettings) -> None:
        self.title = settings.title or name
        self._name = name
        self._settings = settings
        self._groups = Groups(self.title, settings)
        self._base = settings.user_base or ""
        self._dn = settings.bind_dn or ""
        if settings.ca_file is not None:
            _check_readable(settings, name)
        password = settings.bind_password.get_secret_value() if settings.bind_password else ""
        self._pool = Pool([_server(url, settings) for url in settings.urls], self._dn, password)
        self._threads = ThreadPoolExecutor(settings.pool_size, thread_name_prefix=f"ldap-{name}")

    async def start(self) -> None:
        """Prove bind_dn, bind_password, the bases and the filters; a directory that is away is asked later.

        Raises:
            SettingsError: the directory refuses them.
        """
        try:
            await self._in_thread(self._prove)
        except RefusedError as refused:
            raise self._unusable(
                "bind_password", f"the directory refuses to bind {self._dn} ({refused.reason})"
            ) from None
        except (AwayError, TimeoutError) as problem:
            why = str(problem) or "did not answer in time"
            _log.error("an identity does not answer yet, people cannot sign in with it", identity=self.title, why=why)

    async def authenticate(self, username: str, password: str) -> Identity | None:
        """Who has this name and password.

        Raises:
            SignInRefusedError: nobody, or the account may not be signed in to; its sentence is empty where the
                person is to read no more than that.
            IdentityUnavailableError: the directory does not answer, or as it should not.
        """
        if not username or not password:  # RFC 4513 section 5.1.2: without a password everybody would come in
            raise account.refusal("no password")
        return await self._ask(lambda deadline: self._authenticated(username, password, deadline))

    async def find(self, subject: str) -> Identity | None:
        """The person of this subject, or None when the account is gone, disabled, locked or expired.

        Raises:
            IdentityUnavailableError: as `authenticate`.
        """
        return await self._ask(lambda deadline: self._found(subject, deadline))

    def close(self) -> None:
        """End the threads and their connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        self._pool.close()

    async def _ask(self, question: Callable[[Deadline], _T]) -> _T:
        try:
            return await self._in_thread(question)
        except TimeoutError:
            problem = "did not answer in time"
        except RefusedError as refused:
            problem = f"refuses to bind {self._dn} ({refused.reason})"
        except NoSuchBaseError:
            problem = "has no user_base or group_base, or does not show it to bind_dn"
        except BadFilterError:
            problem = "a filter in the settings is none"
        except TooManyError:
            problem = "found more groups of one person than are read"
        except (AwayError, UnreadableEntryError) as away:
            problem = str(away)
        _log.error("an identity does not answer", identity=self.title, why=problem)
        raise IdentityUnavailableError(self.title, "does not answer")

    async def _in_thread(self, question: Callable[[Deadline], _T]) -> _T:
        deadline = Deadline(_ANSWER_SECONDS)
        async with asyncio.timeout(_ANSWER_SECONDS):
            return await asyncio.get_running_loop().run_in_executor(self._threads, question, deadline)

    def _prove(self, deadline: Deadline) -> None:
        filter_ = self._settings.users_filter.replace("{username}", secrets.token_hex(8))
        self._prove_search("user_base", self._base, "user_filter", filter_, deadline)
        if self._settings.group_base:
            filter_ = filters.of_groups(self._settings.groups_filter, [self._base], "")
            self._prove_search("group_base", self._settings.group_base, "group_filter", filter_, deadline)

    def _prove_search(self, base: str, value: str, setting: str, filter_: str, deadline: Deadline) -> None:
        try:
            self._pool.ask(lambda connection: connection.search(value, filter_, ("1.1",), deadline, most=1), deadline)
        except NoSuchBaseError:
            raise self._unusable(base, f"the directory has no {value}, or does not show it to {self._dn}") from None
        except BadFilterError:
            raise self._unusable(setting, "is no filter (RFC 4515)") from None
        except TooManyError:
            pass

    def _authenticated(self, username: str, password: str, deadline: Deadline) -> Identity:
        try:
            person = self._person(filters.of_name(self._settings.users_filter, username), deadline)
        except TooManyError:
            _log.warning("several entries have one name, so nobody signs in by it", identity=self.title)
            person = None
            reason = "several entries"
        else:
            reason = "unknown name"
        if person is None:
            # As many steps as for a name that there is.
            self._refuse_nobody(password, deadline)
            raise account.refusal(reason)
        problem = account.of_entry(person, self._settings.directory, time.time())
        try:
            self._pool.bind(person.dn, password, deadline).close()
        except RefusedError as refused:
            raise account.refusal(refused.reason, problem) from None
        if problem is not None:
            raise account.refusal(problem)
        return self._identity(person, deadline)

    def _found(self, subject: str, deadline: Deadline) -> Identity | None:
        value = subject_value(self._settings.subject, subject)
        if value is None:
            return None
        filter_ = filters.of_subject(self._settings.users_filter, self._settings.subject, value)
        try:
            person = self._person(filter_, deadline)
        except TooManyError:
            raise UnreadableEntryError(
                f"subject_attribute: several entries have one {self._settings.subject}"
            ) from None
        if person is None or account.of_entry(person, self._settings.directory, time.time()):
            return None
        return self._identity(person, deadline)

    def _person(self, filter_: str, deadline: Deadline) -> Entry | None:
        attributes = (
            self._settings.subject,
            self._settings.username,
            *account.ATTRIBUTES[self._settings.directory],
            *self._groups.attributes,
        )

        def question(connection: Connection) -> list[Entry]:
            return connection.search(self._base, filter_, attributes, deadline, most=1)

        return next(iter(self._pool.ask(question, deadline)), None)

    def _identity(self, person: Entry, deadline: Deadline) -> Identity:
        groups = self._pool.ask(lambda connection: self._groups.of(person, connection, deadline), deadline)
        try:
            return Identity(person.subject(self._settings.subject), person.text(self._settings.username), groups)
        except ValueError:
            raise UnreadableEntryError(f"subject_attribute: {self._settings.subject} is no name") from None

    def _refuse_nobody(self, password: str, deadline: Deadline) -> None:
        try:
            self._pool.bind(f"cn={secrets.token_hex(8)},{self._base}", password, deadline).close()
        except RefusedError:
            return

    def _unusable(self, setting: str, why: str) -> SettingsError:
        return SettingsError(f"identity.{self._name}.{setting}: {why}")


def _server(url: str, settings: IdentitySettings) -> Server:
    return Server(
        url,
        settings.start_tls,
        settings.ca_file,
        settings.connect_timeout_seconds,
        settings.operation_timeout_seconds,
    )


def _check_readable(settings: IdentitySettings, name: str) -> None:
    try:
        if settings.ca_file is not None and b"-----BEGIN CERTIFICATE-----" not in settings.ca_file.read_bytes():
            raise SettingsError(f"identity.{name}.ca_file: {settings.ca_file} holds no certificate, as PEM")
    except OSError as problem:
        raise SettingsError(f"identity.{name}.ca_file: cannot read {settings.ca_file}: {problem.strerror}") from None
