"""The embedded topology's settings: what follows from what, and what makes no sense."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from keystile_auth import endpoints
from keystile_auth.settings import AuthSettings
from keystile_embedded.settings import RESERVED, EmbeddedSettings
from keystile_mcp.settings import McpSettings, ResourceServerSettings

MASTER_KEY = "A" * 43 + "="
ISSUER = "https://tools.example.com"
ELSEWHERE = {"uri": "https://other.example.com/mcp", "title": "Other", "scopes": {"other:use": "Use"}}


def settings(**values: Any) -> EmbeddedSettings:
    return EmbeddedSettings.model_validate({"issuer": ISSUER, "master_key": MASTER_KEY, **values})


@pytest.mark.parametrize(
    ("issuer", "resource"),
    [
        (ISSUER, f"{ISSUER}/mcp"),
        (f"{ISSUER}/auth", f"{ISSUER}/mcp"),
        ("http://127.0.0.1:3232", "http://127.0.0.1:3232/mcp"),
    ],
)
def test_the_resource_is_mcp_at_the_issuers_origin_unless_it_is_set(issuer: str, resource: str) -> None:
    made = settings(issuer=issuer)
    assert made.own_resource == made.resource_server.resource == resource
    assert made.resource_server.authorization_server == issuer
    assert settings(resource=f"{ISSUER}/team/tools").own_resource == f"{ISSUER}/team/tools"


def test_its_own_resource_is_among_those_that_tokens_are_issued_for_and_has_no_secret() -> None:
    made = settings(
        resources={"other": {**ELSEWHERE, "secret": "s" * 32}}, scopes={"mcp:basic": "Use", "a": "A"}, policy={}
    )
    assert {name: each.uri for name, each in made.all_resources.items()} == {
        "mcp": f"{ISSUER}/mcp",
        "other": "https://other.example.com/mcp",
    }
    own = made.all_resources["mcp"]
    assert (own.secret, own.service_account) == (None, None)
    assert own.scopes == made.resource_server.scopes == {"mcp:basic": "Use", "a": "A"}


def test_scopes_of_users_are_those_of_its_own_resource() -> None:
    granted = {"local": ["mcp:basic"]}
    assert settings(user_scopes=granted).all_resources["mcp"].user_scopes == granted
    with pytest.raises(ValidationError, match="there is no identity corp"):
        settings(user_scopes={"corp/staff": ["mcp:basic"]})


def test_a_machine_client_may_be_set_up_for_its_own_resource() -> None:
    client = {"title": "Job", "resources": [f"{ISSUER}/mcp"], "scopes": ["mcp:jobs"], "secret": "s" * 32}
    assert settings(clients={"job": client}).clients["job"].scopes == ["mcp:jobs"]


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"resource": "https://mcp.example.com/mcp"}, "one process has one public origin"),
        ({"resource": "https://tools.example.com:8443/mcp"}, "one process has one public origin"),
        ({"resource": f"{ISSUER}/token"}, "is a path of the authorization server"),
        ({"resource": f"{ISSUER}/static/mcp"}, "is a path of the authorization server"),
        ({"resource": f"{ISSUER}/.well-known/mcp"}, "is a path of the authorization server"),
        ({"issuer": f"{ISSUER}/auth", "resource": f"{ISSUER}/auth"}, "is a path of the authorization server"),
        ({"issuer": f"{ISSUER}/auth", "resource": f"{ISSUER}/auth/login"}, "is a path of the authorization server"),
        ({"issuer": f"{ISSUER}/auth", "resource": f"{ISSUER}/readyz"}, "is a path of the authorization server"),
        ({"resources": {"mcp": {**ELSEWHERE, "secret": "s" * 32}}}, "is the name of the resource in this process"),
        ({"resources": {"other": ELSEWHERE}}, "needs exactly one of secret, service_account"),
        ({"resources": {"other": {**ELSEWHERE, "uri": f"{ISSUER}/mcp", "secret": "s" * 32}}}, "have the same uri"),
        ({"store": {"username": "keystile"}}, "store.username: is for a store elsewhere"),
        ({"app": "tools:mcp", "upstream": {"url": "http://127.0.0.1:9/mcp"}}, "give one of them, or neither"),
        ({"scopes": {}}, "at least 1 item"),
        ({"scopes": {"mcp:basic": " ", "mcp:jobs": "x"}}, "at least 1 character"),
        ({"scopes": {"mcp basic": "x"}}, "match pattern"),
        ({"resource_name": ""}, "at least 1 character"),
        ({"authorization_server": ISSUER}, "Extra inputs are not permitted"),
    ],
)
def test_what_makes_no_sense_is_refused(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(sentence)):
        settings(**values)


@pytest.mark.parametrize(
    "store",
    [
        {"url": "redis://127.0.0.1:6379/0"},
        {"sentinels": ["sentinel.example.com:26379"], "sentinel_master": "keystile"},
        {"cluster": ["valkey.example.com:6379"]},
    ],
)
def test_a_store_that_is_named_is_used_instead_of_an_own_one(store: dict[str, Any]) -> None:
    assert settings(store={"max_connections": 8}).has_own_store
    assert not settings(store=store).has_own_store


def test_a_host_alone_leaves_the_port_as_it_is() -> None:
    assert settings().listen.port == 3232
    assert settings(listen={"host": "0.0.0.0"}).listen.port == 3232
    assert settings(listen={"port": 3001}).listen.port == 3001


def test_no_path_of_the_authorization_server_can_be_the_resources() -> None:
    source = "".join(path.read_text() for path in Path(str(endpoints.__file__)).parent.glob("*.py"))
    routed = set(re.findall(r"\{(?:prefix|self\._prefix|path)\}/([a-z.-]+)", source))
    assert "token" in routed
    assert routed <= RESERVED


def test_every_setting_of_the_services_is_one_here_by_the_same_name_but_for_these() -> None:
    here, of_both = set(EmbeddedSettings.model_fields), {*AuthSettings.model_fields, *McpSettings.model_fields}
    # One process has no one to ask or to hand over to; `sessions` are those of people, and MCP's are `mcp_sessions`.
    issuer = {"authorization_server", "provider", "audience", "validation", "scope_prefix", "scope_claim"}
    issuer |= {"trusted_issuers", "introspection", "jwks", "revocations"}
    assert of_both - here == issuer | {"handover", "request_state_key"}
    assert here - of_both == {"mcp_sessions", "data_dir", "user_scopes"}


def test_every_setting_of_the_resource_server_reaches_it() -> None:
    made = settings(
        resource_name="Team tools",
        resource_documentation="https://docs.example.com",
        scopes={"use": "Use"},
        required_scopes=["use"],
        policy={"*": ["use"]},
        allowed_origins=["https://app.example.com"],
        mcp_sessions="none",
        app="tools.server:mcp",
    ).resource_server
    # What belongs to the process is told once; the store is not for its sessions.
    told_once = {"listen", "metrics", "trusted_proxies", "drain_seconds", "log", "audit", "traces", "store", "handover"}
    told_once |= {"request_state_key"}  # one process makes up its own
    for name, field in ResourceServerSettings.model_fields.items():
        if name not in told_once | {"upstream"}:
            assert getattr(made, name) != field.get_default(), name


def test_an_mcp_server_elsewhere_may_be_behind_it() -> None:
    assert settings(upstream={"url": "http://127.0.0.1:9/mcp"}).resource_server.upstream.url == "http://127.0.0.1:9/mcp"
