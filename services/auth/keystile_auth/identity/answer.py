"""What an identity says of a person, and how it fails to."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keystile_common.store import StoreUnavailableError

MAX_SUBJECT_CHARACTERS = 255
MAX_GROUPS = 1000
MAX_GROUP_CHARACTERS = 256
MAX_NAME_CHARACTERS = 128


@dataclass(frozen=True, slots=True)
class Identity:
    """A person as an identity knows one.

    Args:
        subject: what names the person there, for ever and nobody else; 1 to 255 visible characters.
        username: what people read.
        groups: those that the person is in now.

    Raises:
        ValueError: the subject is none.
    """

    subject: str
    username: str
    groups: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        subject: object = self.subject
        if not isinstance(subject, str) or not 0 < len(subject) <= MAX_SUBJECT_CHARACTERS:
            raise ValueError(f"a subject has 1 to {MAX_SUBJECT_CHARACTERS} characters")
        if not subject.isprintable():
            raise ValueError("a subject has visible characters only")
        object.__setattr__(self, "username", _visible(self.username) or subject[:MAX_NAME_CHARACTERS])
        object.__setattr__(self, "groups", tuple(filter(_is_group, self.groups))[:MAX_GROUPS])


@dataclass(frozen=True, slots=True)
class SignIn:
    """A sign-in that an identity vouches for.

    With `credential` it can be asked about the person again; `until`, Unix seconds, is where its own session ends.
    """

    identity: Identity
    credential: str = field(default="", repr=False)
    until: float | None = None


class IdentityUnavailableError(StoreUnavailableError):
    """An identity does not answer, or answers what cannot be; nothing is known of the person.

    Args:
        title: what people read of the identity.
        why: a few words.
        sentence: what the person reads, where it is not that trying again in a minute may help.
    """

    def __init__(self, title: str, why: str, sentence: str | None = None) -> None:
        super().__init__(f"{title}: {why}")
        self.title = title
        self.sentence = sentence or f"{title} does not answer at the moment. Try again in a minute."


class SignInRefusedError(Exception):
    """An identity, or we on its answer, did not let somebody in.

    Args:
        reason: a few words for the audit log; nothing that a stranger wrote.
        sentence: what the person reads.
    """

    def __init__(self, reason: str, sentence: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sentence = sentence


class IdentityGoneError(Exception):
    """The identity no longer knows the person, or has disabled the account."""


class SignInAgainError(Exception):
    """The identity was not heard for too long and cannot be asked without the person."""


def claim_values(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """The values of a claim, one or a list; `realm_access.roles` looks into objects.

    Args:
        claims: of an ID token or userinfo.
        name: of the claim. One that has dots in its own name is found first.
    """
    value: Any = claims.get(name)
    if value is None:
        value = claims
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    values = value if isinstance(value, list) else [value]
    return tuple(each for each in values if isinstance(each, str))


def _visible(name: object) -> str:
    return name.strip()[:MAX_NAME_CHARACTERS] if isinstance(name, str) and name.isprintable() else ""


def _is_group(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_GROUP_CHARACTERS
