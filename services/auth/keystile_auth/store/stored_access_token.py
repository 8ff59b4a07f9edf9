"""A live access token as the store holds it."""

from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class StoredAccessToken:
    """A live access token: when it expires (Unix seconds), for whom it is, and its introspection answer."""

    expires: int
    audience: str
    answer: str

    @classmethod
    def from_text(cls, text: str) -> Self:
        """Of what `put_access_token` in `grant.lua` wrote."""
        head, answer = text.split("\n", 1)
        expires, audience = head.split(" ", 1)
        return cls(int(expires), audience, answer)
