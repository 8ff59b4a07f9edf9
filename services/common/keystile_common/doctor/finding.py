"""What a check found: an outcome, what was seen, and what to do about it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

_Subject = TypeVar("_Subject")
MAX_SHOWN = 400


class Outcome(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a check ended, and why.

    Args:
        outcome: of the check.
        seen: a sentence about what was seen.
        advice: a sentence about what to do; empty where there is nothing to do.
    """

    outcome: Outcome
    seen: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A verdict under the name of its check, safe to show."""

    check: str
    outcome: Outcome
    seen: str
    advice: str


Checks = Mapping[str, Callable[[_Subject], Awaitable[Verdict]]]
"""Names of checks to what finds their verdict."""


def ok(seen: str) -> Verdict:
    """All is well."""
    return Verdict(Outcome.OK, seen)


def warning(seen: str, advice: str) -> Verdict:
    """Some clients may stumble, or somebody will soon."""
    return Verdict(Outcome.WARNING, seen, advice)


def problem(seen: str, advice: str) -> Verdict:
    """A client that keeps to the standards stumbles, or what protects people is missing."""
    return Verdict(Outcome.PROBLEM, seen, advice)


def unknown(seen: str, advice: str = "") -> Verdict:
    """It cannot be told from here."""
    return Verdict(Outcome.UNKNOWN, seen, advice)


def finding(check: str, verdict: Verdict, secrets: Sequence[str]) -> Finding:
    """A finding whose texts hold no secret, no control character, and no more than `MAX_SHOWN` characters each.

    Args:
        check: the name of the check.
        verdict: its verdict; its texts may quote what a server sent.
        secrets: what must not be shown.
    """
    return Finding(check, verdict.outcome, shown(verdict.seen, secrets), shown(verdict.advice, secrets))


def shown(text: str, secrets: Sequence[str] = ()) -> str:
    """`text` as it may be shown to a person at a terminal."""
    # The longest first: one secret may be a part of another.
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        text = text.replace(secret, "[hidden]")
    # A server must not be able to write to the terminal of whoever looks at it, nor to turn its text around.
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 1] + "…"
