"""Which security event tokens are believed, and what dies by them (RFC 8417)."""

import json
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from keystile_common.security_events import (
    ACCOUNT_DISABLED,
    ACCOUNT_PURGED,
    SESSION_REVOKED,
    SESSIONS_REVOKED,
    TOKEN_REVOKED,
    VERIFICATION,
)
from keystile_mcp.revoked import DENIED_ENTRIES, DENIED_SECONDS, Denylist, Name, Revoked
from keystile_mcp.security_events import SecurityEvent, SecurityEventError, read, unverified
from tests.unit.mcp.samples import ISSUER, NOW, RESOURCE, active_token

KEY = ECKey.generate_key("P-256", auto_kid=True)
OTHER_KEY = ECKey.generate_key("P-256", auto_kid=True)
JWT_ID = {"format": "jwt_id", "iss": ISSUER, "jti": "token-1"}
SESSION = {"format": "complex", "session": {"format": "opaque", "id": "grant-1"}}
USER = {"format": "iss_sub", "iss": ISSUER, "sub": "alice"}


def signed(header: dict[str, Any] | None = None, key: ECKey = KEY, **claims: Any) -> str:
    values = {
        "iss": ISSUER,
        "aud": RESOURCE,
        "iat": int(NOW),
        "jti": "1-0",
        "toe": NOW - 2,
        "sub_id": JWT_ID,
        "events": {TOKEN_REVOKED: {}},
    } | claims
    present = {name: value for name, value in values.items() if value is not ...}
    protected = {"alg": "ES256", "typ": "secevent+jwt", "kid": key.kid} | (header or {})
    protected = {name: value for name, value in protected.items() if value is not ...}
    return jws.serialize_compact(protected, json.dumps(present), key, algorithms=["ES256"])


def believed(text: str) -> SecurityEvent:
    return read(unverified(text, ("ES256",)), [KEY], issuer=ISSUER, audiences=(RESOURCE,), now=NOW)


def test_a_revoked_token_is_named_by_its_jti() -> None:
    event = believed(signed())
    assert event == SecurityEvent("1-0", (Revoked(Name(ISSUER, "jti", "token-1"), NOW - 2),), begins=False, issued=NOW)


def test_a_revoked_grant_is_named_by_its_session() -> None:
    event = believed(signed(sub_id=SESSION, events={SESSION_REVOKED: {}}, toe=...))
    assert event.revoked == (Revoked(Name(ISSUER, "session", "grant-1"), NOW),)


@pytest.mark.parametrize(
    "claims",
    [
        {"sub_id": USER},
        {"sub_id": {"format": "complex", "user": USER}},
        {"sub_id": ..., "events": {SESSION_REVOKED: {"subject": USER}}},
    ],
)
def test_all_sessions_of_a_user_are_named_by_the_subject(claims: dict[str, Any]) -> None:
    event = believed(signed(**({"events": {SESSION_REVOKED: {}}} | claims)))
    assert [each.name for each in event.revoked] == [Name(ISSUER, "subject", "alice")]


def names(**claims: Any) -> set[Name]:
    """What dies by an event with these claims."""
    event = believed(signed(**claims))
    assert event.names_nobody is not bool(event.revoked)
    return {each.name for each in event.revoked}


@pytest.mark.parametrize("event", [SESSIONS_REVOKED, ACCOUNT_DISABLED, ACCOUNT_PURGED])
def test_all_that_a_person_has_dies_with_the_account_or_all_its_sessions(event: str) -> None:
    assert names(sub_id=USER, events={event: {}}) == {Name(ISSUER, "subject", "alice")}


def test_an_opaque_subject_is_a_session_or_a_person() -> None:
    subject = {"format": "opaque", "id": "x"}
    both = {Name(ISSUER, "session", "x"), Name(ISSUER, "subject", "x")}
    assert names(sub_id=subject, events={SESSION_REVOKED: {}}) == both


def test_a_session_of_a_known_person_is_all_that_the_person_has() -> None:
    subject = {"format": "complex", "session": {"format": "opaque", "id": "x"}, "user": USER}
    both = {Name(ISSUER, "session", "x"), Name(ISSUER, "subject", "alice")}
    assert names(sub_id=subject, events={SESSION_REVOKED: {}}) == both


def test_of_several_names_of_one_subject_each_counts_that_is_known() -> None:
    listed = [{"format": "email", "email": "a@example.com"}, USER, JWT_ID, "x", {"format": "aliases"}]
    subject = {"format": "aliases", "identifiers": listed}
    both = {Name(ISSUER, "subject", "alice"), Name(ISSUER, "jti", "token-1")}
    assert names(sub_id=subject, events={SESSION_REVOKED: {}}) == both


@pytest.mark.parametrize(
    "subject",
    [
        {"format": "email", "email": "a@example.com"},
        JWT_ID | {"iss": "https://evil.example"},
        JWT_ID | {"iss": [ISSUER]},
        JWT_ID | {"jti": 1},
        USER | {"sub": ""},
        USER | {"sub": "x" * 257},
        {"format": "opaque", "id": {}},
        {"format": "aliases"},
        {"format": "aliases", "identifiers": [{"format": "aliases", "identifiers": [USER]}]},
        {"format": "complex"},
        {"format": "complex", "session": "grant-1"},
        {"format": "complex", "user": {"format": "complex", "user": USER}},
        {"format": "complex", "user": USER | {"iss": "https://evil.example"}},
    ],
)
def test_a_subject_that_tokens_do_not_tell_is_nobody(subject: dict[str, Any]) -> None:
    assert names(sub_id=subject) == set()


def test_an_issuer_that_signs_events_under_another_name_revokes_its_own_tokens() -> None:
    claims: dict[str, Any] = {"iss": "https://events.example", "sub_id": USER | {"iss": "https://events.example"}}
    token = unverified(signed(**claims), ("ES256",))
    event = read(token, [KEY], issuer="https://events.example", audiences=(RESOURCE,), now=NOW, tokens_of=ISSUER)
    assert event.revoked == (Revoked(Name(ISSUER, "subject", "alice"), NOW - 2),)


@pytest.mark.parametrize(
    ("said", "at"),
    [
        ({"toe": ...}, NOW),
        ({"toe": ..., "events": {TOKEN_REVOKED: {"event_timestamp": NOW - 9}}}, NOW - 9),
        ({"toe": ..., "events": {TOKEN_REVOKED: {"event_timestamp": NOW * 1000}}}, NOW),
        ({"toe": "now"}, NOW),
        ({"toe": NOW + 9_999}, NOW + 30),
    ],
)
def test_when_it_happened_is_as_the_event_says_but_never_in_the_future(said: dict[str, Any], at: float) -> None:
    assert believed(signed(**said)).revoked[0].at == at


def test_verification_begins_a_stream() -> None:
    event = believed(signed(events={VERIFICATION: {}}, sub_id={"format": "opaque", "id": "mcp"}))
    assert (event.begins, event.revoked) == (True, ())


def test_news_of_something_else_is_no_revocation() -> None:
    event = believed(signed(events={"https://example.com/other": {}}))
    assert (event.begins, event.revoked) == (False, ())


def test_the_audience_may_be_one_of_several_and_in_another_spelling() -> None:
    assert believed(signed(aud=["https://other.example", f"{RESOURCE}/"])).revoked


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_request"),
        ("a.b.c", "invalid_request"),
        ("x" * 10_000, "invalid_request"),
        (signed({"typ": "at+jwt"}), "invalid_request"),
        (signed({"typ": "JWT"}), "invalid_request"),
        (signed({"typ": ...}), "invalid_request"),
        (signed({"jku": "https://evil.example/jwks"}), "invalid_request"),
        (signed(key=OTHER_KEY), "invalid_key"),
        (signed({"kid": KEY.kid}, key=OTHER_KEY), "invalid_key"),
        (signed(iss="https://evil.example"), "invalid_issuer"),
        (signed(iss=...), "invalid_issuer"),
        (signed(iss=[ISSUER]), "invalid_issuer"),
        (signed(aud="https://other.example"), "invalid_audience"),
        (signed(aud=...), "invalid_audience"),
        (signed(aud=[]), "invalid_audience"),
        (signed(aud=[1]), "invalid_audience"),
        (signed(iat=...), "invalid_request"),
        (signed(iat="1"), "invalid_request"),
        (signed(iat=True), "invalid_request"),
        (signed(iat=NOW + 60), "invalid_request"),
        (signed(jti=...), "invalid_request"),
        (signed(jti=""), "invalid_request"),
        (signed(jti=1), "invalid_request"),
        (signed(jti="x" * 257), "invalid_request"),
        (signed(events=...), "invalid_request"),
        (signed(events={}), "invalid_request"),
        (signed(events=[TOKEN_REVOKED]), "invalid_request"),
        (signed(events={TOKEN_REVOKED: "now"}), "invalid_request"),
        (signed(sub_id=...), "invalid_request"),
        (signed(sub_id="alice"), "invalid_request"),
        (signed(sub_id={}), "invalid_request"),
        (signed(sub_id={"format": ["jwt_id"]}), "invalid_request"),
        (signed(jti="1\n2"), "invalid_request"),
    ],
)
def test_anything_else_is_refused(text: str, code: str) -> None:
    with pytest.raises(SecurityEventError) as refusal:
        believed(text)
    assert refusal.value.code == code


def test_a_symmetric_or_missing_signature_is_refused() -> None:
    claims = json.dumps({"iss": ISSUER})
    hmac = jws.serialize_compact(
        {"alg": "HS256", "typ": "secevent+jwt"}, claims, OctKey.import_key("k" * 32), ["HS256"]
    )
    none = "eyJhbGciOiJub25lIiwidHlwIjoic2VjZXZlbnQrand0In0.e30."
    for text in (hmac, none):
        with pytest.raises(SecurityEventError):
            unverified(text, ("ES256",))


def test_a_changed_event_is_refused() -> None:
    head, body, signature = signed().split(".")
    other = signed(jti="2-0").split(".")[1]
    with pytest.raises(SecurityEventError):
        believed(f"{head}.{other}.{signature}")
    with pytest.raises(SecurityEventError):
        believed(f"{head}.{body}.{signature[:-4]}AAAA")


# What is remembered of them


def test_a_denied_jti_session_or_subject_denies_its_tokens_only() -> None:
    denied = Denylist()
    token = active_token(jti="j", session="s", subject="alice", issued_at=NOW)
    assert not denied.has(token)
    for name in (Name(ISSUER, "jti", "j"), Name(ISSUER, "session", "s"), Name(ISSUER, "subject", "alice")):
        denied = Denylist()
        denied.add([Revoked(name, NOW)], NOW)
        assert denied.has(token)
        assert not denied.has(active_token(jti="j2", session="s2", subject="bob", issued_at=NOW))
        assert not denied.has(active_token(issuer="https://b.example", jti="j", session="s", subject="alice"))


def test_a_user_s_later_tokens_are_not_denied() -> None:
    denied = Denylist()
    denied.add([Revoked(Name(ISSUER, "subject", "alice"), NOW)], NOW)
    denied.add([Revoked(Name(ISSUER, "subject", "alice"), NOW - 100)], NOW)
    assert denied.has(active_token(issued_at=NOW))
    assert denied.has(active_token(issued_at=None))
    assert not denied.has(active_token(issued_at=NOW + 1))


def test_the_oldest_denials_go_first_and_after_a_day() -> None:
    denied = Denylist()
    denied.add([Revoked(Name(ISSUER, "jti", str(number)), NOW) for number in range(DENIED_ENTRIES + 1)], NOW)
    assert not denied.has(active_token(jti="0"))
    assert denied.has(active_token(jti="1"))
    denied.add([Revoked(Name(ISSUER, "jti", "new"), NOW)], NOW + DENIED_SECONDS)
    assert not denied.has(active_token(jti="1"))
    assert denied.has(active_token(jti="new"))
