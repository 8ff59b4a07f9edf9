"""What commands on users share: ending what a user has, and recording it."""

from keystile_auth.cli.session import Session
from keystile_auth.store.grants import GrantStore
from keystile_auth.store.sessions import SessionStore
from keystile_auth.store.users import User
from keystile_common.audit import Actor, EventType


async def end_all(session: Session, user: User, kind: EventType, reason: str) -> int:
    """End all sessions and grants of a user; answers how many grants."""
    await sessions_of(session).delete_all_of_user(user.sub)
    ended = await GrantStore(session.store).end_all_of_user(user.sub, f"user_{reason}")
    record_user(session, kind, user, reason)
    return ended


def sessions_of(session: Session) -> SessionStore:
    """The sessions, as the server's settings have them."""
    settings = session.settings.sessions
    return SessionStore(session.store, idle_seconds=settings.idle_seconds, lifetime_seconds=settings.lifetime_seconds)


def record_user(session: Session, kind: EventType, user: User, reason: str) -> None:
    """Record what an operator did to a user."""
    session.audit.record(kind, "success", Actor(), reason=reason, target={"sub": user.sub, "username": user.username})
