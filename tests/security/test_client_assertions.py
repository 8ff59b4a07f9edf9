"""Forged client assertions (RFC 7523, RFC 8725). Past authentication the answer is 400, never before."""

import base64
import hashlib
import hmac
import json
import time
import zlib
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from joserfc.jwk import ECKey, RSAKey

from keystile_auth.clients.authentication import JWT_BEARER
from tests.auth_server import AuthServer, RegisteredClient
from tests.client_key import ClientKey, assertion_claims, authenticate, key_set
from tests.conftest import StartAuthServer

KEYS = ClientKey.generate()


@pytest.fixture(scope="module")
def client(auth_server: AuthServer) -> RegisteredClient:
    return auth_server.register(token_endpoint_auth_method="private_key_jwt", jwks=key_set(KEYS))


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def forged(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    return f"{segment(header)}.{segment(claims)}.{segment(signature)}"


def hs256(header: dict[str, Any], claims: dict[str, Any], secret: bytes) -> str:
    signed = f"{segment({**header, 'alg': 'HS256'})}.{segment(claims)}"
    return f"{signed}.{segment(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def accepted(server: AuthServer, client: RegisteredClient, assertion: str) -> bool:
    answer = authenticate(server, client.id, assertion)
    assert (answer.status_code, answer.json()["error"]) in {(400, "invalid_grant"), (401, "invalid_client")}
    return bool(answer.status_code == 400)


def test_a_good_assertion_authenticates(auth_server: AuthServer, client: RegisteredClient) -> None:
    assert accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer))


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, 0, ["ES256"], "ES256K", "HS512", "RS1"])
def test_cve_2026_28802_an_unsigned_assertion_is_refused(
    auth_server: AuthServer, client: RegisteredClient, alg: Any
) -> None:
    claims = assertion_claims(client.id, auth_server.issuer)
    for kid in ({}, {"kid": KEYS.key.kid}):
        assert not accepted(auth_server, client, forged({"alg": alg, **kid}, claims))
        assert not accepted(auth_server, client, forged({"alg": alg, **kid}, claims, b"x" * 64))


def test_cve_2024_37568_and_2026_11800_a_public_key_is_no_hmac_secret(
    auth_server: AuthServer, client: RegisteredClient
) -> None:
    claims = assertion_claims(client.id, auth_server.issuer)
    secrets = [
        KEYS.key.as_pem(private=False),
        KEYS.key.as_pem(private=False).strip(),
        KEYS.key.as_der(private=False),
        json.dumps(KEYS.public).encode(),
        str(KEYS.public["x"]).encode(),
        b"",
    ]
    for secret in secrets:
        for kid in ({}, {"kid": KEYS.key.kid}):
            assert not accepted(auth_server, client, hs256(kid, claims, secret))


def test_a_symmetric_key_in_a_key_set_is_never_used(auth_server: AuthServer) -> None:
    document = {
        "redirect_uris": ["https://a.example/"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": [{"kty": "oct", "k": segment(b"s" * 32), "kid": "1"}]},
    }
    answer = auth_server.http.post(f"{auth_server.issuer}/register", json=document)
    if answer.status_code == 201:
        client = RegisteredClient(answer.json()["client_id"], None, "", "")
        claims = assertion_claims(client.id, auth_server.issuer)
        assert not accepted(auth_server, client, hs256({"kid": "1"}, claims, b"s" * 32))
    else:
        assert answer.json()["error"] == "invalid_client_metadata"


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": "own"},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"p2c": 10_000_000, "p2s": "AAAA"},
        {"anything": "else"},
    ],
)
@pytest.mark.parametrize("kid", [None, "attacker", "../../etc/passwd", "' OR 1=1", "", 1, ["x"]])
def test_cve_2026_27962_and_2025_59420_a_header_cannot_bring_a_key_or_change_the_rules(
    auth_server: AuthServer, client: RegisteredClient, extra: dict[str, Any], kid: Any
) -> None:
    attacker = ClientKey.generate()
    header: dict[str, Any] = {"alg": "ES256", **extra, **({"kid": kid} if kid is not None else {})}
    if extra.get("jwk"):
        header["jwk"] = attacker.public
    claims = assertion_claims(client.id, auth_server.issuer)
    signed = f"{segment(header)}.{segment(claims)}"
    signature = attacker.sign({"alg": "ES256"}, claims).split(".")[2]
    assert not accepted(auth_server, client, f"{signed}.{signature}")


def test_a_header_that_changes_the_rules_is_refused_though_the_right_key_signed_it(
    auth_server: AuthServer, client: RegisteredClient
) -> None:
    for extra in ({"crit": ["exp"], "exp": 1}, {"jwk": KEYS.public}, {"jku": "https://evil.example"}, {"zip": "DEF"}):
        header = {"alg": "ES256", "kid": KEYS.key.kid, **extra}
        signed = f"{segment(header)}.{segment(assertion_claims(client.id, auth_server.issuer))}"
        private = KEYS.key.private_key
        assert isinstance(private, ec.EllipticCurvePrivateKey)
        signature = private.sign(signed.encode(), ec.ECDSA(SHA256()))
        raw = b"".join(number.to_bytes(32, "big") for number in decode_dss_signature(signature))
        assert not accepted(auth_server, client, f"{signed}.{segment(raw)}")


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "somebody-else"},
        {"iss": None},
        {"sub": "somebody-else"},
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": []},
        {"aud": {}},
        {"aud": ["https://other.example"]},
        {"exp": None},
        {"exp": 0},
        {"exp": int(time.time()) - 60},
        {"exp": int(time.time()) + 3600},
        {"exp": 1e300},
        {"exp": 10**400},
        {"exp": "9999999999"},
        {"exp": True},
        {"exp": float("inf")},
        {"exp": float("nan")},
        {"exp": -1},
        {"nbf": int(time.time()) + 3600},
        {"nbf": "now"},
        {"jti": None},
        {"jti": ""},
        {"jti": 1},
        {"jti": "x" * 257},
        {"jti": "\ud800"},
        {"jti": "a\nb"},
    ],
)
def test_an_assertion_that_is_not_for_here_and_now_is_refused(
    auth_server: AuthServer, client: RegisteredClient, claims: dict[str, Any]
) -> None:
    assert not accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer, **claims))


@pytest.mark.parametrize("suffix", ["/introspect", "/", "x", "/token/"])
def test_an_audience_that_only_looks_like_ours_is_refused(
    auth_server: AuthServer, client: RegisteredClient, suffix: str
) -> None:
    assert not accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer + suffix))


def test_an_assertion_is_good_once(auth_server: AuthServer, client: RegisteredClient) -> None:
    assertion = KEYS.assertion(client.id, auth_server.issuer)
    assert accepted(auth_server, client, assertion)
    assert not accepted(auth_server, client, assertion)
    jti = "the-same-jti"
    assert accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer, jti=jti))
    assert not accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer, jti=jti))


def test_clients_do_not_use_up_each_others_jti(auth_server: AuthServer, client: RegisteredClient) -> None:
    other_keys = ClientKey.generate()
    other = auth_server.register(token_endpoint_auth_method="private_key_jwt", jwks=key_set(other_keys))
    for keys, each in ((KEYS, client), (other_keys, other)):
        assert accepted(auth_server, each, keys.assertion(each.id, auth_server.issuer, jti="shared"))


def test_an_assertion_of_one_client_does_not_speak_for_another(
    auth_server: AuthServer, client: RegisteredClient
) -> None:
    other_keys = ClientKey.generate()
    other = auth_server.register(token_endpoint_auth_method="private_key_jwt", jwks=key_set(other_keys))
    theirs = other_keys.assertion(other.id, auth_server.issuer)
    assert not accepted(auth_server, client, theirs)
    assert not accepted(auth_server, client, other_keys.assertion(client.id, auth_server.issuer))


def test_an_encrypted_assertion_is_refused(auth_server: AuthServer, client: RegisteredClient) -> None:
    """Zip bombs and PBES2 counts come in JWEs (CVE-2025-61920, CVE-2026-27932): five segments are never opened."""
    bomb = zlib.compress(b"0" * 10_000_000)
    headers = (
        {"alg": "dir", "enc": "A128GCM", "zip": "DEF"},
        {"alg": "PBES2-HS256+A128KW", "enc": "A128GCM", "p2c": 2**31 - 1, "p2s": "AAAA"},
    )
    for header in headers:
        jwe = ".".join([segment(header), "", segment(b"x" * 12), segment(bomb)[:4000], segment(b"x" * 16)])
        started = time.monotonic()
        assert not accepted(auth_server, client, jwe)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    "assertion",
    [
        "x",
        ".",
        "..",
        "...",
        "a.b",
        "a.b.c",
        "ü.ü.ü",
        "e30.e30.",
        "bnVsbA.bnVsbA.bnVsbA",
        "W10.W10.W10",
        "." * 1000,
        "a" * 60_000,
        "e30." + "a" * 50_000 + ".x",
        base64.urlsafe_b64encode(b"[" * 3000).decode() + "." + base64.urlsafe_b64encode(b"[" * 3000).decode() + ".x",
    ],
)
def test_cve_2025_62706_junk_and_huge_segments_are_refused_in_no_time(
    auth_server: AuthServer, client: RegisteredClient, assertion: str
) -> None:
    started = time.monotonic()
    assert not accepted(auth_server, client, assertion)
    without_id = auth_server.token(
        grant_type="client_credentials", client_assertion_type=JWT_BEARER, client_assertion=assertion
    )
    assert without_id.status_code == 401
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("subject", ["\ud800", "https://\ud800/x", "\0", "a\nb", "x" * 5000, "ü", [], {}, None, 1])
def test_the_unverified_subject_of_an_assertion_breaks_nothing(auth_server: AuthServer, subject: Any) -> None:
    claims = {**assertion_claims("x", auth_server.issuer), "sub": subject}
    answer = auth_server.token(
        grant_type="client_credentials",
        client_assertion_type=JWT_BEARER,
        client_assertion=forged({"alg": "ES256"}, claims),
    )
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")


def test_a_key_of_another_kind_or_curve_verifies_nothing(auth_server: AuthServer) -> None:
    rsa, p384 = RSAKey.generate_key(2048, {"kid": "r"}), ECKey.generate_key("P-384", {"kid": "e"})
    keys = {"keys": [rsa.as_dict(private=False), p384.as_dict(private=False)]}
    client = auth_server.register(token_endpoint_auth_method="private_key_jwt", jwks=keys)
    for kid in ("r", "e"):
        claims = assertion_claims(client.id, auth_server.issuer)
        assert not accepted(auth_server, client, KEYS.sign({"alg": "ES256", "kid": kid}, claims))
        assert not accepted(auth_server, client, hs256({"kid": kid}, claims, rsa.as_pem(private=False)))


@pytest.mark.parametrize(
    "keys",
    [
        [],
        [{}],
        [{"kty": "EC"}],
        [{"kty": "EC", "crv": "P-256", "x": "A", "y": "A"}],
        [{"kty": "EC", "crv": "P-256", "x": "AAAA" * 11, "y": "AAAA" * 11}],
        [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}],
        [{"kty": "RSA", "n": "A" * 40_000, "e": "A" * 400}],
        [{"kty": "OKP", "crv": "Ed25519", "x": "A"}],
        [{"kty": ["EC"]}],
        [{"kty": "nothing"}],
    ],
)
def test_a_key_set_that_is_none_authenticates_nobody_and_breaks_nothing(
    auth_server: AuthServer, keys: list[dict[str, Any]]
) -> None:
    document = {
        "redirect_uris": ["https://a.example/"],
        "token_endpoint_auth_method": "private_key_jwt",
        "jwks": {"keys": keys},
    }
    answer = auth_server.http.post(f"{auth_server.issuer}/register", json=document)
    assert answer.status_code in {201, 400}
    if answer.status_code == 201:
        client = RegisteredClient(answer.json()["client_id"], None, "", "")
        assert not accepted(auth_server, client, KEYS.assertion(client.id, auth_server.issuer))


def test_an_assertion_that_may_be_refused_by_the_servers_own_clock_is(start_auth_server: StartAuthServer) -> None:
    now = time.time()
    server = start_auth_server(clock=lambda: now + 120)
    client = server.register(token_endpoint_auth_method="private_key_jwt", jwks=key_set(KEYS))
    assert not accepted(server, client, KEYS.assertion(client.id, server.issuer, exp=int(now) + 60))
    assert accepted(server, client, KEYS.assertion(client.id, server.issuer, exp=int(now) + 180))
