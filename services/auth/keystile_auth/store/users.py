"""Users and what they have consented to."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

from keystile_auth.store import scripts
from keystile_common.store import Store

LOCAL = "local"
"""The identity whose users and passwords are kept here."""
KEYS_OF_USERS = "ks:user:"
"""How the keys of users begin."""
_ALL = "ks:users"
_DECOYS = "ks:user-decoys"
_AT_ONCE = 500
_FIELDS = ("username", "password_hash", "disabled", "created")


class User(NamedTuple):
    """A person who can sign in. `sub` never changes and is never given to another.

    An empty `password_hash` is one that no password has.
    `identity` is what knows the person: `local`, or the name of one elsewhere, and then `subject`, `groups`, when it
    was last heard (`checked`, Unix seconds), what it can be asked with again (`credential`, encrypted) and when its own
    session ends (`until`, Unix seconds, 0 where it does not say) are its own.
    """

    sub: str
    username: str
    password_hash: str
    disabled: bool
    created: int
    identity: str = LOCAL
    subject: str = ""
    groups: tuple[str, ...] = ()
    checked: int = 0
    credential: str = ""
    until: int = 0

    def __repr__(self) -> str:
        return f"User(sub={self.sub!r}, username={self.username!r}, identity={self.identity!r})"


class UserStore:
    """Keeps users. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._take_name = store.redis.register_script(scripts.read("take_name"))
        self._replace_hash = store.redis.register_script(scripts.read("replace_password_hash"))

    async def add(self, user: User) -> bool:
        """Store a new user; False when the name is taken."""
        return (await self.add_all([user]))[0]

    async def add_all(self, users: list[User]) -> list[bool]:
        """Store new users, whose names differ; for each whether it was stored, which it is not when its name is taken.

        What breaks off leaves each user whole, or not there.
        """
        if not users:
            return []
        with self._store.operation("user.add"):
            # The names last: until one leads to the user there is none, and whatever stands already is harmless.
            batch = self._store.redis.batch()
            batch.sadd(_ALL, *(user.sub for user in users))
            for user in users:
                batch.hset(_key(user.sub), mapping=_fields(user))
            await batch.execute()
            for user in users:
                batch.set(_name_key(user.username), user.sub, nx=True, get=True)
            holders = await batch.execute()
            return [await self._is_kept(user, holder) for user, holder in zip(users, holders, strict=True)]

    async def _is_kept(self, user: User, holder: str | None) -> bool:
        """Whether a user got the name that `holder` had when it was asked for; who did not is forgotten."""
        if holder is None or holder == user.sub:  # ours when the answer got lost and the command was sent again
            return True
        # Where it leads to nobody, its user's deletion was cut short.
        if not await self._store.redis.exists(_key(holder)):
            name = _name_key(user.username)
            if await self._take_name(keys=[name], args=[holder, user.sub]):
                return True
        await self._store.redis.delete(_key(user.sub))
        await self._store.redis.srem(_ALL, user.sub)
        return False

    async def find(self, sub: str) -> User | None:
        """The user with this subject, or None."""
        with self._store.operation("user.find"):
            fields: dict[str, str] = await self._store.redis.hgetall(_key(sub))
        return read_user(sub, fields)

    async def find_all(self, subs: list[str]) -> list[User | None]:
        """The users with these subjects, each as `find` has it."""
        with self._store.operation("user.find_all"):
            batch = self._store.redis.batch()
            for sub in subs:
                batch.hgetall(_key(sub))
            found: list[dict[str, str]] = await batch.execute()
        return [read_user(sub, fields) for sub, fields in zip(subs, found, strict=True)]

    async def find_all_by_name(self, usernames: list[str]) -> list[User | None]:
        """The users with these names, each as `find_by_name` has it."""
        subs = await self._subs_of(usernames)
        users = {user.sub: user for user in await self.find_all([sub for sub in subs if sub]) if user}
        return [users.get(sub) if sub else None for sub in subs]

    async def _subs_of(self, usernames: list[str]) -> list[str | None]:
        with self._store.operation("user.find_all_by_name"):
            batch = self._store.redis.batch()
            for username in usernames:
                batch.get(_name_key(username))
            subs: list[str | None] = await batch.execute()
        return subs

    async def find_by_name(self, username: str) -> User | None:
        """The user with this name (case does not matter), or None."""
        with self._store.operation("user.find_by_name"):
            sub: str | None = await self._store.redis.get(_name_key(username))
        return await self.find(sub) if sub else None

    async def set_password_hash(self, user: User, password_hash: str) -> User:
        """Store another password hash."""
        await self._set(user, "password_hash", password_hash)
        return user._replace(password_hash=password_hash)

    async def replace_password_hash(self, user: User, password_hash: str) -> User | None:
        """Store another hash of the same password; None when the password is not that of `user` any more."""
        with self._store.operation("user.replace_password_hash"):
            replaced = await self._replace_hash(keys=[_key(user.sub)], args=[user.password_hash, password_hash])
        return user._replace(password_hash=password_hash) if replaced else None

    async def set_disabled(self, user: User, *, disabled: bool) -> User:
        """Disable or enable a user."""
        await self._set(user, "disabled", str(int(disabled)))
        return user._replace(disabled=disabled)

    async def delete(self, user: User) -> None:
        """Forget a user and the consents."""
        with self._store.operation("user.delete"):
            await self._store.redis.delete(f"ks:consents:{user.sub}")
            # The user last but for the name: until it is gone, the name leads here and the deletion can be repeated.
            # A name that leads to nobody is free.
            await self._store.redis.srem(_ALL, user.sub)
            await self._store.redis.delete(_key(user.sub))
            if user.identity == LOCAL:
                await self._store.redis.delete(_name_key(user.username))

    async def all(self) -> list[User]:
        """Every user, by name."""
        with self._store.operation("user.list"):
            subs: set[str] = await self._store.redis.smembers(_ALL)
        users: list[User] = []
        for some in _slices(list(subs)):
            found = [user for user in await self.find_all(some) if user]
            users += [user for user in found if user.identity != LOCAL]
            # Without those whose name never came to lead to them; see `add_all`. Only local users' names lead to them.
            users += await self._named([user for user in found if user.identity == LOCAL])
        return sorted(users, key=lambda user: user.username)

    async def scan(self) -> AsyncIterator[User]:
        """Every local user, in no order and never all in memory; one may come twice while others are added."""
        cursor = 0
        while True:
            with self._store.operation("user.scan"):
                cursor, subs = await self._store.redis.sscan(_ALL, cursor, count=_AT_ONCE)
            for some in _slices(subs):
                for user in await self._named([user for user in await self.find_all(some) if user]):
                    yield user
            if int(cursor) == 0:
                return

    async def _named(self, users: list[User]) -> list[User]:
        """Those whose names lead to them."""
        subs = await self._subs_of([user.username for user in users])
        return [user for user, sub in zip(users, subs, strict=True) if sub == user.sub]

    async def decoys(self) -> dict[str, str]:
        """Hashes that no password has, by their shapes: one of each that an import brought."""
        with self._store.operation("user.decoys"):
            found: dict[str, str] = await self._store.redis.hgetall(_DECOYS)
        return found

    async def add_decoy(self, shape: str, password_hash: str) -> None:
        """Keep a decoy, unless there is one of this shape."""
        with self._store.operation("user.add_decoy"):
            await self._store.redis.hsetnx(_DECOYS, shape, password_hash)

    async def consented(self, sub: str, client_id: str, resource: str) -> frozenset[str]:
        """The scopes a user has granted this client for this resource."""
        with self._store.operation("consent.find"):
            scopes: str | None = await self._store.redis.hget(f"ks:consents:{sub}", _consent(client_id, resource))
        return frozenset((scopes or "").split())

    async def remember_consent(self, sub: str, client_id: str, resource: str, scopes: frozenset[str]) -> None:
        """Remember all scopes a user has granted this client for this resource."""
        with self._store.operation("consent.put"):
            text = " ".join(sorted(scopes))
            await self._store.redis.hset(f"ks:consents:{sub}", _consent(client_id, resource), text)

    async def forget_consent(self, sub: str, client_id: str, resource: str) -> None:
        """Ask again the next time."""
        with self._store.operation("consent.delete"):
            await self._store.durable.hdel(f"ks:consents:{sub}", _consent(client_id, resource))

    async def _set(self, user: User, field: str, value: str) -> None:
        # One field, not the whole user: a password rehashed at sign-in must not undo a disabling just done.
        with self._store.operation("user.set"):
            await self._store.durable.hset(_key(user.sub), field, value)


def _slices(subs: list[str]) -> Iterator[list[str]]:
    return (subs[start : start + _AT_ONCE] for start in range(0, len(subs), _AT_ONCE))


def read_user(sub: str, fields: dict[str, str]) -> User | None:
    """The user that stored fields are, or None where they are none."""
    if len(fields) < len(_FIELDS):  # a field written after the user was deleted makes no user
        return None
    groups = fields.get("groups")
    return User(
        sub=sub,
        username=fields["username"],
        password_hash=fields["password_hash"],
        disabled=fields["disabled"] == "1",
        created=int(fields["created"]),
        identity=fields.get("identity", LOCAL),
        subject=fields.get("subject", ""),
        groups=tuple(json.loads(groups)) if groups else (),
        checked=int(fields.get("checked", "0")),
        credential=fields.get("credential", ""),
        until=int(fields.get("until", "0")),
    )


def _fields(user: User) -> dict[str, str]:
    return {
        "username": user.username,
        "password_hash": user.password_hash,
        "disabled": str(int(user.disabled)),
        "created": str(user.created),
    }


def _key(sub: str) -> str:
    return f"{KEYS_OF_USERS}{sub}"


def _name_key(username: str) -> str:
    return f"ks:username:{username.casefold()}"


def _consent(client_id: str, resource: str) -> str:
    return f"{client_id} {resource}"
