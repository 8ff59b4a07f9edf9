"""What `keystile doctor` reads and writes, without a server."""

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_common.doctor import examination, reach
from keystile_common.doctor.clock import issued_at, skew_seconds
from keystile_common.doctor.discovery import bearer_challenge, issuer_places, resource_forms
from keystile_common.doctor.endpoint import judge_plain, plain_http
from keystile_common.doctor.examination import Report
from keystile_common.doctor.finding import Finding, Outcome, shown
from keystile_common.doctor.probe import Answer, NoAnswerError, Probe, is_safe
from keystile_common.doctor.report import as_json, as_table
from keystile_common.doctor.scene import Options, Scene, other_slash

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "doctor.md"


@pytest.mark.parametrize(
    ("header", "found"),
    [
        ("Bearer", {}),
        ('bearer Resource_Metadata="https://x/y", scope="a b"', {"resource_metadata": "https://x/y", "scope": "a b"}),
        ('Basic realm="Bearer x=1", Bearer scope=a', {"scope": "a"}),
        ('Bearer scope="a", Basic scope="b"', {"scope": "a"}),
        (r'Bearer realm="a \"quoted\" one"', {"realm": 'a "quoted" one'}),
        ('Bearer realm=""', {"realm": ""}),
        ('Basic realm="x"', None),
        ("", None),
    ],
)
def test_a_bearer_challenge_is_found_among_others(header: str, found: dict[str, str] | None) -> None:
    assert bearer_challenge(header) == found


@given(st.text(max_size=300))
def test_no_header_is_too_strange_to_be_read(header: str) -> None:
    bearer_challenge(header)
    bearer_challenge(f"Bearer {header}")


@given(st.text(max_size=200))
def test_what_is_shown_can_be_printed(text: str) -> None:
    assert shown(text).isprintable()


def test_the_longest_secret_is_hidden_first() -> None:
    assert shown("abcdef abc", ["abc", "abcdef", ""]) == "[hidden] [hidden]"


def test_the_places_of_metadata_are_those_of_the_standards() -> None:
    assert resource_forms("https://x.example/a/b?c=d") == (
        "https://x.example/.well-known/oauth-protected-resource/a/b?c=d",
        "https://x.example/.well-known/oauth-protected-resource",
    )
    assert issuer_places("https://x.example/t") == [
        "https://x.example/.well-known/oauth-authorization-server/t",
        "https://x.example/.well-known/openid-configuration/t",
        "https://x.example/t/.well-known/openid-configuration",
    ]
    assert issuer_places("https://x.example/") == [
        "https://x.example/.well-known/oauth-authorization-server",
        "https://x.example/.well-known/openid-configuration",
    ]
    assert issuer_places("https://[x") == []
    assert other_slash(other_slash("https://x.example/a?b")) == "https://x.example/a?b"


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("https://x.example", True),
        ("http://127.0.0.9/x", True),
        ("http://[::1]:80/", True),
        ("http://localhost", True),
        ("http://x.example", False),
        ("http://localhost.example.com", False),
        ("ftp://localhost", False),
        ("https://", False),
        ("https://[x", False),
        ("", False),
    ],
)
def test_secrets_travel_by_https_or_not_at_all_off_this_machine(url: str, safe: bool) -> None:
    assert is_safe(url) is safe


def token(claims: object) -> str:
    return f"e30.{base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')}.c2ln"


@pytest.mark.parametrize(
    ("text", "issued"),
    [
        (token({"iat": 1700000000}), 1700000000.0),
        (token({"iat": "1700000000"}), None),
        (token({"iat": float("inf")}), None),
        (token({"iat": float("nan")}), None),
        (token({"iat": 10**400}), None),
        (token([]), None),
        ("a.%%%.c", None),
        ("opaque", None),
        ("a.b." + "c" * 70_000, None),
    ],
)
def test_the_time_of_issue_is_read_of_signed_tokens_alone(text: str, issued: float | None) -> None:
    assert issued_at(text) == issued


@pytest.mark.parametrize(
    ("headers", "skew"),
    [
        ({"date": "Thu, 01 Jan 1970 00:16:40 GMT"}, 0.0),
        ({"date": "Thu, 01 Jan 1970 00:16:30 GMT", "age": "10"}, 0.0),
        ({"date": "Thu, 01 Jan 1970 00:17:40 GMT"}, 60.0),
        ({"date": "yesterday"}, None),
        ({"date": "Thu, 01 Jan 1970 00:16:40 GMT", "age": "old"}, None),
        ({}, None),
    ],
)
def test_the_clock_of_a_server_is_its_date_and_what_a_cache_adds(headers: dict[str, str], skew: float | None) -> None:
    assert skew_seconds(Answer("https://x.example", 200, headers, b"", is_whole=True), 1000.0) == skew


def test_a_document_of_a_thousand_levels_is_none() -> None:
    assert Answer("https://x.example", 200, {}, b"[" * 200_000, is_whole=True).document() is None
    assert Answer("https://x.example", 200, {}, b"[1]", is_whole=True).document() is None


async def looked_at(open_to: dict[str, str], name: str = "x.example", **more: object) -> dict[str, Outcome]:
    addresses = [("IPv6" if ":" in address else "IPv4", address) for address in open_to]
    host = reach.Host(f"https://{name}/mcp", name, 443, addresses, open_to, {})
    for key, value in more.items():
        setattr(host, key, value)
    return {check: (await look(host)).outcome for check, look in reach.CHECKS.items()}


async def test_an_address_that_is_shut_is_a_warning_where_others_are_open() -> None:
    outcomes = await looked_at({"192.0.2.1": "", "2001:db8::1": "refused"})
    assert outcomes["connection"] is Outcome.WARNING
    assert outcomes["dns"] is Outcome.OK


async def test_a_machine_without_ipv6_does_not_blame_the_server() -> None:
    outcomes = await looked_at({"192.0.2.1": "", "2001:db8::1": "no route from here"})
    assert outcomes["connection"] is Outcome.OK


async def test_a_name_with_ipv6_alone_is_a_warning() -> None:
    assert (await looked_at({"2001:db8::1": ""}))["dns"] is Outcome.WARNING


async def test_plain_http_off_this_machine_is_a_problem() -> None:
    outcomes = await looked_at({"192.0.2.1": ""}, url="http://x.example/mcp")
    assert outcomes["tls"] is Outcome.PROBLEM


async def test_what_was_not_reached_cannot_be_told() -> None:
    outcomes = await looked_at({})
    assert outcomes == {
        "dns": Outcome.PROBLEM,
        "connection": Outcome.UNKNOWN,
        "tls": Outcome.UNKNOWN,
        "certificate": Outcome.UNKNOWN,
    }


@pytest.mark.parametrize(
    ("status", "location", "outcome"),
    [
        (308, "https://x.example/mcp", Outcome.OK),
        (302, "http://x.example/login", Outcome.PROBLEM),
        (404, None, Outcome.OK),
        (401, None, Outcome.PROBLEM),
        (200, None, Outcome.PROBLEM),
    ],
)
def test_plain_http_may_refuse_or_send_on_to_https_and_nothing_else(
    status: int, location: str | None, outcome: Outcome
) -> None:
    headers = {"location": location} if location else {}
    assert judge_plain(Answer("http://x.example/mcp", status, headers, b"", is_whole=True)).outcome is outcome


async def test_plain_http_that_nobody_serves_is_what_is_hoped_for() -> None:
    async with Probe(2.0, 10.0, None) as probe:
        assert (await plain_http(Scene(Options("https://keystile-doctor.invalid/mcp"), probe))).outcome is Outcome.OK
        told = await plain_http(Scene(Options("https://keystile-doctor.invalid:8443/mcp"), probe))
        assert told.outcome is Outcome.UNKNOWN


@pytest.mark.parametrize("url", ["gopher://x.example", "http://me@x.example", "http://[x", "http:///x"])
async def test_only_plain_urls_of_http_are_asked(url: str) -> None:
    async with Probe(2.0, 10.0, None) as probe:
        with pytest.raises(NoAnswerError, match="URL"):
            await probe.ask("GET", url)


async def test_once_the_time_is_over_nothing_is_asked() -> None:
    async with Probe(2.0, 0.0, None) as probe:
        with pytest.raises(NoAnswerError, match="no time"):
            await probe.ask("GET", "http://127.0.0.1:1/")


REPORT = Report(
    "https://x.example/mcp",
    [
        Finding("dns", Outcome.OK, "It is there.", ""),
        Finding("challenge", Outcome.PROBLEM, "There is none. " * 20, "Send one."),
        Finding("token", Outcome.UNKNOWN, "It takes a token.", "Give one."),
    ],
    True,
    1.26,
)


def test_the_json_has_the_shape_that_is_documented() -> None:
    report = json.loads(as_json(REPORT))
    assert report.pop("findings")[0] == {"check": "dns", "outcome": "ok", "seen": "It is there.", "advice": None}
    assert report == {
        "format": 1,
        "url": "https://x.example/mcp",
        "outcome": "problem",
        "was_asked": True,
        "seconds": 1.3,
    }


def test_the_table_fits_the_terminal_and_is_coloured_there_alone() -> None:
    plain = as_table(REPORT, coloured=False, width=100)
    assert max(map(len, plain.splitlines())) <= 100
    assert plain.splitlines()[-1] == "1 ok, 0 warnings, 1 problem, 1 cannot be told, in 1.3 s."
    coloured = as_table(REPORT, coloured=True, width=100)
    assert "\x1b[1;31mPROBLEM" in coloured
    assert "\x1b" not in plain


def test_every_check_is_in_the_documentation() -> None:
    text = DOCUMENT.read_text()
    names = [*reach.CHECKS, *examination.BEFORE, "registration", *examination.AFTER]
    assert len(names) == len(set(names))
    assert [name for name in names if f"`{name}`" not in text] == []
