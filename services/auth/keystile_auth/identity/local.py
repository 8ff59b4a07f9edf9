"""Local users with passwords (argon2id)."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from keystile_auth.store.users import User, UserStore

_T = TypeVar("_T")
MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 1024
MAX_USERNAME_CHARACTERS = 128


class InvalidUserError(Exception):
    """A user that cannot be; `str()` says what to change."""


class LocalUsers:
    """Checks and sets passwords, off the event loop and at most two at a time: one costs 150 ms and 64 MiB."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
        # What a password of nobody is compared with, so that time does not tell who exists.
        self._nobody = self._hasher.hash(secrets.token_urlsafe())

    async def verify(self, username: str, password: str) -> User | None:
        """The enabled user of this name and password, or None, after the same time either way."""
        if len(username) > MAX_USERNAME_CHARACTERS or len(password) > MAX_PASSWORD_CHARACTERS:
            return None
        user = await self._store.find_by_name(username)
        matches = await self._in_thread(self._matches, user.password_hash if user else self._nobody, password)
        if user is None or not matches or user.disabled:
            return None
        if self._hasher.check_needs_rehash(user.password_hash):
            user = await self._store.set_password_hash(user, await self._in_thread(self._hasher.hash, password))
        return user

    async def create(self, username: str, password: str, now: int) -> User:
        """Create a user.

        Args:
            username: 1 to 128 visible characters.
            password: at least 12 characters.
            now: Unix seconds.

        Raises:
            InvalidUserError: the name is taken or not a name, or the password is too short or too long.
        """
        if (
            not 0 < len(username) <= MAX_USERNAME_CHARACTERS
            or not username.isprintable()
            or username != username.strip()
        ):
            raise InvalidUserError(
                f"a user name has 1 to {MAX_USERNAME_CHARACTERS} visible characters, no space at its ends"
            )
        user = User(
            sub=f"user_{secrets.token_urlsafe(16)}",
            username=username,
            password_hash=await self._hash(password),
            disabled=False,
            created=now,
        )
        if not await self._store.add(user):
            raise InvalidUserError(f"there is a user {username} already")
        return user

    async def set_password(self, user: User, password: str) -> None:
        """Give a user another password.

        Raises:
            InvalidUserError: it is too short or too long.
        """
        await self._store.set_password_hash(user, await self._hash(password))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def _hash(self, password: str) -> str:
        if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
            raise InvalidUserError(f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters")
        return await self._in_thread(self._hasher.hash, password)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[..., _T], *arguments: str) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
