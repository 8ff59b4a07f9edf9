"""Taking a signed JWT apart: what is refused before a key is looked at, and which keys may be meant."""

import base64
import json
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws as signer
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from keystile_common.jws import ALGORITHMS, MAX_CHARACTERS, JwsError, Key, numeric_date, parse, public_keys, verify

KEY = ECKey.generate_key("P-256", {"kid": "a"})
RSA = RSAKey.generate_key(2048, {"kid": "r"})
CLAIMS = {"sub": "alice"}


def segment(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(key: Any = KEY, **header: Any) -> str:
    values = {"alg": "ES256", "kid": "a"} | header
    registry = signer.JWSRegistry(algorithms=list(ALGORITHMS), strict_check_header=False)
    return signer.serialize_compact(
        {k: v for k, v in values.items() if v is not None}, b'{"sub":"alice"}', key, None, registry
    )


def refusal(token: str, *keys: Key) -> str:
    with pytest.raises(JwsError) as problem:
        verify(parse(token), keys)
    return problem.value.kind


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("ES256", KEY),
        ("ES384", ECKey.generate_key("P-384")),
        ("RS256", RSA),
        ("PS256", RSA),
        ("Ed25519", OKPKey.generate_key("Ed25519")),
    ],
)
def test_a_token_is_believed_once_its_key_is_found(algorithm: str, key: Key) -> None:
    (public,) = public_keys({"keys": [key.as_dict(private=False)]})
    assert verify(parse(signed(key, alg=algorithm, kid=None)), [public]) == CLAIMS


def test_the_kid_picks_the_key_and_without_one_every_fitting_key_is_tried() -> None:
    other = ECKey.generate_key("P-256", {"kid": "b"})
    assert verify(parse(signed()), [other, KEY]) == CLAIMS
    assert verify(parse(signed(kid=None)), [RSA, other, KEY]) == CLAIMS
    assert refusal(signed(), other) == "unknown_key"
    assert refusal(signed(kid="b"), other, KEY) == "bad_signature"
    assert refusal(signed(kid="r"), RSA) == "unknown_key"


def test_a_key_for_another_algorithm_or_for_encryption_checks_nothing() -> None:
    public = KEY.as_dict(private=False)
    assert refusal(signed(), *public_keys({"keys": [{**public, "alg": "ES384"}]})) == "unknown_key"
    assert public_keys({"keys": [{**public, "use": "enc"}]}) == ()


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "", None, 1, ["ES256"], "HS256", "HS512", "RS1", "ES256K", "dir"]
)
def test_an_algorithm_that_is_not_listed_is_refused(alg: Any) -> None:
    assert refusal(f"{segment({'alg': alg})}.{segment(CLAIMS)}.{segment(b'x' * 64)}", KEY) == "unsupported"


@pytest.mark.parametrize(
    "extra",
    [
        {"jwk": KEY.as_dict(private=False)},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"x5c": ["MIIB"]},
        {"crit": ["exp"], "exp": 1},
        {"crit": []},
        {"b64": False},
        {"zip": "DEF"},
        {"enc": "A128GCM"},
        {"p2c": 10_000_000},
    ],
)
def test_a_header_that_brings_a_key_or_changes_the_rules_is_refused(extra: dict[str, Any]) -> None:
    assert refusal(f"{segment({'alg': 'ES256', 'kid': 'a', **extra})}.{segment(CLAIMS)}.{segment(b'x' * 64)}", KEY) == (
        "unsupported"
    )


def test_a_header_that_means_nothing_to_us_is_ignored() -> None:
    assert verify(parse(signed(cty="JWT", x5t="abc", anything="else")), [KEY]) == CLAIMS


@pytest.mark.parametrize(
    "token",
    [
        "",
        "a",
        "..",
        "a.b",
        "e30.e30.",
        "e30.e30.e30.e30",
        "e30.e30.e30.e30.e30",
        "bnVsbA.e30.e30",
        f"{segment({'alg': 'ES256'})}.{segment([1])}.AA",
        f"{segment({'alg': 'ES256'})}.{segment(b'{')}.AA",
        f"{segment({'alg': 'ES256'})}.{segment(b'[' * 4000)}.AA",
        f"{segment({'alg': 'ES256', 'kid': 1})}.e30.AA",
        f"{segment({'alg': 'ES256', 'kid': 'x' * 257})}.e30.AA",
        f"{segment({'alg': 'ES256', 'typ': []})}.e30.AA",
        f"{segment(b'{%s}' % b', '.join([b'%calg%c: %cES256%c' % (34, 34, 34, 34)] * 2))}.e30.AA",
        f"{segment({'alg': 'ES256'})}.{segment(b'{%cexp%c: NaN}' % (34, 34))}.AA",
        f"{segment('ü'.encode('utf-16'))}.e30.AA",
        "e31.e30.AA",
        "ü.ü.ü",
        "e30=.e30=.AA==",
        "e30 .e30.AA",
        "a" * (MAX_CHARACTERS + 1),
    ],
)
def test_what_is_no_signed_jwt_is_malformed(token: str) -> None:
    assert refusal(token, KEY) == "malformed"


@given(
    st.text(max_size=200)
    | st.from_regex(r"[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}\.[A-Za-z0-9_-]{1,40}", fullmatch=True)
)
def test_no_text_raises_anything_but_a_refusal(text: str) -> None:
    with pytest.raises(JwsError):
        verify(parse(text), [KEY])


def test_a_megabyte_of_token_is_refused_in_no_time() -> None:
    token = "e30." + "A" * 1_000_000 + ".AA"
    started = time.process_time()
    refusal(token)
    assert time.process_time() - started < 0.01


def test_the_type_is_a_media_type_in_any_spelling() -> None:
    assert parse(signed(typ="AT+JWT")).type == parse(signed(typ="application/at+jwt")).type == "at+jwt"
    assert parse(signed()).type == ""


@pytest.mark.parametrize("document", [None, [], "x", {}, {"keys": None}, {"keys": {}}, {"keys": [{}] * 101}])
def test_what_is_no_key_set_is_refused(document: Any) -> None:
    with pytest.raises(ValueError, match="key set"):
        public_keys(document)


@pytest.mark.parametrize(
    "unusable",
    [
        "x",
        {},
        {"kty": "EC"},
        {"kty": ["EC"]},
        {"kty": "nothing"},
        {"kty": "EC", "crv": "P-256", "x": "A", "y": "A"},
        {"kty": "EC", "crv": "P-256", "x": "AAAA" * 11, "y": "AAAA" * 11},
        {"kty": "EC", "crv": "P-999", "x": "A", "y": "A"},
        {"kty": "EC", "crv": 7, "x": 7, "y": 7},
        {"kty": "OKP", "crv": "Ed25519", "x": "A"},
        {"kty": "OKP", "crv": "X448", "x": "A"},
        {"kty": "RSA"},
        {"kty": "RSA", "n": "AQAB", "e": "AQAB"},
        {"kty": "RSA", "n": "A" * 40_000, "e": "AQAB"},
        OctKey.generate_key(256).as_dict(),
    ],
)
def test_a_key_that_cannot_be_used_does_not_spoil_the_others(unusable: Any) -> None:
    (key,) = public_keys({"keys": [unusable, KEY.as_dict(private=False)]})
    assert key.kid == "a"


@pytest.mark.parametrize("value", [None, True, "1", [], float("nan"), float("inf"), 1e300, 10**400])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert numeric_date(value) is None
