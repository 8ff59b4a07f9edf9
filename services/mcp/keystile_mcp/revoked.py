"""What has been revoked, and whether a token is of it."""

from collections import OrderedDict
from collections.abc import Collection
from typing import Literal, NamedTuple

from keystile_mcp.introspection_answer import ActiveToken

DENIED_ENTRIES = 20_000
"""So many revocations are remembered for tokens that nobody is asked about; the oldest goes first."""
DENIED_SECONDS = 86_400 + 60
"""For so long: no access token lives longer."""


Kind = Literal["jti", "session", "subject"]


class Name(NamedTuple):
    """What tokens of an issuer have in common: a `jti`, the session that is their grant, or their subject."""

    issuer: str
    kind: Kind
    text: str


class Revoked(NamedTuple):
    """That all tokens of this name have died which were issued until `at`, Unix time in seconds."""

    name: Name
    at: float


def names_of(token: ActiveToken) -> list[Name]:
    """All names of a token."""
    names: list[Name] = []
    if token.jti is not None:
        names.append(Name(token.issuer, "jti", token.jti))
    if token.session is not None:
        names.append(Name(token.issuer, "session", token.session))
    if token.subject is not None:
        names.append(Name(token.issuer, "subject", token.subject))
    return names


class Denylist:
    """The names that were revoked lately, for tokens that prove themselves."""

    def __init__(self) -> None:
        self._denied: OrderedDict[Name, tuple[float, float]] = OrderedDict()

    def add(self, revoked: Collection[Revoked], now: float) -> None:
        """Note what has been revoked.

        Args:
            revoked: in any order.
            now: Unix time in seconds.
        """
        for name, at in revoked:
            before, _ = self._denied.pop(name, (at, now))
            self._denied[name] = (max(at, before), now)
        while self._denied:
            name, (_, noted) = next(iter(self._denied.items()))
            if len(self._denied) <= DENIED_ENTRIES and now - noted < DENIED_SECONDS:
                return
            del self._denied[name]

    def has(self, token: ActiveToken) -> bool:
        """Whether `token` was revoked. A subject may have got others since, a session or a `jti` may not."""
        if not self._denied:
            return False
        for name in names_of(token):
            found = self._denied.get(name)
            if found is not None and (name.kind != "subject" or (token.issued_at or 0) <= found[0]):
                return True
        return False
