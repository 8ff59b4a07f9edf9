"""Which scopes a tool asks for."""

import pytest

from keystile_mcp.policy import Policy


def test_every_request_needs_what_is_required() -> None:
    assert Policy(["basic"], {"*": ["admin"]}).needed_for(None) == ("basic",)


def test_a_tool_that_no_rule_matches_needs_what_every_request_needs() -> None:
    assert Policy(["basic"], {"delete_*": ["admin"]}).needed_for("echo") == ("basic",)


def test_a_rule_adds_to_what_is_required_without_repeating_it() -> None:
    assert Policy(["basic"], {"echo": ["extra", "basic"]}).needed_for("echo") == ("basic", "extra")


@pytest.mark.parametrize(
    ("tool", "needed"),
    [
        ("files_read", ("read",)),
        ("files_write", ("write",)),
        ("files_list", ("files",)),
        ("mail_read", ("mail", "reading")),
        ("other", ("admin",)),
        ("open", ()),
        ("a[b]", ("admin",)),
        ("Files_list", ("admin",)),
    ],
)
def test_the_most_specific_rule_decides_alone(tool: str, needed: tuple[str, ...]) -> None:
    rules = {
        "*": ["admin"],
        "files_*": ["files"],
        "files_?rite": ["write"],
        "files_read": ["read"],
        "mail*": ["mail"],
        "*read": ["reading"],
        "open": [],
    }
    assert Policy([], rules).needed_for(tool) == needed


def test_a_pattern_may_name_a_set_of_characters() -> None:
    policy = Policy([], {"job_[ab]": ["jobs"]})
    assert policy.needed_for("job_a") == ("jobs",)
    assert policy.needed_for("job_c") == ()


def test_the_order_of_rules_does_not_matter() -> None:
    rules = {"*": ["one"], "a*": ["two"], "*a": ["three"], "ab*": ["four"]}
    backwards = dict(reversed(rules.items()))
    for tool in ("a", "ab", "ba", "aba", "x"):
        assert set(Policy([], rules).needed_for(tool)) == set(Policy([], backwards).needed_for(tool))


def test_a_pattern_matches_the_whole_name() -> None:
    assert Policy([], {"a*b": ["x"]}).needed_for("acbd") == ()
    assert Policy([], {"a?": ["x"]}).needed_for("a\n") == ("x",)
