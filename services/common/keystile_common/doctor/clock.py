"""Whether clocks agree: tokens are good from one second to another."""

import email.utils
import json
import time
from collections.abc import Callable

from keystile_common import base64url
from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import Answer
from keystile_common.doctor.scene import Scene

_LEEWAY_SECONDS = 30
_NOTABLE_SECONDS = 5
_MAX_TOKEN_BYTES = 64 * 1024
_END_OF_TIME = 1e12
_ADVICE = (
    "Let NTP set the clocks of both machines (this one may be the wrong one): tokens seem expired, or not yet good."
)


def skew_seconds(answer: Answer, now: float) -> float | None:
    """How far the clock of whoever answered is ahead of `now`; None if the answer does not tell."""
    try:
        date = email.utils.parsedate_to_datetime(answer.headers["date"]).timestamp()
        age = int(answer.headers.get("age", "0"))  # a cache keeps the Date of whom it asked (RFC 9111 section 5.1)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None
    return date + age - now


def issued_at(token: str) -> float | None:
    """The `iat` of a JWT, whose signature nobody checks here; None if it is none."""
    parts = token.split(".")
    if len(token) > _MAX_TOKEN_BYTES or len(parts) != 3:  # noqa: PLR2004 (RFC 7515 section 3.1)
        return None
    try:
        claims = json.loads(base64url.decode(parts[1]))
    except (ValueError, RecursionError):
        return None
    issued = claims.get("iat") if isinstance(claims, dict) else None
    # What is beyond any clock is no time.
    return float(issued) if isinstance(issued, int | float) and abs(issued) < _END_OF_TIME else None


async def clock(scene: Scene, now: Callable[[], float] = time.time) -> Verdict:
    """The Date of both servers, and the iat of a token, against the clock here."""
    told: dict[str, float] = {}
    if scene.challenge is not None:
        _add(told, "The MCP server's clock", await scene.probe.ask("DELETE", scene.url), now)
    places = [each.url for each in scene.issuer_documents if each.document is not None]
    if places:
        _add(told, "The authorization server's clock", await scene.probe.ask("GET", places[0]), now)
    issued = issued_at(scene.token) if scene.token else None
    if issued is not None and issued - now() > 0:
        told["The iat of the token"] = issued - now()
    if not told:
        return unknown("No answer says what time it is.")
    name, skew = max(told.items(), key=lambda pair: abs(pair[1]))
    seen = f"{name} is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's."
    if abs(skew) > _LEEWAY_SECONDS:
        return problem(seen, _ADVICE)
    if abs(skew) > _NOTABLE_SECONDS:
        return warning(seen, _ADVICE)
    return ok(f"Clocks agree within {_NOTABLE_SECONDS} s.")


def _add(told: dict[str, float], name: str, answer: Answer, now: Callable[[], float]) -> None:
    skew = skew_seconds(answer, now())
    if skew is not None:
        told[name] = skew


CHECKS: Checks[Scene] = {"clock": clock}
