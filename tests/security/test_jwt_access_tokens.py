"""Forged and misused JWTs at the MCP endpoint (RFC 9068 section 4, RFC 8725): each 401, and the reason."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import zlib
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey

from tests.integration.mcp.resource_server import ResourceServer, opaque_token
from tests.integration.mcp.signing_issuer import SigningIssuer, jwks_resource_server, new_key, signing_issuer

Forge = Callable[[SigningIssuer], str]


@pytest.fixture
async def issuer() -> AsyncIterator[SigningIssuer]:
    async with signing_issuer() as issuer:
        yield issuer


@pytest.fixture
async def server(issuer: SigningIssuer) -> AsyncIterator[ResourceServer]:
    async with jwks_resource_server(issuer) as server:
        yield server


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(issuer: SigningIssuer, alg: Any, signature: bytes) -> str:
    header = {"alg": alg, "typ": "at+jwt", "kid": issuer.key.kid}
    return f"{segment(header)}.{segment(issuer.claims())}.{segment(signature)}"


def hs256(issuer: SigningIssuer, secret: bytes) -> str:
    header = {"alg": "HS256", "typ": "at+jwt", "kid": issuer.key.kid}
    text = f"{segment(header)}.{segment(issuer.claims())}"
    return f"{text}.{segment(hmac.digest(secret, text.encode(), hashlib.sha256))}"


def with_header(issuer: SigningIssuer, key: ECKey, **extra: Any) -> str:
    """Truly signed by `key`, with a header that no library would write."""
    header = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid, **extra}
    text = f"{segment(header)}.{segment(issuer.claims())}"
    private = key.private_key
    assert private is not None
    numbers = decode_dss_signature(private.sign(text.encode(), ec.ECDSA(SHA256())))
    return f"{text}.{segment(b''.join(number.to_bytes(32, 'big') for number in numbers))}"


def embedded_key(issuer: SigningIssuer) -> str:
    attacker = new_key()
    return with_header(issuer, attacker, jwk=attacker.as_dict(private=False))


def stolen_kid(issuer: SigningIssuer) -> str:
    return with_header(issuer, new_key(), kid=issuer.key.kid)


def other_body(issuer: SigningIssuer) -> str:
    head, _, signature = issuer.sign().split(".")
    return f"{head}.{segment(issuer.claims(sub='root'))}.{signature}"


UNSUPPORTED = "must be signed with one of ES256"
ATTACKS: dict[str, tuple[Forge, str, str]] = {
    # CVE-2026-28802: alg none.
    "alg none": (lambda i: unsigned(i, "none", b"x"), "unsupported", UNSUPPORTED),
    "alg nOnE": (lambda i: unsigned(i, "nOnE", b"x"), "unsupported", UNSUPPORTED),
    "alg none without a signature": (lambda i: unsigned(i, "none", b""), "malformed", "is not a signed JWT"),
    "no alg": (lambda i: unsigned(i, None, b"x"), "unsupported", UNSUPPORTED),
    "an alg that the issuer does not use": (lambda i: unsigned(i, "RS256", b"x" * 256), "unsupported", UNSUPPORTED),
    # CVE-2024-37568, CVE-2026-11800: the public key as an HMAC secret.
    "HS256 with the public key": (
        lambda i: hs256(i, i.key.as_pem(private=False)),
        "unsupported",
        UNSUPPORTED,
    ),
    "HS256 with the public JWK": (
        lambda i: hs256(i, json.dumps(i.key.as_dict(private=False)).encode()),
        "unsupported",
        UNSUPPORTED,
    ),
    # CVE-2026-27962: a key that the token brings itself.
    "embedded jwk": (embedded_key, "unsupported", "must not have the header parameter jwk"),
    "jku": (lambda i: with_header(i, i.key, jku="https://evil.example/keys"), "unsupported", "parameter jku"),
    "x5u": (lambda i: with_header(i, i.key, x5u="https://evil.example/cert"), "unsupported", "parameter x5u"),
    "x5c": (lambda i: with_header(i, i.key, x5c=["MIIB"]), "unsupported", "parameter x5c"),
    # CVE-2025-59420: a critical header that nobody here understands.
    "unknown crit": (lambda i: with_header(i, i.key, crit=["exp2"], exp2=1), "unsupported", "parameter crit"),
    "b64": (lambda i: with_header(i, i.key, crit=["b64"], b64=False), "unsupported", "parameter b64"),
    # CVE-2025-62706, CVE-2025-61920, CVE-2026-27932: huge segments, zip bombs, PBES2 counts.
    "zip": (lambda i: with_header(i, i.key, zip="DEF"), "unsupported", "parameter zip"),
    "an encrypted token": (
        lambda _: ".".join(
            [
                segment({"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31 - 1, "p2s": "AAAA"}),
                "",
                segment(b"x" * 12),
                segment(zlib.compress(b"0" * 1_000_000)),
                segment(b"x" * 16),
            ]
        ),
        "malformed",
        "is not a signed JWT",
    ),
    "a huge header": (lambda _: f"{segment(b' ' * 7900)}.e30.AA", "malformed", "is longer than 8192 bytes"),
    "a huge payload": (lambda i: i.sign(scope="x " * 3000), "malformed", "is longer than 8192 bytes"),
    "deep JSON": (
        lambda _: f"{segment({'alg': 'ES256'})}.{segment(b'[' * 5000)}.AA",
        "malformed",
        "is not a signed JWT",
    ),
    # An ID token of the same issuer is no access token (PROTOCOL 2.24).
    "an ID token": (lambda i: i.sign(header={"typ": "JWT"}, nonce="n"), "wrong_type", "an ID token is none"),
    "no typ": (lambda i: i.sign(header={"typ": None}), "wrong_type", "must have the typ at+jwt"),
    "a logout token": (lambda i: i.sign(header={"typ": "logout+jwt"}), "wrong_type", "must have the typ at+jwt"),
    # CVE-2025-69196: for another resource.
    "another audience": (
        lambda i: i.sign(aud="https://other.example/mcp"),
        "wrong_audience",
        "is for another resource",
    ),
    "the issuer as audience": (lambda i: i.sign(aud=i.issuer), "wrong_audience", "is for another resource"),
    "an audience that only begins alike": (
        lambda i: i.sign(aud=i.resource + "x"),
        "wrong_audience",
        "another resource",
    ),
    "no audience": (lambda i: i.sign(aud=None), "malformed", "has no aud"),
    "an audience that is no text": (lambda i: i.sign(aud={}), "wrong_audience", "is for another resource"),
    "expired": (lambda i: i.sign(exp=int(time.time()) - 1), "expired", "has expired"),
    "no exp": (lambda i: i.sign(exp=None), "malformed", "has no exp"),
    "an exp that is no number": (lambda i: i.sign(exp="tomorrow"), "malformed", "a claim of the wrong type"),
    "an exp beyond all time": (lambda i: i.sign(exp=10**15), "malformed", "a claim of the wrong type"),
    "not valid yet": (lambda i: i.sign(nbf=int(time.time()) + 3600), "not_yet_valid", "is not valid yet"),
    "an nbf that is no number": (lambda i: i.sign(nbf=True), "malformed", "a claim of the wrong type"),
    "another issuer": (lambda i: i.sign(iss="https://other.example"), "wrong_issuer", "is of another issuer"),
    "no issuer": (lambda i: i.sign(iss=None), "wrong_issuer", "is of another issuer"),
    "an issuer that only looks alike": (lambda i: i.sign(iss=i.issuer + "/"), "wrong_issuer", "is of another issuer"),
    "no subject": (lambda i: i.sign(sub=None), "malformed", "has no sub"),
    "no client": (lambda i: i.sign(client_id=None), "malformed", "has no client_id"),
    "no jti": (lambda i: i.sign(jti=None), "malformed", "has no jti"),
    "a subject of several lines": (lambda i: i.sign(sub="a\nb"), "malformed", "a claim of the wrong type"),
    "a subject that cannot be written": (lambda i: i.sign(sub="\ud800"), "malformed", "a claim of the wrong type"),
    "scopes in a list": (lambda i: i.sign(scope=["mcp:basic"]), "malformed", "a claim of the wrong type"),
    "signature stripped": (lambda i: i.sign().rpartition(".")[0] + ".", "malformed", "is not a signed JWT"),
    "signature and dot stripped": (lambda i: i.sign().rpartition(".")[0], "malformed", "is not a signed JWT"),
    "signature of zeroes": (
        lambda i: i.sign().rpartition(".")[0] + "." + segment(b"\0" * 64),
        "bad_signature",
        "not hold",
    ),
    "claims changed": (other_body, "bad_signature", "has a signature that does not hold"),
    "the issuer's kid with another key": (stolen_kid, "bad_signature", "has a signature that does not hold"),
    "a key that the issuer does not have": (
        lambda i: i.sign(new_key()),
        "unknown_key",
        "is not signed with a known key",
    ),
    "a kid that is a path": (lambda i: i.sign(header={"kid": "../../etc/passwd"}), "unknown_key", "known key"),
    "an opaque token": (lambda _: opaque_token(), "malformed", "is not a signed JWT"),
    "half an opaque token": (lambda _: opaque_token()[:-1], "malformed", "is not complete or not an access token"),
    "junk": (lambda _: "a.b.c", "malformed", "is not a signed JWT"),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_a_forged_or_misused_jwt_is_refused_with_the_reason(
    server: ResourceServer, issuer: SigningIssuer, attack: str
) -> None:
    forge, result, sentence = ATTACKS[attack]
    good = issuer.sign()
    assert (await server.call(good)).status_code == 200
    forged = forge(issuer)
    started = time.monotonic()
    for _ in range(2):
        answer = await server.call(forged)
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]
        assert sentence in answer.json()["error_description"]
    assert time.monotonic() - started < 5
    assert server.metric("keystile_token_validations_total", method="jwks", result=result) == 2
    assert [event["reason"] for event in server.audit if event["type"] == "access.denied"] == [result] * 2
    assert (await server.call(good)).status_code == 200
    assert issuer.key_fetches == 1


async def test_a_header_that_names_a_url_makes_nobody_fetch_it(server: ResourceServer, issuer: SigningIssuer) -> None:
    for name in ("jku", "x5u"):
        await server.call(with_header(issuer, new_key(), **{name: f"{issuer.issuer}/.well-known/canary"}))
    assert issuer.fetches == []


async def test_a_token_that_expires_while_its_signature_is_remembered_is_refused(
    server: ResourceServer, issuer: SigningIssuer
) -> None:
    token = issuer.sign(exp=int(time.time()) + 1)
    assert (await server.call(token)).status_code in {200, 401}
    await asyncio.sleep(1.1)
    assert (await server.call(token)).status_code == 401


async def test_a_token_for_one_resource_is_refused_by_another_of_the_same_issuer(issuer: SigningIssuer) -> None:
    """CVE-2025-69196."""
    async with jwks_resource_server(issuer) as first:
        token = issuer.sign()
        assert (await first.call(token)).status_code == 200
        async with jwks_resource_server(issuer) as second:
            assert (await second.call(token)).status_code == 401
