"""Whether revocations are heard of as they happen, and what follows for those who hold tokens where they are not."""

import asyncio
from collections.abc import Collection, Sequence
from typing import Protocol

from prometheus_client import Gauge

from keystile_mcp.revoked import Revoked

SILENCE_SECONDS = 6.0
"""Where nothing that was asked within this time has been answered, revocations are not heard of."""
DOUBT_SECONDS = 5.0
"""So long an answer is believed then."""


class Revocable(Protocol):
    """Holds what may be revoked."""

    def revoke(self, revoked: Collection[Revoked]) -> None:
        """Believe in these no more."""
        ...

    def doubt(self, seconds: float) -> None:
        """Believe nothing that was learned so far, and what will be learned for `seconds` at most."""
        ...

    def trust(self) -> None:
        """Take back the limit: revocations are heard of as they happen."""
        ...


class Hearing:
    """Tells those who hold tokens when to doubt them. Silence begins with the first `lose`.

    Args:
        holders: who is told; more may be added before anything is.
        up: what is 1 while revocations are heard of, and 0 while they are not.
    """

    def __init__(self, holders: list[Revocable], up: Sequence[Gauge]) -> None:
        self.holders = holders
        self._up = up
        self._is_trusted = True
        self._losing: asyncio.TimerHandle | None = None

    def confirm(self, asked_at: float) -> None:
        """Nothing that was revoked before `asked_at` (of the event loop) is unknown here."""
        self.close()
        self._losing = asyncio.get_running_loop().call_at(asked_at + SILENCE_SECONDS, self.lose)
        if not self._is_trusted:
            self._is_trusted = True
            self._show(1)
            for holder in self.holders:
                holder.trust()

    def lose(self) -> None:
        """Nothing has been heard for too long."""
        self._is_trusted = False
        self._show(0)
        for holder in self.holders:
            holder.doubt(DOUBT_SECONDS)

    def begin_anew(self) -> None:
        """Something may have been missed: what is known is forgotten."""
        for holder in self.holders:
            holder.doubt(0 if self._is_trusted else DOUBT_SECONDS)
            if self._is_trusted:
                holder.trust()

    def close(self) -> None:
        """Expect nothing any more."""
        if self._losing is not None:
            self._losing.cancel()

    def _show(self, value: int) -> None:
        for each in self._up:
            each.set(value)
