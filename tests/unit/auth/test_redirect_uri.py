"""Redirect URIs: which may be registered, which a request may name (RFC 9700 section 2.1, RFC 8252 section 7)."""

from urllib.parse import urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.clients.redirect_uri import is_loopback, match, problem

SCHEMES = ["cursor"]
WEB = "https://app.example.com/callback"
LOOPBACK = "http://127.0.0.1/cb"
PORTS = st.integers(min_value=1, max_value=65535)


@pytest.mark.parametrize(
    "uri",
    [
        WEB,
        "https://app.example.com:8443/callback?tenant=7",
        "https://[2001:db8::1]/callback",
        LOOPBACK,
        "http://127.0.0.1:3000",
        "http://[::1]:3000/cb",
        "http://localhost:3000/cb",
        "cursor://anysphere.cursor-retrieval/oauth/callback",
    ],
)
def test_an_https_a_loopback_and_a_known_private_use_uri_may_be_registered(uri: str) -> None:
    assert problem(uri, SCHEMES) is None


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "callback",
        "//app.example.com/cb",
        "https:///cb",
        "https:app.example.com",
        "http://app.example.com/cb",
        "http://127.0.0.1.evil.example/cb",
        "http://127.0.0.2/cb",
        "http://127.1/cb",
        "http://0.0.0.0/cb",
        "http://[::ffff:127.0.0.1]/cb",
        "http://localhost.evil.example/cb",
        "http://127.0.0.1:0/cb",
        "http://127.0.0.1:65536/cb",
        "http://127.0.0.1:1@evil.example/cb",
        "https://user@app.example.com/cb",
        "https://user:password@app.example.com/cb",
        "https://@app.example.com/cb",
        "https://app.example.com/cb#fragment",
        "https://app.example.com/cb#",
        "https://*.example.com/cb",
        "https://app.example.com/*",
        "https://app.example.com\\@evil.example/cb",
        "https://app.example.com/a b",
        "https://app.example.com/cb\n",
        "https://app.example.com/ü",
        "https://app.example.com:99999/cb",
        "https://[::1/cb",
        'https://app.example.com/"cb',
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "data:text/html,x",
        "file:///etc/passwd",
        "vscode://unknown/cb",
        "https://app.example.com/" + "a" * 2048,
    ],
)
def test_no_other_uri_may_be_registered(uri: str) -> None:
    assert problem(uri, SCHEMES) is not None


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
def test_a_uri_whose_query_already_has_a_parameter_of_the_answer_may_not_be_registered(name: str) -> None:
    assert problem(f"https://app.example.com/cb?{name}=x", SCHEMES) is not None
    assert problem(f"https://app.example.com/cb?a=1&{name}", SCHEMES) is not None
    assert problem(f"https://app.example.com/cb?my{name}=x", SCHEMES) is None


@pytest.mark.parametrize(
    "requested",
    [
        WEB + "/",
        WEB + "/more",
        WEB + "?a=1",
        WEB + "?",
        WEB + "#x",
        WEB + "#",
        WEB + " ",
        WEB.upper(),
        "https://APP.example.com/callback",
        "HTTPS://app.example.com/callback",
        "http://app.example.com/callback",
        "https://app.example.com:443/callback",
        "https://app.example.com./callback",
        "https://app.example.com/Callback",
        "https://app.example.com/%63allback",
        "https://app.example.com/a/../callback",
        "https://app.example.com/a/%2e%2e/callback",
        "https://app.example.com//callback",
        "https://app.example.com@evil.example/callback",
        "https://evil.example/callback",
        "https://user@app.example.com/callback",
        "https://app.example.com%2eevil.example/callback",
        "https://app.example.com.evil.example/callback",
        "",
    ],
)
def test_a_requested_uri_must_be_the_registered_text(requested: str) -> None:
    assert match(WEB, [WEB])
    assert not match(requested, [WEB])


@given(PORTS)
def test_the_port_of_a_loopback_uri_floats(port: int) -> None:
    for host in ("127.0.0.1", "[::1]", "localhost"):
        assert match(f"http://{host}:{port}/cb", [f"http://{host}/cb"])
        assert match(f"http://{host}/cb", [f"http://{host}:{port}/cb"])


@given(PORTS)
def test_the_port_of_any_other_uri_does_not_float(port: int) -> None:
    assert not match(f"https://app.example.com:{port}/callback", [WEB])
    assert not match(f"https://127.0.0.1:{port}/cb", ["https://127.0.0.1/cb"])


@pytest.mark.parametrize(
    "requested",
    [
        "http://127.0.0.1:1@evil.example/cb",
        "http://127.0.0.1:51234@evil.example/cb",
        "http://127.0.0.1:/cb",
        "http://127.0.0.1:0/cb",
        "http://127.0.0.1:65536/cb",
        "http://127.0.0.1:123456/cb",
        "http://127.0.0.1:-1/cb",
        "http://127.0.0.1:+80/cb",
        "http://127.0.0.1:８０/cb",
        "http://127.0.0.1:80/cb/",
        "http://127.0.0.1:80/CB",
        "http://127.0.0.1:80/cb?x=1",
        "http://127.0.0.1:80/cb#x",
        "http://127.0.0.1:80/x/../cb",
        "http://127.0.0.1:80/%63b",
        "http://127.0.0.1:80\\@evil.example/cb",
        "http://127.0.0.1:80.evil.example/cb",
        "http://user@127.0.0.1:80/cb",
        "http://localhost:80/cb",
        "http://[::1]:80/cb",
        "http://127.0.0.2:80/cb",
        "https://127.0.0.1:80/cb",
        "http://127.0.0.1:80/cb\n",
    ],
)
def test_nothing_but_the_port_of_a_loopback_uri_floats(requested: str) -> None:
    assert not match(requested, [LOOPBACK])


@given(st.text(), st.sampled_from([WEB, LOOPBACK, "http://[::1]:9/cb?x=1"]))
def test_whatever_is_put_behind_or_in_front_of_a_registered_uri_makes_it_another(text: str, registered: str) -> None:
    if text:
        assert not match(registered + text, [registered])
        assert not match(text + registered, [registered])


@given(st.text(alphabet="htp:/@127.0.1[]localsevi#?%\\", max_size=40))
def test_what_matches_a_loopback_registration_goes_to_that_host(text: str) -> None:
    for candidate in (text, f"http://127.0.0.1{text}", f"http://127.0.0.1:{text}"):
        if match(candidate, [LOOPBACK]):
            assert urlsplit(candidate).hostname == "127.0.0.1"
            assert urlsplit(candidate).username is None
            assert urlsplit(candidate).path == "/cb"


def test_a_loopback_uri_is_one_that_a_program_on_the_users_machine_receives() -> None:
    assert is_loopback("http://[::1]:8/cb")
    assert is_loopback("http://localhost/cb")
    assert not is_loopback("https://localhost/cb")
    assert not is_loopback(WEB)
