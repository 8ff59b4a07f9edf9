"""Security event tokens, read strictly (RFC 8417): what an issuer says has been revoked."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Any

from keystile_common.jws import LEEWAY_SECONDS, JwsError, Key, UnverifiedJwt, audiences_of, numeric_date, parse, verify
from keystile_common.security_events import SESSION_REVOKED, TOKEN_REVOKED, TYPE, VERIFICATION
from keystile_mcp.introspection_answer import canonical
from keystile_mcp.revoked import Name, Revoked

MAX_JTI_CHARACTERS = 256


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
        revoked: what has died by it; None for other news.
        begins: whether a stream begins with it, so that something before may have been missed.
        issued: Unix time when it was made.
    """

    jti: str
    revoked: Revoked | None
    begins: bool
    issued: float


def unverified_kid(text: str, algorithms: Collection[str]) -> str | None:
    """The id of the key that `text` says it is signed with.

    Raises:
        SecurityEventError: it is no security event token.
    """
    return _parse(text, algorithms).kid


def read(
    text: str,
    keys: Iterable[Key],
    *,
    algorithms: Collection[str],
    issuer: str,
    audiences: Collection[str],
    now: float,
) -> SecurityEvent:
    """Read a security event token (RFC 8417 section 2.2).

    Args:
        text: as it was received.
        keys: the issuer's.
        algorithms: what it may be signed with.
        issuer: whose it must be.
        audiences: one of which it must be for.
        now: Unix time in seconds.

    Raises:
        SecurityEventError: any of that does not hold, or its form is another.
    """
    token = _parse(text, algorithms)
    try:
        claims = verify(token, keys)
    except JwsError as problem:
        raise SecurityEventError("invalid_key", f"the event {problem}") from None
    if claims.get("iss") != issuer:
        raise SecurityEventError("invalid_issuer", "the event is of another issuer")
    ours = {canonical(each) for each in audiences}
    if not any(canonical(each) in ours for each in audiences_of(claims)):
        raise SecurityEventError("invalid_audience", "the event is for another audience")
    issued, jti, events = numeric_date(claims.get("iat")), claims.get("jti"), claims.get("events")
    if issued is None or issued > now + LEEWAY_SECONDS:
        raise SecurityEventError("invalid_request", "the event has no iat that can be")
    if not isinstance(jti, str) or not jti or len(jti) > MAX_JTI_CHARACTERS:
        raise SecurityEventError("invalid_request", "the event has no jti that can be")
    if not isinstance(events, dict) or not events or not all(isinstance(each, dict) for each in events.values()):
        raise SecurityEventError("invalid_request", "the event says nothing")
    happened, name = numeric_date(claims.get("toe")), _revoked(claims, events, issuer)
    return SecurityEvent(
        jti=jti,
        revoked=None if name is None else Revoked(name, issued if happened is None else happened),
        begins=VERIFICATION in events,
        issued=issued,
    )


def _parse(text: str, algorithms: Collection[str]) -> UnverifiedJwt:
    try:
        token = parse(text, algorithms)
    except JwsError as problem:
        raise SecurityEventError("invalid_request", f"the event {problem}") from None
    if token.type != TYPE:
        # Any other JWT of the issuer, such as an access token, is signed with the same keys.
        raise SecurityEventError("invalid_request", f"the event is not of the type {TYPE}")
    return token


def _revoked(claims: dict[str, Any], events: dict[str, Any], issuer: str) -> Name | None:
    for event in (TOKEN_REVOKED, SESSION_REVOKED):
        if event in events:
            # OpenID's drafts had the subject in the event.
            subject = claims.get("sub_id", events[event].get("subject"))
            found = _subject(subject, issuer) if isinstance(subject, dict) else None
            if found is None:
                raise SecurityEventError("invalid_request", "the event has no subject that is known here")
            return found
    return None


def _subject(subject: dict[str, Any], issuer: str) -> Name | None:
    """RFC 9493 section 3.2; `jwt_id` and `complex` of OpenID Shared Signals section 3."""
    form = subject.get("format")
    if form == "jwt_id" and subject.get("iss") == issuer and _is_text(subject.get("jti")):
        return Name(issuer, "jti", subject["jti"])
    if form == "iss_sub" and subject.get("iss") == issuer and _is_text(subject.get("sub")):
        return Name(issuer, "subject", subject["sub"])
    if form == "complex":
        session, user = subject.get("session"), subject.get("user")
        if isinstance(session, dict) and session.get("format") == "opaque" and _is_text(session.get("id")):
            return Name(issuer, "session", session["id"])
        # Not the session: a user's tokens do not tell which of them belong to it, so all of them go.
        return _subject(user, issuer) if isinstance(user, dict) and user.get("format") == "iss_sub" else None
    return None


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_JTI_CHARACTERS
