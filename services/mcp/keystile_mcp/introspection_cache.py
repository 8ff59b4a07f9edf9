"""What the authorization server said of tokens, kept for a short while.

An answer is used again for `cache_seconds` at most and never past the token's own end (RFC 7662 section 4),
so that is how long a revoked token may still be accepted where no news of the revocation arrives.
"""

import asyncio
import json
import secrets
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from hashlib import blake2b
from typing import TypeVar

from keystile_common import tasks
from keystile_common.metrics import McpMetrics
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError
from keystile_mcp.issuers import Issuer
from keystile_mcp.revoked import Revoked, names_of

NEGATIVE_ENTRIES = 1_000
"""How many refused tokens are remembered; apart from the others, so that junk displaces no token."""

ValueT = TypeVar("ValueT")

Introspect = Callable[[str], Awaitable[ActiveToken | None]]
Clock = Callable[[], float]
"""Answers Unix time in seconds."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An active token and the Unix times between which that may be believed without asking again."""

    token: ActiveToken
    since: float
    until: float


class IntrospectionCache:
    """Introspection with a memory; many requests that bring one token at one time ask once.

    Args:
        introspect: asks the authorization server.
        issuer: how long and how much to keep, and whose word the answers are.
        metrics: where look-ups are counted.
        clock: Unix time in seconds.
    """

    method = "introspection"

    def __init__(self, introspect: Introspect, issuer: Issuer, metrics: McpMetrics, clock: Clock) -> None:
        self._introspect = introspect
        self._settings = issuer.introspection
        self._clock = clock
        self._key = _process_key(issuer)
        self._active: OrderedDict[bytes, Answer] = OrderedDict()
        self._inactive: OrderedDict[bytes, float] = OrderedDict()
        self._flights: dict[bytes, asyncio.Task[Answer | IntrospectionError | None]] = {}
        self._tasks: set[asyncio.Task[Answer | IntrospectionError | None]] = set()
        self._generation = 0
        self._most_seconds = self._settings.cache_seconds
        result = metrics.introspection_cache_requests.labels
        self._hits, self._negative_hits = result("hit"), result("negative_hit")
        self._misses, self._joins = result("miss"), result("joined")

    def find(self, token: str) -> Answer | None:
        """The answer that is held for `token`, if it may still be used and the token is active."""
        key = self._key_of(token)
        answer = self._active.get(key)
        if answer is None:
            return None
        # A clock that was set back must not make answers live longer: one from the future is not used.
        if not answer.since <= self._clock() < answer.until:
            del self._active[key]
            return None
        self._active.move_to_end(key)
        self._hits.inc()
        return answer

    async def fetch(self, token: str) -> Answer | None:
        """Ask about `token`, or wait for whoever is asking already.

        The question goes on when the request that asked it is cancelled: others may be waiting for it.

        Returns:
            The answer, or None if the token is not active.

        Raises:
            IntrospectionError: the authorization server gave no usable answer.
        """
        key = self._key_of(token)
        if self._is_known_inactive(key):
            self._negative_hits.inc()
            return None
        flight = self._flights.get(key)
        if flight is None:
            self._misses.inc()
            flight = self._flights[key] = asyncio.create_task(self._ask(key, token))
            self._tasks.add(flight)
            flight.add_done_callback(self._tasks.discard)
        else:
            self._joins.inc()
        outcome = await asyncio.shield(flight)
        if isinstance(outcome, IntrospectionError):
            raise IntrospectionError(str(outcome))
        return outcome

    def revoke(self, revoked: Collection[Revoked]) -> None:
        """Drop every token that has been revoked; see `invalidate`."""
        names = {each.name for each in revoked}
        self.invalidate(lambda token: any(name in names for name in names_of(token)))

    def doubt(self, seconds: float) -> None:
        """Believe nothing that was learned so far, and what will be learned for `seconds` at most."""
        self.flush()
        self._most_seconds = min(self._settings.cache_seconds, seconds)

    def trust(self) -> None:
        """Keep answers for as long as the settings say: revocations are heard of."""
        self._most_seconds = self._settings.cache_seconds

    def invalidate(self, concerns: Callable[[ActiveToken], bool]) -> None:
        """Drop every active token that `concerns` picks, and whatever answer is under way.

        Which token an answer under way is about is not known yet, so none of them is kept, and nobody who
        comes after this joins one.
        """
        self._begin_generation()
        for key in [key for key, answer in self._active.items() if concerns(answer.token)]:
            del self._active[key]

    def flush(self) -> None:
        """Drop everything, as when news of revocations may have been missed."""
        self._begin_generation()
        self._active.clear()
        self._inactive.clear()

    async def close(self) -> None:
        """Give up what is under way."""
        await tasks.end(*self._tasks)

    def _begin_generation(self) -> None:
        self._generation += 1
        self._flights.clear()

    async def _ask(self, key: bytes, token: str) -> Answer | IntrospectionError | None:
        generation = self._generation
        try:
            active = await self._introspect(token)
        except IntrospectionError as problem:
            return problem
        finally:
            # After an invalidation the key may belong to a younger question.
            if generation == self._generation:
                self._flights.pop(key, None)
        return self._keep(key, active, may_be_stored=generation == self._generation)

    def _keep(self, key: bytes, active: ActiveToken | None, *, may_be_stored: bool) -> Answer | None:
        now = self._clock()
        if active is None:
            if may_be_stored and self._settings.negative_cache_seconds:
                _put(self._inactive, key, now + self._settings.negative_cache_seconds, NEGATIVE_ENTRIES)
            return None
        if not may_be_stored:
            # For whoever asked, and not for longer: it may be older than a revocation.
            return Answer(active, now, now)
        answer = Answer(active, now, min(now + self._most_seconds, active.expires_at))
        if answer.until > now:
            _put(self._active, key, answer, self._settings.cache_entries)
        return answer

    def _is_known_inactive(self, key: bytes) -> bool:
        until = self._inactive.get(key)
        if until is None:
            return False
        now = self._clock()
        if until - self._settings.negative_cache_seconds <= now < until:
            return True
        del self._inactive[key]
        return False

    def _key_of(self, token: str) -> bytes:
        # BLAKE2 with a key is a MAC like HMAC-SHA-256, at a fifth of its cost between other work.
        return blake2b(token.encode(), key=self._key, digest_size=32).digest()


def _process_key(issuer: Issuer) -> bytes:
    """A key that differs by process and by whose word an answer is: issuer, endpoint, client and resource.

    What is kept is found by a MAC under it, so a dump of the cache gives no token away, and an answer of
    one authorization server never speaks for another's token.
    """
    belongs_to = [
        issuer.identifier,
        issuer.introspection_url or "",
        issuer.introspection.client_id or "",
        issuer.resource,
    ]
    return blake2b(json.dumps(belongs_to).encode(), key=secrets.token_bytes(32), digest_size=32).digest()


def _put(entries: OrderedDict[bytes, ValueT], key: bytes, value: ValueT, most: int) -> None:
    entries[key] = value
    entries.move_to_end(key)
    if len(entries) > most:
        entries.popitem(last=False)
