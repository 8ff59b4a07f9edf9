"""How the resource server says who it is at the introspection endpoint."""

import json
from pathlib import Path

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey
from pydantic import ValidationError

from keystile_common.settings import SettingsError
from keystile_mcp.credentials import JWT_BEARER, PrivateKey, SharedSecret, TokenFile, credentials
from keystile_mcp.issuer_settings import IntrospectionSettings
from keystile_mcp.key_files import REREAD_SECONDS, KeyFileError, RenewedFile, SigningKey


def test_a_secret_is_sent_as_http_basic_each_part_form_encoded() -> None:
    basic = SharedSecret("a b", "c:d/e")
    assert basic.headers() == {"Authorization": "Basic YStiOmMlM0FkJTJGZQ=="}
    assert basic.form() == {}


def test_a_token_file_is_sent_as_a_client_assertion_without_its_line_end(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("a.b.c\n")
    proof = TokenFile("tools", RenewedFile("introspection.token_file", path))
    assert proof.headers() == {}
    assert proof.form() == {
        "client_id": "tools",
        "client_assertion_type": JWT_BEARER,
        "client_assertion": "a.b.c",
    }


def test_a_renewed_token_file_is_read_again_after_a_while(tmp_path: Path) -> None:
    path, now = tmp_path / "token", [0.0]
    path.write_text("old")
    proof = TokenFile("tools", RenewedFile("introspection.token_file", path, lambda: now[0]))
    assert proof.form()["client_assertion"] == "old"
    path.write_text("new")
    now[0] = REREAD_SECONDS - 0.1
    assert proof.form()["client_assertion"] == "old"
    now[0] = REREAD_SECONDS
    assert proof.form()["client_assertion"] == "new"


def test_a_token_file_that_cannot_be_read_is_no_answer_rather_than_no_proof(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="token_file"):
        TokenFile("tools", RenewedFile("introspection.token_file", tmp_path / "missing")).form()


def test_an_assertion_is_signed_anew_for_each_request_for_the_authorization_server_alone(tmp_path: Path) -> None:
    key = ECKey.generate_key("P-256", auto_kid=True)
    path = tmp_path / "key"
    path.write_text(json.dumps(key.as_dict(private=True)))
    proof = PrivateKey("tools", SigningKey(RenewedFile("key", path)), "https://auth.example.com")
    first, second = (jwt.decode(proof.form()["client_assertion"], key, algorithms=["ES256"]) for _ in range(2))
    assert first.header == {"alg": "ES256", "kid": key.kid, "typ": "JWT"}
    assert first.claims["jti"] != second.claims["jti"]
    assert first.claims["exp"] - first.claims["iat"] == 60
    assert {name: first.claims[name] for name in ("iss", "sub", "aud")} == {
        "iss": "tools",
        "sub": "tools",
        "aud": "https://auth.example.com",
    }


def test_a_renewed_private_key_is_used_after_a_while(tmp_path: Path) -> None:
    old, new = ECKey.generate_key("P-256"), RSAKey.generate_key(2048)
    path, now = tmp_path / "key", [0.0]
    path.write_bytes(old.as_pem(private=True))
    proof = PrivateKey("tools", SigningKey(RenewedFile("key", path, lambda: now[0])), "https://auth.example.com")
    jwt.decode(proof.form()["client_assertion"], old, algorithms=["ES256"])
    path.write_bytes(new.as_pem(private=True))
    now[0] = REREAD_SECONDS
    assert jwt.decode(proof.form()["client_assertion"], new, algorithms=["PS256"]).header["alg"] == "PS256"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[1]",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        '{"kty": "oct", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQ"}',
        json.dumps(ECKey.generate_key("P-256").as_dict(private=False)),
        json.dumps(ECKey.generate_key("P-521").as_dict(private=True)),
        json.dumps(OKPKey.generate_key("X25519").as_dict(private=True)),
    ],
)
def test_a_file_that_is_no_private_key_for_signing_is_refused_at_start_without_its_content(
    tmp_path: Path, content: str
) -> None:
    path = tmp_path / "key"
    path.write_text(content)
    settings = IntrospectionSettings.model_validate({"client_id": "tools", "private_key_file": str(path)})
    with pytest.raises(SettingsError) as refusal:
        credentials(settings, "https://auth.example.com")
    assert str(refusal.value).startswith("introspection.private_key_file must hold a private key")
    assert "AAAA" not in str(refusal.value)


def test_a_private_key_that_cannot_be_read_is_refused_at_start(tmp_path: Path) -> None:
    settings = IntrospectionSettings.model_validate({"client_id": "tools", "private_key_file": str(tmp_path / "none")})
    with pytest.raises(SettingsError, match=r"introspection\.private_key_file cannot be read"):
        credentials(settings, "https://auth.example.com")


def test_the_settings_have_a_secret_or_a_token_file_or_a_private_key(tmp_path: Path) -> None:
    secret = IntrospectionSettings.model_validate({"client_id": "tools", "client_secret": "s"})
    assert isinstance(credentials(secret, "https://auth.example.com"), SharedSecret)
    file = IntrospectionSettings.model_validate({"client_id": "tools", "token_file": str(tmp_path / "token")})
    assert isinstance(credentials(file, "https://auth.example.com"), TokenFile)
    (tmp_path / "key").write_bytes(ECKey.generate_key("P-256").as_pem(private=True))
    key = IntrospectionSettings.model_validate({"client_id": "tools", "private_key_file": str(tmp_path / "key")})
    assert isinstance(credentials(key, "https://auth.example.com"), PrivateKey)
    for values in ({}, {"client_secret": "s", "token_file": "t"}, {"private_key_file": "k", "token_file": "t"}):
        with pytest.raises(ValidationError, match="exactly one of client_secret"):
            IntrospectionSettings.model_validate({"client_id": "tools", **values})
