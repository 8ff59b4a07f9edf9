"""Security event tokens, read strictly (RFC 8417): what an issuer says has been revoked."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from keystile_common.jws import LEEWAY_SECONDS, JwsError, Key, UnverifiedJwt, audiences_of, numeric_date, parse, verify
from keystile_common.security_events import (
    ACCOUNT_DISABLED,
    ACCOUNT_PURGED,
    SESSION_REVOKED,
    SESSIONS_REVOKED,
    TOKEN_REVOKED,
    TYPE,
    VERIFICATION,
)
from keystile_mcp.introspection_answer import canonical
from keystile_mcp.revoked import Name, Revoked

MAX_JTI_CHARACTERS = 256
REVOCATIONS = (TOKEN_REVOKED, SESSION_REVOKED, SESSIONS_REVOKED, ACCOUNT_DISABLED, ACCOUNT_PURGED)
"""The events by which tokens die."""


class SecurityEventError(Exception):
    """It is no security event token of the issuer for this resource.

    `code` is the one of RFC 8935 section 2.4; `str()` says why and holds nothing of the token.
    """

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


@dataclass(frozen=True, slots=True)
class SecurityEvent:
    """An event whose signature holds.

    Attributes:
        jti: its name.
        revoked: what has died by it; nothing for other news.
        begins: whether a stream begins with it, so that something before may have been missed (SSF's verification).
        issued: Unix time when it was made.
        names_nobody: whether something has died that tokens do not tell, such as an e-mail address.
    """

    jti: str
    revoked: tuple[Revoked, ...]
    begins: bool
    issued: float
    names_nobody: bool = False


def unverified(text: str, algorithms: Collection[str]) -> UnverifiedJwt:
    """A security event token of this form; nothing in it is true yet.

    Args:
        text: as it was received.
        algorithms: what it may be signed with.

    Raises:
        SecurityEventError: it is no security event token.
    """
    try:
        token = parse(text, algorithms)
    except JwsError as problem:
        raise SecurityEventError("invalid_request", f"the event {problem}") from None
    if token.type != TYPE:
        # Any other JWT of the issuer, such as an access token, is signed with the same keys.
        raise SecurityEventError("invalid_request", f"the event is not of the type {TYPE}")
    return token


def read(
    token: UnverifiedJwt,
    keys: Iterable[Key],
    *,
    issuer: str,
    audiences: Collection[str],
    now: float,
    tokens_of: str | None = None,
) -> SecurityEvent:
    """Read a security event token (RFC 8417 section 2.2).

    Args:
        token: as of `unverified`.
        keys: the issuer's.
        issuer: whose it must be.
        audiences: one of which it must be for.
        now: Unix time in seconds.
        tokens_of: whose tokens it speaks of; the issuer's own by default.

    Raises:
        SecurityEventError: any of that does not hold, or its form is another.
    """
    try:
        claims = verify(token, keys)
    except JwsError as problem:
        raise SecurityEventError("invalid_key", f"the event {problem}") from None
    check_addresses(claims, issuer, audiences)
    issued, jti, events = numeric_date(claims.get("iat")), claims.get("jti"), claims.get("events")
    if issued is None or issued > now + LEEWAY_SECONDS:
        raise SecurityEventError("invalid_request", "the event has no iat that can be")
    if not isinstance(jti, str) or not jti or len(jti) > MAX_JTI_CHARACTERS or not jti.isprintable():
        raise SecurityEventError("invalid_request", "the event has no jti that can be")
    if not isinstance(events, dict) or not events or not all(isinstance(each, dict) for each in events.values()):
        raise SecurityEventError("invalid_request", "the event says nothing")
    found = [each for each in REVOCATIONS if each in events]
    names = [name for each in found for name in _names(_subject(claims, events[each]), (tokens_of or issuer, issuer))]
    happened = _happened(claims, [events[each] for each in found], issued)
    return SecurityEvent(
        jti=jti,
        revoked=tuple(Revoked(name, min(happened, now + LEEWAY_SECONDS)) for name in dict.fromkeys(names)),
        begins=VERIFICATION in events,
        issued=issued,
        names_nobody=bool(found) and not names,
    )


def check_addresses(claims: dict[str, Any], issuer: str, audiences: Collection[str]) -> None:
    """Refuse an event of another issuer, or for somebody else. What is checked need not be verified yet.

    Raises:
        SecurityEventError: it is one.
    """
    if claims.get("iss") != issuer:
        raise SecurityEventError("invalid_issuer", "the event is of another issuer")
    ours = {canonical(each) for each in audiences}
    if not any(canonical(each) in ours for each in audiences_of(claims)):
        raise SecurityEventError("invalid_audience", "the event is for another audience")


def _happened(claims: dict[str, Any], events: list[dict[str, Any]], issued: float) -> float:
    # CAEP section 2 has the time in the event.
    said = (claims.get("toe"), *(each.get("event_timestamp") for each in events))
    return next((time for each in said if (time := numeric_date(each)) is not None), issued)


def _subject(claims: dict[str, Any], event: dict[str, Any]) -> dict[str, Any]:
    # OpenID's drafts had the subject in the event.
    subject = claims.get("sub_id", event.get("subject"))
    if not isinstance(subject, dict) or not isinstance(subject.get("format"), str):
        raise SecurityEventError("invalid_request", "the event has no subject")
    return subject


def _names(subject: dict[str, Any], issuers: tuple[str, str]) -> list[Name]:
    """What tokens have of a subject (RFC 9493 section 3.2; `jwt_id` and `complex` of Shared Signals section 3).

    Args:
        subject: as the event has it.
        issuers: whose tokens die, and whose word the event is; a subject of a third is nobody here.
    """
    form, issuer = subject.get("format"), issuers[0]
    if form == "jwt_id" and subject.get("iss") in issuers and _is_text(subject.get("jti")):
        return [Name(issuer, "jti", subject["jti"])]
    if form == "iss_sub" and subject.get("iss") in issuers and _is_text(subject.get("sub")):
        return [Name(issuer, "subject", subject["sub"])]
    if form == "opaque" and _is_text(subject.get("id")):
        # It is not said of what; a session and a person of one issuer do not have the same id.
        return [Name(issuer, "session", subject["id"]), Name(issuer, "subject", subject["id"])]
    if form == "aliases":
        listed = subject.get("identifiers")
        simple = [each for each in listed if isinstance(each, dict)] if isinstance(listed, list) else []
        return [name for each in simple if each.get("format") != "aliases" for name in _names(each, issuers)]
    return _of_complex(subject, issuers) if form == "complex" else []


def _of_complex(subject: dict[str, Any], issuers: tuple[str, str]) -> list[Name]:
    session, user = subject.get("session"), subject.get("user")
    names: list[Name] = []
    if isinstance(session, dict) and session.get("format") == "opaque" and _is_text(session.get("id")):
        names.append(Name(issuers[0], "session", session["id"]))
    if isinstance(user, dict) and user.get("format") == "iss_sub":
        # The session's tokens may not tell that they are, so all of the user's go.
        names += _names(user, issuers)
    return names


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_JTI_CHARACTERS
