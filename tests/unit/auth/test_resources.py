"""Resources and scopes (RFC 8707, RFC 6749 section 3.3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.errors import OAuthError
from keystile_auth.tokens.resources import Resource, Resources, parse_scope

TOOLS = Resource("tools", "https://mcp.example.com/tools", "Tools", {"read": "Read", "write": "Write"}, ("read",))
ROOT = Resource("root", "https://root.example.com", "Root", {"read": "Read", "all": "All"}, ("read", "all"))
LOCAL = Resource("local", "http://[::1]:3232/mcp", "Local", {"use": "Use"}, ("use",))
RESOURCES = Resources({each.name: each for each in (TOOLS, ROOT, LOCAL)})


@pytest.mark.parametrize(
    ("indicator", "resource"),
    [
        ("https://mcp.example.com/tools", TOOLS),
        ("https://mcp.example.com/tools/", TOOLS),
        ("HTTPS://MCP.Example.COM/tools", TOOLS),
        ("https://mcp.example.com:443/tools", TOOLS),
        ("https://root.example.com", ROOT),
        ("https://root.example.com/", ROOT),
        ("http://[::1]:3232/mcp/", LOCAL),
    ],
)
def test_a_resource_is_found_by_each_spelling_that_is_the_same_uri(indicator: str, resource: Resource) -> None:
    assert RESOURCES.find(indicator) is resource
    assert RESOURCES.require(indicator) is resource


@pytest.mark.parametrize(
    "indicator",
    [
        "",
        "tools",
        "https://mcp.example.com",
        "https://mcp.example.com/Tools",
        "https://mcp.example.com/tools//",
        "https://mcp.example.com/tools/more",
        "https://mcp.example.com//tools",
        "https://mcp.example.com/x/../tools",
        "https://mcp.example.com/%74ools",
        "https://mcp.example.com:8443/tools",
        "http://mcp.example.com/tools",
        "https://mcp.example.com/tools?a=1",
        "https://mcp.example.com/tools?",
        "https://mcp.example.com/tools#a",
        "https://mcp.example.com/tools#",
        " https://mcp.example.com/tools",
        "https://mcp.example.com/tools ",
        "https://user@mcp.example.com/tools",
        "https://@mcp.example.com/tools",
        "https://mcp.example.com@evil.example/tools",
        "https://mcp.example.com.evil.example/tools",
        "https://mcp.example.com:port/tools",
        "https://[::1",
        "http://::1:3232/mcp",
    ],
)
def test_any_other_indicator_is_an_invalid_target_that_names_those_there_are(indicator: str) -> None:
    assert RESOURCES.find(indicator) is None
    with pytest.raises(OAuthError, match=r"https://mcp\.example\.com/tools, https://root\.example\.com") as raised:
        RESOURCES.require(indicator)
    assert raised.value.code == "invalid_target"


def test_a_missing_indicator_is_an_invalid_target() -> None:
    with pytest.raises(OAuthError, match="resource is required") as raised:
        RESOURCES.require(None)
    assert raised.value.code == "invalid_target"


def test_the_scopes_of_all_resources_are_listed_in_their_order_and_each_once() -> None:
    assert RESOURCES.scopes == ("read", "write", "all", "use")


def test_scopes_are_granted_in_the_order_asked_and_each_once() -> None:
    assert TOOLS.select_scopes("write read write") == ("write", "read")


@pytest.mark.parametrize("nothing", [None, ""])
def test_without_a_scope_the_default_ones_are_granted(nothing: str | None) -> None:
    assert TOOLS.select_scopes(nothing) == ("read",)


@pytest.mark.parametrize("scope", ["delete", "read delete", "READ", "all"])
def test_a_scope_that_the_resource_does_not_have_is_invalid(scope: str) -> None:
    with pytest.raises(OAuthError, match=r"is not a scope of https://mcp\.example\.com/tools: read write") as raised:
        TOOLS.select_scopes(scope)
    assert raised.value.code == "invalid_scope"


@pytest.mark.parametrize("scope", ["read  write", " read", "read ", "read\twrite", 'read"', "re\\ad", "rëad", " "])
def test_a_scope_that_is_not_a_list_of_names_is_invalid(scope: str) -> None:
    with pytest.raises(OAuthError, match="separated by single spaces") as raised:
        parse_scope(scope)
    assert raised.value.code == "invalid_scope"


@given(st.lists(st.sampled_from(["read", "write", "a:b", "!"]), min_size=1))
def test_a_list_of_names_parses_to_those_names(names: list[str]) -> None:
    assert parse_scope(" ".join(names)) == tuple(dict.fromkeys(names))
