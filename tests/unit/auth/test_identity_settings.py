"""What an operator may say of identities."""

from typing import Any

import pytest
from pydantic import ValidationError

from keystile_auth.identity.answer import claim_values
from keystile_auth.settings import AuthSettings
from keystile_common.settings import load
from tests.auth_server import RESOURCE, RESOURCE_SECRET, SCOPES, auth_settings

ISSUER = "https://auth.example.com"
TLS = {"certificate_file": "/tls.crt", "key_file": "/tls.key"}
CLIENT_CA = {"client_ca_file": "/ca.crt"}
HEADER = {"kind": "header", "certificate_names": ["proxy.example.com", "spiffe://example.com/proxy"]}
SAML = {"kind": "saml", "metadata_url": "https://id.example.com/metadata?appid=1"}
OIDC = {"kind": "oidc", "issuer": "https://id.example.com", "client_id": "keystile"}


def settings(**overrides: Any) -> AuthSettings:
    return auth_settings(ISSUER, "redis://127.0.0.1:1/0", **overrides)


def test_local_users_alone_are_the_default() -> None:
    assert {name: each.kind for name, each in settings().identity.items()} == {"local": "local"}


@pytest.mark.parametrize(
    ("identity", "sentence"),
    [
        ({}, "at least 1 item"),
        ({"Corp": OIDC}, "should match pattern"),
        ({"a/b": OIDC}, "should match pattern"),
        ({"local": OIDC}, "and no other, has the kind local"),
        ({"staff": {"kind": "local"}}, "and no other, has the kind local"),
        ({"corp": {"kind": "kerberos"}}, "Input should be"),
        ({"corp": {"kind": "oidc", "client_id": "x"}}, "issuer is missing"),
        ({"corp": {"kind": "oidc", "issuer": "https://id.example.com"}}, "client_id is missing"),
        ({"corp": {**OIDC, "issuer": "http://id.example.com"}}, "must be https"),
        ({"corp": {**OIDC, "plugin": "a:b"}}, "plugin is not a setting of the kind oidc"),
        ({"corp": {"kind": "plugin"}}, "plugin is missing"),
        ({"corp": {"kind": "saml"}}, "exactly one of metadata_url and metadata_file"),
        ({"corp": {**SAML, "metadata_file": "m.xml"}}, "exactly one of metadata_url and metadata_file"),
        ({"corp": {**SAML, "metadata_url": "http://id.example.com/m"}}, "must be an https URL"),
        ({"corp": {**SAML, "metadata_url": "https://u:p@id.example.com/m"}}, "must be an https URL"),
        ({"corp": {**SAML, "key": "x"}}, "needs key and certificate, or neither"),
        ({"corp": {**SAML, "name_id_format": "transient"}}, "subject_claim is missing"),
        ({"corp": {"kind": "saml", "metadata_file": "m.xml", "ca_file": "ca.pem"}}, "ca_file is for metadata_url"),
        ({"corp": {**SAML, "client_id": "x"}}, "client_id is not a setting of the kind saml"),
        ({"corp": {**SAML, "recheck": "sign_in"}}, "recheck is not a setting of the kind saml"),
        ({"corp": {**SAML, "leeway_seconds": 301}}, "less than or equal to 300"),
        ({"corp": {**OIDC, "metadata_url": "https://id.example.com/m"}}, "metadata_url is not a setting of the kind"),
        ({"corp": {"kind": "plugin", "plugin": "a:b", "issuer": "https://x.example"}}, "issuer is not a setting"),
        ({"local": {"kind": "local", "domains": ["example.com"]}}, "domains is not a setting of the kind local"),
        ({"corp": {"kind": "oidc", "preset": "google", "client_id": "x"}}, "required_claims must say who"),
        ({"corp": {"kind": "oidc", "preset": "github", "client_id": "x", "anyone": True}}, "client_secret is missing"),
        ({"proxy": {"kind": "header"}}, "certificate_names is missing"),
        ({"proxy": {**HEADER, "certificate_names": []}}, "certificate_names is missing"),
        ({"proxy": {**HEADER, "certificate_names": ["*.example.com"]}}, "must be a host name"),
        ({"proxy": {**HEADER, "certificate_names": ["Proxy.example.com"]}}, "must be a host name"),
        ({"proxy": {**HEADER, "certificate_names": ["spiffe://x y"]}}, "must be a host name, or a URI"),
        ({"proxy": {**HEADER, "user_header": "X_Remote_User"}}, "should match pattern"),
        ({"proxy": {**HEADER, "email_header": "x-remote-user"}}, "are different headers"),
        ({"proxy": {**HEADER, "client_id": "x"}}, "client_id is not a setting of the kind header"),
        ({"proxy": {**HEADER, "recheck_allowance_seconds": 1}}, "is not a setting of the kind header"),
        ({"a": {**OIDC, "domains": ["x.example"]}, "b": {**OIDC, "domains": ["x.example"]}}, "belongs to one identity"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_is_refused_with_a_sentence(identity: Any, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        settings(identity=identity)


@pytest.mark.parametrize(
    ("identity", "tls", "sentence"),
    [
        ({"proxy": HEADER}, {}, "identity.proxy: the kind header needs listen.tls.certificate_file"),
        ({"proxy": HEADER}, TLS, "identity.proxy: the kind header needs listen.tls.client_ca_file"),
        ({"a": HEADER, "b": HEADER}, TLS | CLIENT_CA, "identity.b: one identity alone has the kind header, and a has"),
        ({"local": {"kind": "local"}}, TLS | CLIENT_CA, "is for an identity of the kind header, and there is none"),
        ({"proxy": HEADER}, CLIENT_CA, "client_ca_file is for TLS"),
        ({"proxy": HEADER}, TLS | CLIENT_CA | {"minimum_version": "1.2"}, "client_ca_file needs TLS 1.3"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_header_is_believed_of_nobody_without_mutual_tls(identity: Any, tls: Any, sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        settings(identity=identity, listen={"tls": tls})


def test_a_header_with_mutual_tls_is_an_identity() -> None:
    listen = {"tls": TLS | CLIENT_CA | {"minimum_version": "1.3"}}
    made = settings(identity={"proxy": HEADER, "local": {"kind": "local"}}, listen=listen)
    assert made.identity["proxy"].user_header == "X-Remote-User"


@pytest.mark.parametrize(
    ("user_scopes", "sentence"),
    [
        ({"local": ["mcp:none"]}, "user_scopes.local names mcp:none"),
        ({"corp/admins": ["mcp:basic"]}, "there is no identity corp"),
    ],
)
def test_user_scopes_name_scopes_and_identities_that_there_are(user_scopes: Any, sentence: str) -> None:
    mcp = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET, "user_scopes": user_scopes}
    with pytest.raises(ValidationError, match=sentence):
        settings(resources={"mcp": mcp})


def test_google_knows_its_issuer() -> None:
    google = {"kind": "oidc", "preset": "google", "client_id": "x", "required_claims": {"hd": ["example.com"]}}
    assert settings(identity={"google": google}).identity["google"].issuer_url == "https://accounts.google.com"


def test_a_client_secret_comes_from_the_environment_and_is_not_shown(tmp_path: Any) -> None:
    (tmp_path / "keystile.yaml").write_text(
        f"issuer: {ISSUER}\nmaster_key: {'A' * 43}=\n"
        f"resources: {{mcp: {{uri: {RESOURCE}, title: T, scopes: {{a: b}}, secret: {'s' * 32}}}}}\n"
        "identity: {corp: {kind: oidc, issuer: https://id.example.com, client_id: keystile}}\n"
    )
    environ = {
        "KEYSTILE_CONFIG": str(tmp_path / "keystile.yaml"),
        "KEYSTILE_IDENTITY__CORP__CLIENT_SECRET": "not to be shown",
    }
    loaded = load(AuthSettings, environ).identity["corp"]
    assert loaded.client_secret
    assert loaded.client_secret.get_secret_value() == "not to be shown"
    assert "not to be shown" not in repr(loaded)


@pytest.mark.parametrize(
    ("claims", "name", "values"),
    [
        ({"groups": ["a", 1, "b"]}, "groups", ("a", "b")),
        ({"hd": "example.com"}, "hd", ("example.com",)),
        ({"realm_access": {"roles": ["a"]}}, "realm_access.roles", ("a",)),
        ({"https://x.example/groups": ["a"]}, "https://x.example/groups", ("a",)),
        ({"realm_access": ["roles"]}, "realm_access.roles", ()),
        ({}, "groups", ()),
        ({"groups": {"a": 1}}, "groups", ()),
    ],
    ids=str,
)
def test_a_claim_is_one_value_or_a_list_or_lies_deeper(claims: Any, name: str, values: Any) -> None:
    assert claim_values(claims, name) == values
