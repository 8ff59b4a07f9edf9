"""Settings of providers: what cannot work is refused at the start, with a sentence that says what to change."""

from typing import Any

import pytest
from pydantic import ValidationError

from keystile_common.settings import SettingsError, load
from keystile_mcp.providers import GOOGLE_TOKEN_INFO, PROVIDERS
from keystile_mcp.settings import McpSettings
from tests.unit.mcp.samples import RESOURCE

TENANT = "https://login.microsoftonline.com/6babcaad-604b-40ac-a9d7-9fd97c0b779f/v2.0"
ISSUERS = {
    "auth0": "https://example.eu.auth0.com/",
    "okta": "https://example.okta.com/oauth2/default",
    "entra": TENANT,
    "keycloak": "https://id.example.com/realms/example",
    "google": "https://accounts.google.com",
    "cognito": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_Example1",
    "generic": "https://id.example.com",
    "keystile": "https://auth.example.com",
}
OPENID = {"scopes": {"openid": "Sign in"}, "required_scopes": ["openid"], "policy": {}}
CLIENT: dict[str, Any] = {"introspection": {"client_id": "tools", "client_secret": "s"}}


def settings(provider: str, **values: Any) -> McpSettings:
    more: dict[str, Any] = {"audience": "an-audience"} if PROVIDERS[provider].needs_audience else {}  # type: ignore[index]
    more |= OPENID if provider == "google" else {}
    more |= CLIENT if provider == "keystile" else {}
    base = {"resource": RESOURCE, "authorization_server": ISSUERS[provider], "provider": provider}
    return McpSettings.model_validate(base | more | values)


def refusal(provider: str, **values: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        settings(provider, **values)
    return str(caught.value)


@pytest.mark.parametrize("provider", ISSUERS)
def test_each_provider_has_a_way_by_default(provider: str) -> None:
    (issuer,) = settings(provider).issuers
    assert issuer.method == issuer.provider.methods[0]
    assert issuer.audiences == (("an-audience",) if issuer.provider.needs_audience else (RESOURCE,))
    assert issuer.scope_prefix == (f"{RESOURCE}/" if provider in {"entra", "cognito"} else "")
    assert settings(provider, scope_prefix="api://tools/").advertised_prefix == "api://tools/"


def test_algorithms_are_the_provider_s_unless_they_are_set() -> None:
    assert settings("entra").issuers[0].algorithms == ("RS256",)
    assert settings("entra", jwks={"algorithms": ["PS256"]}).issuers[0].algorithms == ("PS256",)
    assert settings("keystile").issuers[0].algorithms == ("ES256",)


def test_introspection_is_where_the_provider_has_it() -> None:
    assert settings("google").issuers[0].introspection_url == GOOGLE_TOKEN_INFO
    assert settings("keycloak", validation="introspection", **CLIENT).issuers[0].introspection_url is None


@pytest.mark.parametrize(
    ("provider", "values", "sentence"),
    [
        ("auth0", {"validation": "introspection", **CLIENT}, "validation: Auth0 has jwks only"),
        ("entra", {"validation": "introspection", **CLIENT}, "validation: Microsoft Entra ID has jwks only"),
        ("cognito", {"validation": "introspection", **CLIENT}, "validation: Amazon Cognito has jwks only"),
        ("google", {"validation": "jwks"}, "validation: Google has introspection only"),
        ("auth0", {"authorization_server": "https://example.eu.auth0.com"}, "with a slash at the end"),
        ("okta", {"authorization_server": "https://example.okta.com"}, "a custom authorization server"),
        ("entra", {"authorization_server": TENANT.replace("6babcaad-604b-40ac-a9d7-9fd97c0b779f", "common")}, "tenant"),
        ("entra", {"authorization_server": TENANT.removesuffix("/v2.0")}, "of one tenant"),
        ("keycloak", {"authorization_server": "https://id.example.com"}, "that of a realm"),
        ("google", {"authorization_server": "https://accounts.google.com/x"}, "https://accounts.google.com"),
        ("cognito", {"authorization_server": "https://pool.auth.eu-central-1.amazoncognito.com"}, "of a user pool"),
        ("entra", {"audience": []}, "audience: tokens of Microsoft Entra ID never name the resource's URL"),
        ("google", {"audience": []}, "audience: tokens of Google never name the resource's URL"),
        ("okta", {"scope_claim": "permissions"}, "scope_claim: Okta has scp only"),
        ("keycloak", {"validation": "introspection"}, "introspection: is required"),
        ("google", {"required_scopes": ["mcp:basic"], "scopes": {"mcp:basic": "x"}}, "Google has no scope mcp:basic"),
        ("generic", {"audience": ["a", ""]}, "audience.1"),
        ("generic", {"jwks": {"algorithms": []}}, "jwks.algorithms"),
        ("generic", {"jwks": {"algorithms": ["HS256"]}}, "jwks.algorithms"),
    ],
)
def test_what_cannot_work_is_refused(provider: str, values: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(provider, **values)


PUSH: dict[str, Any] = {"revocations": {"push": {"accept": True}}}


@pytest.mark.parametrize(
    ("provider", "push", "sentence"),
    [
        ("keystile", {"accept": True}, "revocations.push: Keystile sends no events, it is polled for them"),
        ("generic", {"bearer": "x" * 32}, "bearer is for accept: true"),
        ("generic", {"accept": True, "bearer": "short"}, "at least 16"),
        ("generic", {"accept": True, "issuer": "https://id.example.com"}, "issuer needs jwks_url"),
        ("generic", {"accept": True, "issuer": "http://id.example.com", "jwks_url": "https://a.example/k"}, "https"),
        ("generic", {"accept": True, "max_age_seconds": 1}, "greater than or equal to 60"),
    ],
)
def test_pushes_that_cannot_be_accepted_are_refused(provider: str, push: dict[str, Any], sentence: str) -> None:
    assert sentence in refusal(provider, revocations={"push": push})


def test_pushes_are_not_accepted_unless_it_is_said() -> None:
    assert not any(settings(provider).issuers[0].pushes for provider in ISSUERS)


def test_pushed_events_are_for_the_audience_and_signed_with_the_keys_of_tokens_unless_the_settings_say_otherwise() -> (
    None
):
    (issuer,) = settings("generic", audience="api", jwks={"url": "https://a.example/keys"}, **PUSH).issuers
    assert (issuer.pushes, issuer.pushes_as, issuer.pushed_audiences) == (True, ISSUERS["generic"], ("api",))
    assert issuer.pushed_keys.url == "https://a.example/keys"
    push = {"accept": True, "issuer": "https://b.example", "jwks_url": "https://b.example/k", "audience": "us"}
    (issuer,) = settings("generic", revocations={"push": push}).issuers
    assert (issuer.pushes_as, issuer.pushed_audiences) == ("https://b.example", ("us",))
    assert issuer.pushed_keys.url == "https://b.example/k"


def test_two_issuers_whose_events_cannot_be_told_apart_are_refused() -> None:
    as_org = {"accept": True, "issuer": "https://org.example", "jwks_url": "https://org.example/keys"}
    other = old(provider="generic", revocations={"push": as_org})
    sentence = "revocations.push: https://org.example would send events of two issuers"
    assert sentence in refusal("generic", revocations={"push": as_org}, trusted_issuers=[other])


def old(issuer: str = "https://old.example.com", **values: Any) -> dict[str, Any]:
    return {"issuer": issuer, "until": "2027-03-01", **values}


@pytest.mark.parametrize(
    ("trusted", "sentence"),
    [
        ([old(ISSUERS["keycloak"], provider="generic")], "is there twice"),
        ([old(**CLIENT), old("https://older.example.com", **CLIENT)], "an opaque token does not say whether"),
        ([old()], "introspection: is required"),
        ([{"issuer": "https://old.example.com", "provider": "generic"}], "until"),
        ([old(provider="generic", until="soon")], "until"),
        ([old(provider="entra")], "of one tenant"),
        ([old(issuer="http://old.example.com", provider="generic")], "must be https"),
    ],
)
def test_trusted_issuers_that_cannot_be_told_apart_are_refused(trusted: list[Any], sentence: str) -> None:
    assert sentence in refusal("keycloak", trusted_issuers=trusted)


def test_they_are_set_by_variables_too() -> None:
    environ = {
        "KEYSTILE_RESOURCE": RESOURCE,
        "KEYSTILE_AUTHORIZATION_SERVER": ISSUERS["okta"],
        "KEYSTILE_PROVIDER": "okta",
        "KEYSTILE_AUDIENCE": "api://default",
        "KEYSTILE_TRUSTED_ISSUERS": "[{issuer: 'https://old.example.com', provider: generic, until: 2027-03-01}]",
    }
    chosen = load(McpSettings, environ)
    assert chosen.audience == ["api://default"]
    assert chosen.issuer_names == {ISSUERS["okta"], "https://old.example.com"}
    with pytest.raises(SettingsError, match="trusted_issuers"):
        load(McpSettings, environ | {"KEYSTILE_TRUSTED_ISSUERS": "[{issuer: 'https://old.example.com'}]"})
