"""Settings of the resource server: what is refused, and with which words."""

import pytest

from keystile_common.settings import SettingsError, load
from keystile_mcp.settings import McpSettings

REQUIRED = {
    "KEYSTILE_RESOURCE": "https://tools.example.com/mcp",
    "KEYSTILE_AUTHORIZATION_SERVER": "https://auth.example.com",
    "KEYSTILE_INTROSPECTION__CLIENT_ID": "rs",
    "KEYSTILE_INTROSPECTION__CLIENT_SECRET": "hunter2-hunter2",
}


def settings(**variables: str) -> McpSettings:
    return load(McpSettings, REQUIRED | {f"KEYSTILE_{name}": value for name, value in variables.items()})


def refusal(**variables: str) -> str:
    with pytest.raises(SettingsError) as problem:
        settings(**variables)
    return str(problem.value)


def test_four_settings_are_enough() -> None:
    chosen = settings()
    assert (chosen.listen.host, chosen.listen.port) == ("127.0.0.1", 3232)
    assert (chosen.metrics.host, chosen.metrics.port) == ("127.0.0.1", 9465)
    assert chosen.required_scopes == ["mcp:basic"]
    assert chosen.policy == {"long_running": ["mcp:jobs"]}


@pytest.mark.parametrize("name", ["resource", "authorization_server", "introspection"])
def test_what_is_needed_is_asked_for_by_name(name: str) -> None:
    variables = {key: value for key, value in REQUIRED.items() if name.upper() not in key}
    with pytest.raises(SettingsError, match=rf"^{name}: is required"):
        load(McpSettings, variables)


def test_a_host_alone_keeps_the_port() -> None:
    assert settings(LISTEN__HOST="0.0.0.0").listen.port == 3232
    assert settings(METRICS__HOST="0.0.0.0").metrics.port == 9465


@pytest.mark.parametrize(
    "value",
    [
        "https://tools.example.com",
        "https://tools.example.com/",
        "https://tools.example.com/mcp/",
        "https://tools.example.com//mcp",
        "http://tools.example.com/mcp",
        "https://tools.example.com/mcp?x=1",
        "tools.example.com/mcp",
    ],
)
def test_a_resource_is_https_with_a_path_and_no_slash_at_its_end(value: str) -> None:
    assert refusal(RESOURCE=value).startswith("resource (the variable KEYSTILE_RESOURCE): must ")


def test_a_policy_that_names_an_unknown_scope_is_refused_by_its_path() -> None:
    assert refusal(POLICY="{long_running: [mcp:basic, mcp:job]}") == (
        "policy.long_running.1 (the variable KEYSTILE_POLICY): mcp:job is not among scopes; "
        "they are mcp:basic, mcp:jobs"
    )


def test_required_scopes_must_be_declared() -> None:
    assert refusal(REQUIRED_SCOPES="[nothing]").startswith(
        "required_scopes.0 (the variable KEYSTILE_REQUIRED_SCOPES): nothing is not among scopes"
    )


def test_scopes_of_ones_own_ask_for_a_policy_of_ones_own() -> None:
    problem = refusal(SCOPES="{tools: Use the tools}")
    assert "required_scopes.0: mcp:basic is not among scopes; they are tools" in problem
    assert "policy.long_running.0: mcp:jobs is not among scopes" in problem
    chosen = settings(SCOPES="{tools: Use the tools}", REQUIRED_SCOPES="[tools]", POLICY="{}")
    assert chosen.required_scopes == ["tools"]


def test_a_scope_has_a_sentence_and_a_name_that_rfc_6749_allows() -> None:
    assert "scopes.mcp:basic" in refusal(SCOPES="{'mcp:basic': ''}", REQUIRED_SCOPES="[]", POLICY="{}")
    assert "scopes" in refusal(SCOPES="{'with space': text}", REQUIRED_SCOPES="[]", POLICY="{}")
    assert "scopes" in refusal(SCOPES="{'with\"quote': text}", REQUIRED_SCOPES="[]", POLICY="{}")


@pytest.mark.parametrize("value", ["'*'", "null", "https://a.example/path", "a.example", "https://*.example", "''"])
def test_an_allowed_origin_is_one_origin(value: str) -> None:
    assert "allowed_origins.0" in refusal(ALLOWED_ORIGINS=f"[{value}]")


def test_a_trusted_proxy_is_an_address_or_network() -> None:
    assert settings(TRUSTED_PROXIES="[10.0.0.0/8, '::1']").trusted_proxies == ["10.0.0.0/8", "::1"]
    assert "trusted_proxies.0" in refusal(TRUSTED_PROXIES="['*']")


def test_introspection_is_below_the_issuer_unless_it_is_elsewhere() -> None:
    assert settings().issuers[0].introspection_url == "https://auth.example.com/introspect"
    below = settings(AUTHORIZATION_SERVER="https://example.com/auth/")
    assert below.issuers[0].introspection_url == "https://example.com/auth/introspect"
    inside = "http://keystile-auth:3001/introspect"
    assert settings(INTROSPECTION__URL=inside).issuers[0].introspection_url == inside


@pytest.mark.parametrize("value", ["/introspect", "ftp://a/b", "https://user:secret@a/b", "https://a/b#c"])
def test_an_introspection_address_is_absolute_and_holds_no_credentials(value: str) -> None:
    assert refusal(INTROSPECTION__URL=value).startswith("introspection.url")


def test_authorities_for_an_address_without_tls_are_refused() -> None:
    said = refusal(INTROSPECTION__URL="http://auth:3001/introspect", INTROSPECTION__CA_FILE="/ca.crt")
    assert said == "introspection (the variable KEYSTILE_INTROSPECTION__CA_FILE): ca_file is for an https url"


def test_a_certificate_is_set_by_variables_too_and_half_of_a_pair_is_refused() -> None:
    chosen = settings(LISTEN__TLS__CERTIFICATE_FILE="/tls.crt", LISTEN__TLS__KEY_FILE="/tls.key")
    assert str(chosen.listen.tls.key_file) == "/tls.key"
    assert "listen.tls (the variable KEYSTILE_LISTEN__TLS__KEY_FILE): needs certificate_file" in refusal(
        LISTEN__TLS__KEY_FILE="/tls.key"
    )
    assert "did you mean key_file?" in refusal(LISTEN__TLS__KEYFILE="/tls.key")


def test_an_answer_is_never_kept_for_longer_than_a_minute() -> None:
    assert "introspection.cache_seconds" in refusal(INTROSPECTION__CACHE_SECONDS="61")


def test_the_caller_never_waits_for_two_seconds() -> None:
    assert "introspection.timeout_seconds" in refusal(INTROSPECTION__TIMEOUT_SECONDS="2")


def test_a_mistyped_key_is_refused_with_the_one_that_was_meant() -> None:
    assert "did you mean resource_name?" in refusal(RESOURCE_NAM="x")


def test_the_secret_is_not_shown() -> None:
    assert "hunter2" not in repr(settings())
    assert "hunter2" not in refusal(RESOURCE="x")


@pytest.mark.parametrize("value", ["short", "c2hvcnQ=", "A" * 43, "*" * 44, "hunter2-hunter2-hunter2-hunter2-hunter2"])
def test_a_request_state_key_is_32_bytes_in_base64_and_not_repeated(value: str) -> None:
    text = refusal(REQUEST_STATE_KEY=value)
    assert text.startswith(
        "request_state_key (the variable KEYSTILE_REQUEST_STATE_KEY): must be at least 32 random bytes in base64"
    )
    assert value not in text


def test_a_request_state_key_is_not_shown() -> None:
    assert "QUFB" not in repr(settings(REQUEST_STATE_KEY="QUFB" * 11))
