"""Local users with passwords (argon2id)."""

import asyncio
import hashlib
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.low_level import ARGON2_VERSION

from keystile_auth.identity import password_hash_forms
from keystile_auth.identity.password_hashes import PasswordHash, PasswordHashError
from keystile_auth.store.users import LOCAL, User, UserStore

_T = TypeVar("_T")
MIN_PASSWORD_CHARACTERS = 12
MAX_PASSWORD_CHARACTERS = 1024
MAX_USERNAME_CHARACTERS = 128


class InvalidUserError(Exception):
    """A user that cannot be; `str()` says what to change."""


def new_sub() -> str:
    """A subject that nobody had before."""
    return f"user_{secrets.token_urlsafe(16)}"


def check_username(username: str) -> None:
    """Raise `InvalidUserError` unless a user can have this name."""
    if not 0 < len(username) <= MAX_USERNAME_CHARACTERS or not username.isprintable() or username != username.strip():
        raise InvalidUserError(
            f"a user name has 1 to {MAX_USERNAME_CHARACTERS} visible characters, no space at its ends"
        )


def check_password(password: str) -> None:
    """Raise `InvalidUserError` unless it is neither too short nor too long."""
    if not MIN_PASSWORD_CHARACTERS <= len(password) <= MAX_PASSWORD_CHARACTERS:
        raise InvalidUserError(f"a password has {MIN_PASSWORD_CHARACTERS} to {MAX_PASSWORD_CHARACTERS} characters")


def hash_of_nobody(hasher: PasswordHasher) -> str:
    """What costs as much to check as a hash of `hasher`, and no password has.

    It is not the hash of a random password, which would take 150 ms of every start.
    """
    costs = (ARGON2_VERSION, hasher.memory_cost, hasher.time_cost, hasher.parallelism)
    return str(PasswordHash("argon2id", costs, bytes(hasher.salt_len), bytes(hasher.hash_len)).of_nobody())


class LocalUsers:
    """Checks and sets passwords, off the event loop and at most two at a time: one costs 150 ms and 64 MiB."""

    def __init__(self, store: UserStore) -> None:
        self._store = store
        self._hasher = PasswordHasher()
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")
        # What a password of nobody is compared with, so that time does not tell who exists.
        self._nobody = hash_of_nobody(self._hasher)

    async def verify(self, username: str, password: str) -> User | None:
        """The enabled user of this name and password, or None, after the same time either way."""
        if len(username) > MAX_USERNAME_CHARACTERS or len(password) > MAX_PASSWORD_CHARACTERS:
            return None
        user = await self._store.find_by_name(username)
        decoy = self._decoy(username, await self._store.decoys())
        found = user.password_hash if user else ""
        matches = await self._in_thread(self._matches, found or decoy, password)
        if user is None or not found or not matches or user.disabled or user.identity != LOCAL:
            return None
        return user if self._is_current(found) else await self._raise(user, password)

    def _decoy(self, username: str, decoys: dict[str, str]) -> str:
        """What the password of nobody is compared with: for one name always the same, of any shape there is."""
        if not decoys:
            return self._nobody
        # Random salts of the decoys make the choice one that nobody else can make.
        choices = [self._nobody, *(decoys[shape] for shape in sorted(decoys))]
        chosen = hashlib.sha256("\0".join([username.casefold(), *choices[1:]]).encode(errors="replace"))
        return choices[int.from_bytes(chosen.digest()) % len(choices)]

    def _is_current(self, password_hash: str) -> bool:
        return password_hash.startswith("$argon2id$v=19$") and not self._hasher.check_needs_rehash(password_hash)

    async def _raise(self, user: User, password: str) -> User | None:
        raised = await self._store.replace_password_hash(user, await self._in_thread(self._hasher.hash, password))
        if raised is not None:
            return raised
        # Somebody else was quicker: another sign-in, or an operator with another password.
        now = await self._store.find(user.sub)
        if now is None or now.disabled or not await self._in_thread(self._matches, now.password_hash, password):
            return None
        return now

    async def create(self, username: str, password: str, now: int) -> User:
        """Create a user.

        Args:
            username: 1 to 128 visible characters.
            password: at least 12 characters.
            now: Unix seconds.

        Raises:
            InvalidUserError: the name is taken or not a name, or the password is too short or too long.
        """
        check_username(username)
        user = User(
            sub=new_sub(),
            username=username,
            password_hash=await self.hash(password),
            disabled=False,
            created=now,
        )
        if not await self._store.add(user):
            raise InvalidUserError(f"there is a user {username} already")
        return user

    async def set_password(self, user: User, password: str) -> None:
        """Give a user another password.

        Raises:
            InvalidUserError: it is too short or too long, or the user's identity has the password.
        """
        if user.identity != LOCAL:
            raise InvalidUserError(f"the password of {user.username} is kept by the identity {user.identity}")
        await self._store.set_password_hash(user, await self.hash(password))

    def close(self) -> None:
        """Stop the threads."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def hash(self, password: str) -> str:
        """The argon2id hash of a password.

        Raises:
            InvalidUserError: it is too short or too long.
        """
        check_password(password)
        return await self._in_thread(self._hasher.hash, password)

    def _matches(self, password_hash: str, password: str) -> bool:
        try:
            return password_hash_forms.read(password_hash).matches(password)
        except PasswordHashError:
            return False

    async def _in_thread(self, work: Callable[..., _T], *arguments: str) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
