"""Audit events for refused tokens, so many a second and no more.

Anyone can send invalid tokens as fast as the network goes. The metric counts every one of them; the audit log
gets a bounded number, so that junk can neither fill a disk nor bury what matters.
"""

from starlette.types import Scope

from keystile_common.audit import Actor, AuditLog, EventType
from keystile_mcp.challenge import BearerError
from keystile_mcp.introspection_cache import Clock

EVENTS_PER_SECOND = 10
BURST = 50


def client_address(scope: Scope) -> str | None:
    """The address of the request's client, as the server knows it."""
    client = scope.get("client")
    return client[0] if client else None


class Denials:
    """Records refused tokens.

    Args:
        audit: where to.
        resource: what they were sent to.
        clock: Unix time in seconds.
    """

    def __init__(self, audit: AuditLog, resource: str, clock: Clock) -> None:
        self._audit = audit
        self._target = {"resource": resource}
        self._clock = clock
        self._allowance, self._filled_at = float(BURST), clock()

    def record(self, error: BearerError, scope: Scope) -> None:
        """Record that a request's token was refused, unless too many were in the last seconds."""
        if not self._take():
            return
        actor = Actor(error.actor.sub, error.actor.client_id, client_address(scope))
        self._audit.record(EventType.ACCESS_DENIED, "denied", actor, reason=error.result, target=self._target)

    def _take(self) -> bool:
        now = self._clock()
        elapsed = max(0.0, now - self._filled_at)
        self._allowance = min(float(BURST), self._allowance + elapsed * EVENTS_PER_SECOND)
        self._filled_at = now
        if self._allowance < 1:
            return False
        self._allowance -= 1
        return True
