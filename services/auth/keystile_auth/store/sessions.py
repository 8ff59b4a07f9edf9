"""Sign-in sessions and the authorization requests that wait for a person."""

import json
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

from keystile_common.store import Store

_TOUCH_EVERY_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Session:
    """A browser in which a user is signed in. `id` is the SHA-256 of the cookie's value; times in Unix seconds."""

    id: str
    sub: str
    created: int
    seen: int
    ip: str
    user_agent: str


class SessionStore:
    """Keeps sessions and waiting requests. Every method raises `StoreUnavailableError` when the store is away."""

    def __init__(self, store: Store, *, idle_seconds: int, lifetime_seconds: int) -> None:
        self._store = store
        self._idle = idle_seconds
        self._lifetime = lifetime_seconds

    async def create(self, session: Session) -> None:
        """Store a new session."""
        with self._store.operation("session.create"):
            # Listed first: a session that no list has could not be ended from another browser.
            await self._store.redis.sadd(_listing(session.sub), session.id)
            await self._store.redis.expire(_listing(session.sub), self._lifetime)
            await self._put(session)

    async def find(self, session_id: str) -> Session | None:
        """The live session of this id, its idle time begun anew, or None."""
        with self._store.operation("session.find"):
            text = await self._store.redis.get(_key(session_id))
            if not text:
                return None
            session = Session(**json.loads(text))
            now = int(time.time())
            if now - session.seen >= _TOUCH_EVERY_SECONDS:
                session = replace(session, seen=now)
                # xx: a session that was ended meanwhile must stay so.
                await self._put(session, xx=True)
        return session

    async def delete(self, session: Session) -> None:
        """End a session."""
        with self._store.operation("session.delete"):
            await self._store.durable.delete(_key(session.id))
            await self._store.redis.srem(_listing(session.sub), session.id)

    async def confirm_deleted(self, session_id: str) -> None:
        """Return once a session that is not there stays so, as durably as it is to be."""
        await self._store.confirm(_key(session_id))

    async def of_user(self, sub: str) -> list[Session]:
        """A user's live sessions, the last seen first."""
        with self._store.operation("session.list"):
            ids = await self._store.redis.smembers(_listing(sub))
            texts = [await self._store.redis.get(_key(each)) for each in ids]
        return sorted((Session(**json.loads(text)) for text in texts if text), key=lambda each: -each.seen)

    async def delete_all_of_user(self, sub: str) -> int:
        """End every session of a user; answers how many there were."""
        sessions = await self.of_user(sub)
        for session in sessions:
            await self.delete(session)
        return len(sessions)

    async def put_request(self, request_id: str, document: dict[str, Any], seconds: int) -> None:
        """Keep an authorization request while its user signs in and decides."""
        with self._store.operation("request.put"):
            await self._store.redis.set(f"ks:request:{request_id}", json.dumps(document), ex=seconds)

    async def find_request(self, request_id: str) -> dict[str, Any] | None:
        """A waiting authorization request, or None."""
        with self._store.operation("request.find"):
            text = await self._store.redis.get(f"ks:request:{request_id}")
        return json.loads(text) if text else None

    async def take_request(self, request_id: str) -> dict[str, Any] | None:
        """A waiting authorization request, which nobody can take again."""
        with self._store.operation("request.take"):
            text = await self._store.redis.getdel(f"ks:request:{request_id}")
        return json.loads(text) if text else None

    async def _put(self, session: Session, *, xx: bool = False) -> None:
        left = session.created + self._lifetime - session.seen
        if left > 0:
            text = json.dumps(asdict(session))
            await self._store.redis.set(_key(session.id), text, ex=min(self._idle, left), xx=xx)


def _key(session_id: str) -> str:
    return f"ks:session:{session_id}"


def _listing(sub: str) -> str:
    return f"ks:sessions:{sub}"
