"""What replicas share about sessions: whose a session is, where it lives, and what was said in it.

Keys (prefix `km:`, then the resource), in braces what Redis Cluster hashes:

| key | what |
|---|---|
| `km:RESOURCE:key` | random bytes that every replica signs with |
| `km:RESOURCE:alive:ADDRESS` | a replica that lives, for a few seconds |
| `km:RESOURCE:{SESSION}` | a session: its owner's address, its principal |
| `km:RESOURCE:{SESSION}:events` | a stream of its last events, for those who come back |
"""

import base64
import contextlib
import hashlib
import json
import secrets
from collections.abc import AsyncIterator, Iterable
from dataclasses import asdict, dataclass

from keystile_common.store import Store

MAX_EVENT_ID_CHARACTERS = 40
ALIVE_SECONDS = 15
MAX_EVENTS = 1000
"""So many events of a session are kept, and for as long as the session."""
_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class Residence:
    """Where a session lives.

    `address` is the host and port where its replica takes requests from the others, `principal` whoever opened it.
    """

    address: str
    principal: str


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a session: its id, the stream that it is of, and its message as JSON ('' for none)."""

    id: str
    stream: str
    message: str


class SessionStore:
    """Sessions of one resource.

    Args:
        store: the connection.
        resource: the resource's identifier; sessions of another are never found.
        seconds: how long a session is remembered after its last request.
    """

    def __init__(self, store: Store, resource: str, seconds: int) -> None:
        self._store = store
        self._prefix = prefix_of(resource)
        self._seconds = seconds

    @contextlib.asynccontextmanager
    async def connected(self, start_seconds: float) -> AsyncIterator[None]:
        """The time in which the store is used; it begins when the store answers.

        Args:
            start_seconds: how long that may take.

        Raises:
            StoreUnavailableError: it took longer.
            StoreUnsuitableError: the store must not be used.
        """
        try:
            await self._store.wait_until_reachable(start_seconds)
            yield
        finally:
            await self._store.close()

    async def shared_key(self) -> bytes:
        """The bytes that all replicas sign with; made by the first that asks.

        Raises:
            StoreUnavailableError: the store did not answer.
        """
        name = f"{self._prefix}:key"
        made = base64.b64encode(secrets.token_bytes(_KEY_BYTES)).decode()
        with self._store.operation("session.key"):
            await self._store.redis.set(name, made, nx=True)
            text: str = await self._store.redis.get(name)
        return base64.b64decode(text)

    async def live(self, address: str) -> None:
        """Say that the replica at `address` lives; to be said again before `ALIVE_SECONDS` are over."""
        with self._store.operation("session.live"):
            await self._store.redis.set(f"{self._prefix}:alive:{address}", "1", ex=ALIVE_SECONDS)

    async def is_alive(self, address: str) -> bool:
        """Whether the replica at `address` has said so lately."""
        with self._store.operation("session.is_alive"):
            return bool(await self._store.redis.get(f"{self._prefix}:alive:{address}"))

    async def settle(self, session_id: str, residence: Residence) -> None:
        """Remember where a new session lives."""
        with self._store.operation("session.settle"):
            await self._store.redis.set(self._key(session_id), json.dumps(asdict(residence)), ex=self._seconds)

    async def find(self, session_id: str) -> Residence | None:
        """Where a session lives, or None."""
        with self._store.operation("session.find"):
            text = await self._store.redis.get(self._key(session_id))
        return Residence(**json.loads(text)) if text else None

    async def keep(self, session_id: str) -> None:
        """Begin its time anew."""
        with self._store.operation("session.keep"):
            await self._store.redis.expire(self._key(session_id), self._seconds)
            await self._store.redis.expire(self._events(session_id), self._seconds)

    async def end(self, session_ids: Iterable[str]) -> None:
        """Forget sessions and what was said in them."""
        for session_id in session_ids:
            with self._store.operation("session.end"):
                await self._store.redis.delete(self._key(session_id), self._events(session_id))

    async def add_event(self, session_id: str, stream: str, message: str) -> str:
        """Keep an event; answers its id."""
        name = self._events(session_id)
        with self._store.operation("session.add_event"):
            event_id: str = await self._store.redis.xadd(
                name, {"stream": stream, "message": message}, maxlen=MAX_EVENTS, approximate=True
            )
            await self._store.redis.expire(name, self._seconds)
        return event_id

    async def events_after(self, session_id: str, event_id: str) -> tuple[str, list[Event]] | None:
        """The stream that an event is of, and what came after it there; None if there is no such event.

        Args:
            session_id: the session.
            event_id: as the client says it, so anything.
        """
        if not _is_event_id(event_id):
            return None
        with self._store.operation("session.events"):
            entries = await self._store.redis.xrange(self._events(session_id), min=event_id)
        events = [Event(name, values["stream"], values["message"]) for name, values in entries]
        if not events or events[0].id != event_id:
            return None
        stream = events[0].stream
        return stream, [event for event in events[1:] if event.stream == stream]

    def _key(self, session_id: str) -> str:
        return f"{self._prefix}:{{{session_id}}}"

    def _events(self, session_id: str) -> str:
        return f"{self._key(session_id)}:events"


def prefix_of(resource: str) -> str:
    """What the names of all keys of a resource begin with."""
    return f"km:{hashlib.sha256(resource.encode()).hexdigest()[:16]}"


def _is_event_id(text: str) -> bool:
    milliseconds, _, number = text.partition("-")
    return len(text) <= MAX_EVENT_ID_CHARACTERS and text.isascii() and milliseconds.isdigit() and number.isdigit()
