"""Users and what they have consented to."""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace

from keystile_auth.store import scripts
from keystile_common.store import Store

LOCAL = "local"
"""The identity whose users and passwords are kept here."""
_ALL = "ks:users"
_DECOYS = "ks:user-decoys"
_AT_ONCE = 100
_FIELDS = ("username", "password_hash", "disabled", "created")


@dataclass(frozen=True, slots=True)
class User:
    """A person who can sign in. `sub` never changes and is never given to another.

    An empty `password_hash` is one that no password has.
    `identity` is what knows the person: `local`, or the name of one elsewhere, and then `subject`, `groups`, when it
    was last heard (`checked`, Unix seconds) and what it can be asked with again (`credential`, encrypted) are its own.
    """

    sub: str
    username: str
    password_hash: str = field(repr=False)
    disabled: bool
    created: int
    identity: str = LOCAL
    subject: str = ""
    groups: tuple[str, ...] = ()
    checked: int = 0
    credential: str = field(default="", repr=False)


class UserStore:
    """Keeps users. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._take_name = store.redis.register_script(scripts.read("take_name"))
        self._replace_hash = store.redis.register_script(scripts.read("replace_password_hash"))

    async def add(self, user: User) -> bool:
        """Store a new user; False when the name is taken."""
        with self._store.operation("user.add"):
            # The name last: until it leads to the user there is none, and whatever stands already is harmless.
            await self._store.redis.sadd(_ALL, user.sub)
            await self._store.redis.hset(_key(user.sub), mapping=_fields(user))
            if await self._claim(user):
                return True
            await self._store.redis.delete(_key(user.sub))
            await self._store.redis.srem(_ALL, user.sub)
        return False

    async def _claim(self, user: User) -> bool:
        name = _name_key(user.username)
        taken = await self._store.redis.set(name, user.sub, nx=True, get=True)
        if taken in {None, user.sub}:  # ours when the answer got lost and the command was sent again
            return True
        if await self._store.redis.exists(_key(taken)):
            return False
        # Of a user whose deletion was cut short.
        return bool(await self._take_name(keys=[name], args=[taken, user.sub]))

    async def find(self, sub: str) -> User | None:
        """The user with this subject, or None."""
        with self._store.operation("user.find"):
            fields: dict[str, str] = await self._store.redis.hgetall(_key(sub))
        if len(fields) < len(_FIELDS):  # a field written after the user was deleted makes no user
            return None
        return User(
            sub=sub,
            username=fields["username"],
            password_hash=fields["password_hash"],
            disabled=fields["disabled"] == "1",
            created=int(fields["created"]),
            identity=fields.get("identity", LOCAL),
            subject=fields.get("subject", ""),
            groups=tuple(json.loads(fields.get("groups", "[]"))),
            checked=int(fields.get("checked", "0")),
            credential=fields.get("credential", ""),
        )

    async def find_by_name(self, username: str) -> User | None:
        """The user with this name (case does not matter), or None."""
        with self._store.operation("user.find_by_name"):
            sub: str | None = await self._store.redis.get(_name_key(username))
        return await self.find(sub) if sub else None

    async def set_password_hash(self, user: User, password_hash: str) -> User:
        """Store another password hash."""
        await self._set(user, "password_hash", password_hash)
        return replace(user, password_hash=password_hash)

    async def replace_password_hash(self, user: User, password_hash: str) -> User | None:
        """Store another hash of the same password; None when the password is not that of `user` any more."""
        with self._store.operation("user.replace_password_hash"):
            replaced = await self._replace_hash(keys=[_key(user.sub)], args=[user.password_hash, password_hash])
        return replace(user, password_hash=password_hash) if replaced else None

    async def set_disabled(self, user: User, *, disabled: bool) -> User:
        """Disable or enable a user."""
        await self._set(user, "disabled", str(int(disabled)))
        return replace(user, disabled=disabled)

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
        users = [user for sub in subs if (user := await self.find(sub)) is not None]
        # Without those whose name never came to lead to them; see `add`. Only the names of local users lead to them.
        named = [user for user in users if user.identity != LOCAL or (await self.find_by_name(user.username)) == user]
        return sorted(named, key=lambda user: user.username)

    async def scan(self) -> AsyncIterator[User]:
        """Every user, in no order and never all in memory; one may come twice while others are added."""
        cursor = 0
        while True:
            with self._store.operation("user.scan"):
                cursor, subs = await self._store.redis.sscan(_ALL, cursor, count=_AT_ONCE)
            for sub in subs:
                user = await self.find(sub)
                named = await self.find_by_name(user.username) if user else None
                if named is not None and named.sub == sub:
                    yield named
            if int(cursor) == 0:
                return

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
            await self._store.redis.hdel(f"ks:consents:{sub}", _consent(client_id, resource))

    async def _set(self, user: User, field: str, value: str) -> None:
        # One field, not the whole user: a password rehashed at sign-in must not undo a disabling just done.
        with self._store.operation("user.set"):
            await self._store.redis.hset(_key(user.sub), field, value)


def _fields(user: User) -> dict[str, str]:
    return {
        "username": user.username,
        "password_hash": user.password_hash,
        "disabled": str(int(user.disabled)),
        "created": str(user.created),
    }


def _key(sub: str) -> str:
    return f"ks:user:{sub}"


def _name_key(username: str) -> str:
    return f"ks:username:{username.casefold()}"


def _consent(client_id: str, resource: str) -> str:
    return f"{client_id} {resource}"
