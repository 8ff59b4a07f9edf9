"""Nobody but an issuer ends its tokens by a pushed event, and nothing that is sent there costs much (RFC 8935)."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import pytest
from joserfc import jws
from joserfc.jwk import ECKey, OctKey

from keystile_common.security_events import SESSION_REVOKED, TOKEN_REVOKED
from tests.integration.mcp.providers import (
    CURVE_KEY,
    GENERIC,
    KEY,
    KEYCLOAK,
    LEFT_OUT,
    RESOURCE,
    ProviderIssuer,
    provider_issuer,
)
from tests.integration.mcp.resource_server import ResourceServer, resource_server
from tests.integration.mcp.transmitter import BEARER, PATH, event, push, pushed, pushing, user

LATER = "2999-01-01"
OTHER_KEY = ECKey.generate_key("P-256", auto_kid=True)


@dataclass(frozen=True)
class Target:
    """A server with a token of `issuer` that must stay good."""

    server: ResourceServer
    issuer: ProviderIssuer
    token: str

    async def refuses(self, text: str | bytes, err: str, **headers: str) -> None:
        before = pushed(self.server, err)
        answer = await push(self.server, text, **headers)
        assert answer.status_code == 400
        assert answer.json()["err"] == err
        assert answer.json()["description"]
        assert answer.headers["content-language"] == "en"
        assert answer.headers["content-type"] == "application/json"
        assert pushed(self.server, err) == before + 1
        assert (await self.server.call(self.token)).status_code == 200

    @property
    def key_fetches(self) -> int:
        return self.issuer.asked.count("/keys")


@pytest.fixture
async def target() -> AsyncIterator[Target]:
    async with provider_issuer("") as issuer, resource_server(issuer, **pushing(issuer, bearer=BEARER)) as server:
        token = issuer.access_token(GENERIC)
        assert (await server.call(token)).status_code == 200
        yield Target(server, issuer, token)


def unsigned(text: str, **header: str) -> str:
    """The same event with `alg` none."""
    protected = json.dumps({"alg": "none", "typ": "secevent+jwt", **header}).encode()
    return f"{base64.urlsafe_b64encode(protected).decode().rstrip('=')}.{text.split('.')[1]}."


async def test_what_is_not_signed_is_refused(target: Target) -> None:
    told = event(target.issuer, user(target.issuer))
    await target.refuses(unsigned(told), "invalid_request")
    await target.refuses(unsigned(told) + "AAAA", "invalid_request")


async def test_a_public_key_is_no_secret(target: Target) -> None:
    secret = OctKey.import_key(json.dumps(CURVE_KEY.as_dict(private=False)))
    told = event(target.issuer, user(target.issuer), header={"alg": "HS256"}, key=secret)
    await target.refuses(told, "invalid_request")


async def test_another_key_is_refused_though_it_has_a_known_id(target: Target) -> None:
    subject = user(target.issuer)
    for header in ({}, {"kid": LEFT_OUT}):
        await target.refuses(event(target.issuer, subject, header=header, key=OTHER_KEY), "invalid_key")
    changed = event(target.issuer, subject)
    await target.refuses(changed[:-8] + "AAAAAAAA", "invalid_key")


async def test_an_event_cannot_bring_its_own_key(target: Target) -> None:
    public = OTHER_KEY.as_dict(private=False)
    headers: list[dict[str, Any]] = [
        {"jwk": public},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example"},
    ]
    for header in headers:
        told = jws.serialize_compact(
            {"alg": "ES256", "typ": "secevent+jwt", **header}, "{}", OTHER_KEY, ["ES256"], registry=_LAX
        )
        await target.refuses(told, "invalid_request")


_LAX = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)


async def test_an_access_token_or_another_jwt_is_no_event(target: Target) -> None:
    await target.refuses(target.token, "invalid_request")
    for kind in ("JWT", "at+jwt", "logout+jwt", "", LEFT_OUT):
        await target.refuses(event(target.issuer, user(target.issuer), header={"typ": kind}), "invalid_request")


async def test_an_event_is_no_access_token(target: Target) -> None:
    now = int(time.time())
    claims: dict[str, Any] = {"client_id": "cli", "exp": now + 600, "sub": "alice", "scope": "mcp:basic"}
    told = event(target.issuer, user(target.issuer), **claims)
    assert (await target.server.call(told)).status_code == 401


@pytest.mark.parametrize("audience", ["https://other.example/mcp", [], LEFT_OUT, 7, [["x"]], f"{RESOURCE}/other"])
async def test_another_audience_is_refused(target: Target, audience: Any) -> None:
    await target.refuses(event(target.issuer, user(target.issuer), aud=audience), "invalid_audience")


@pytest.mark.parametrize("issuer", ["https://evil.example", LEFT_OUT, 7, ["x"], {}, ""])
async def test_another_issuer_is_refused(target: Target, issuer: Any) -> None:
    await target.refuses(event(target.issuer, user(target.issuer), iss=issuer), "invalid_issuer")


async def test_an_event_of_the_future_or_of_long_ago_is_refused(target: Target) -> None:
    now = int(time.time())
    for moment in (now + 3_600, now - 86_400 - 60, 0, -1, LEFT_OUT, "now", True, 1e300):
        await target.refuses(event(target.issuer, user(target.issuer), iat=moment), "invalid_request")


@pytest.mark.parametrize(
    "secret", ["", "Bearer wrong-wrong-wrong-wrong", f"Basic {BEARER}", BEARER, f"Bearer {BEARER}x"]
)
async def test_without_the_agreed_secret_nothing_is_accepted_and_no_key_is_fetched(target: Target, secret: str) -> None:
    before = target.key_fetches
    told = event(target.issuer, user(target.issuer), header={"kid": "new"})
    await target.refuses(told, "authentication_failed", Authorization=secret)
    assert target.key_fetches == before


async def test_two_authorization_headers_prove_nothing(target: Target) -> None:
    headers = [("Content-Type", "application/secevent+jwt"), *[("Authorization", f"Bearer {BEARER}")] * 2]
    told = event(target.issuer, user(target.issuer))
    answer = await target.server.http.post(f"{target.server.origin}{PATH}", headers=headers, content=told)
    assert answer.json()["err"] == "authentication_failed"


async def test_no_answer_repeats_the_secret_or_the_event(target: Target) -> None:
    told = event(target.issuer, user(target.issuer), aud="https://other.example")
    answer = await push(target.server, told)
    assert BEARER not in answer.text
    assert "other.example" not in answer.text


@pytest.mark.parametrize("media_type", ["", "application/jwt", "application/json", "text/plain", "secevent+jwt"])
async def test_another_content_type_is_refused(target: Target, media_type: str) -> None:
    told = event(target.issuer, user(target.issuer))
    await target.refuses(told, "invalid_request", Content_Type=media_type)


async def test_other_methods_are_refused(target: Target) -> None:
    for method in ("GET", "PUT", "DELETE", "OPTIONS"):
        answer = await target.server.http.request(method, f"{target.server.origin}{PATH}")
        assert answer.status_code == 405


async def test_what_is_too_large_is_refused_unread(target: Target) -> None:
    for size in (8 * 1024 + 1, 10 * 1024 * 1024):
        assert (await push(target.server, b"e" * size)).status_code == 413

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield b"e" * 65_536

    headers = {"Content-Type": "application/secevent+jwt"}
    answer = await target.server.http.post(f"{target.server.origin}{PATH}", headers=headers, content=parts())
    assert answer.status_code == 413
    assert (await target.server.call(target.token)).status_code == 200


async def test_what_is_cut_off_or_no_token_is_refused(target: Target) -> None:
    told = event(target.issuer, user(target.issuer))
    for text in ("", "e30", told[: len(told) // 2], told.rpartition(".")[0], told + ".x", f" {told}", "{}", "a.b.c"):
        await target.refuses(text, "invalid_request")
    for raw in (b"\xff\xfe", told.encode() + b"\x00", "é".encode()):
        await target.refuses(raw, "invalid_request")


async def test_junk_within_a_signed_event_is_refused(target: Target) -> None:
    nested: Any = {}
    for _ in range(200):
        nested = {"a": nested}
    subject = user(target.issuer)
    all_events: list[Any] = [{}, [], "x", None, {SESSION_REVOKED: []}, {SESSION_REVOKED: None}, {"a": 1}]
    for events in all_events:
        await target.refuses(event(target.issuer, subject, events=events), "invalid_request")
    subjects: list[Any] = [nested, [], "alice", None, {"format": nested}, {"format": 1}]
    for strange in subjects:
        await target.refuses(event(target.issuer, strange), "invalid_request")
    for jti in (None, 1, "", "x" * 257, "a\nb", "\ud800", LEFT_OUT):
        await target.refuses(event(target.issuer, subject, jti=jti), "invalid_request")
    for odd in (
        {"format": "complex", "user": nested, "session": nested},
        {"format": "aliases", "identifiers": [nested, [], "x"]},
        {"format": "iss_sub", "iss": target.issuer.issuer, "sub": nested},
    ):
        assert (await push(target.server, event(target.issuer, odd))).status_code == 202
    assert pushed(target.server, "unknown_subject") == 3
    assert (await target.server.call(target.token)).status_code == 200


async def test_an_event_that_comes_again_does_nothing(target: Target) -> None:
    told = event(target.issuer, {"format": "iss_sub", "iss": target.issuer.issuer, "sub": "bob"})
    for _ in range(3):
        assert (await push(target.server, told)).status_code == 202
    assert (pushed(target.server, "applied"), pushed(target.server, "replayed")) == (1, 2)
    assert target.server.metric("keystile_revocation_events_total", result="applied") == 1


async def test_a_flood_of_unknown_key_ids_fetches_the_keys_no_more_than_once(target: Target) -> None:
    before = target.key_fetches
    flood = [
        event(target.issuer, user(target.issuer), header={"kid": f"made-up-{number}"}, key=OTHER_KEY)
        for number in range(200)
    ]
    answers = await asyncio.gather(*(push(target.server, each) for each in flood))
    assert {each.status_code for each in answers} <= {400, 503}
    assert {each.json()["err"] for each in answers if each.status_code == 400} <= {"invalid_key"}
    assert target.key_fetches - before <= 1
    assert (await target.server.call(target.token)).status_code == 200
    assert (await push(target.server, event(target.issuer, user(target.issuer)))).status_code == 202
    assert (await target.server.call(target.token)).status_code == 401


# One issuer and another's tokens


async def test_no_issuer_ends_the_tokens_of_another() -> None:
    async with AsyncExitStack() as stack:
        keycloak = await stack.enter_async_context(provider_issuer(KEYCLOAK.path))
        older = await stack.enter_async_context(provider_issuer(""))
        trusted = [
            {
                "issuer": older.issuer,
                "until": LATER,
                "provider": "generic",
                "revocations": {"push": {"accept": True}},
            }
        ]
        settings = keycloak.settings(KEYCLOAK, trusted_issuers=trusted)
        server = await stack.enter_async_context(resource_server(keycloak, **settings))
        # The same keys sign here and there, and the same people are at both.
        of_keycloak = keycloak.access_token(KEYCLOAK, sub="alice", jti="j", sid="s")
        own = older.access_token(GENERIC, sub="alice", jti="j", sid="s")
        assert [(await server.call(each)).status_code for each in (of_keycloak, own)] == [200, 200]
        assert (await push(server, event(keycloak, user(keycloak)))).json()["err"] == "invalid_issuer"
        for subject in (user(keycloak), {"format": "jwt_id", "iss": keycloak.issuer, "jti": "j"}):
            assert (await push(server, event(older, subject, TOKEN_REVOKED))).status_code == 202
        assert pushed(server, "unknown_subject") == 2
        assert [(await server.call(each)).status_code for each in (of_keycloak, own)] == [200, 200]
        for subject in (user(older), {"format": "opaque", "id": "s"}, {"format": "opaque", "id": "alice"}):
            assert (await push(server, event(older, subject))).status_code == 202
        assert [(await server.call(each)).status_code for each in (of_keycloak, own)] == [200, 401]


async def test_an_event_must_be_signed_as_its_issuer_signs_tokens() -> None:
    async with provider_issuer("") as issuer:
        settings = pushing(issuer) | {"jwks": {"algorithms": ["ES256"]}}
        async with resource_server(issuer, **settings) as server:
            told = event(issuer, user(issuer), header={"alg": "RS256", "kid": KEY.kid}, key=KEY)
            assert (await push(server, told)).json()["err"] == "invalid_request"
