"""Reading requests strictly: forms, queries, JSON bodies, client credentials."""

import base64
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from keystile_auth.clients.authentication import JWT_BEARER
from keystile_auth.endpoints.parameters import (
    authorization_of,
    bearer_token,
    form,
    ip_of,
    json_object,
    parse,
    presented_credentials,
    single,
)
from keystile_auth.errors import OAuthError

FORM = "application/x-www-form-urlencoded"
VISIBLE = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1)


def request(body: bytes = b"", **headers: str) -> Request:
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    return Request({"type": "http", "method": "POST", "headers": pairs, "path": "/", "query_string": b""}, receive)


def sent(**headers: str) -> list[str]:
    """What `presented_credentials` gets of a request with these headers."""
    return authorization_of(request(b"", **headers))


def basic(text: str) -> str:
    return "Basic " + base64.b64encode(text.encode()).decode()


@given(st.dictionaries(VISIBLE, VISIBLE, max_size=20))
def test_what_was_encoded_is_what_is_read(values: dict[str, str]) -> None:
    assert single(parse(urlencode(values))) == values


@given(st.text(alphabet="ab=&+%2041cCäZ;", max_size=40))
def test_a_query_is_split_as_the_url_standard_library_splits_it(text: str) -> None:
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict")
    except UnicodeDecodeError:
        with pytest.raises(OAuthError, match="UTF-8"):
            parse(text)
        return
    if any(ord(character) < 32 for pair in pairs for each in pair for character in each):
        with pytest.raises(OAuthError, match="control character"):
            parse(text)
        return
    values, repeated = parse(text)
    first = dict(reversed(pairs))
    assert values == {name: value for name, value in first.items() if value}
    assert repeated == {name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1}


def test_a_parameter_without_a_value_counts_as_left_out() -> None:
    assert parse("a=&b&c=1") == ({"c": "1"}, set())


@pytest.mark.parametrize("text", ["a=1&a=1", "a=1&a=2", "a=&a=1", "a=1&%61=2", "a&a"])
def test_a_parameter_that_comes_twice_is_refused_by_name(text: str) -> None:
    with pytest.raises(OAuthError, match="the parameter a must be given once") as raised:
        single(parse(text))
    assert raised.value.code == "invalid_request"


@pytest.mark.parametrize(
    "text", ["a=%FF", "a=%C3", "a=%00", "a=x%0Ay", "a%0D=1", "&".join(f"p{n}=1" for n in range(51))]
)
def test_too_many_parameters_other_encodings_and_control_characters_are_refused(text: str) -> None:
    with pytest.raises(OAuthError) as raised:
        parse(text)
    assert raised.value.code == "invalid_request"


async def test_a_form_is_read_whatever_the_case_and_parameters_of_its_content_type() -> None:
    read = await form(request(b"a=1", content_type="Application/X-WWW-Form-URLencoded; charset=UTF-8"))
    assert read == {"a": "1"}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": 1}', "application/json"),
        (b"a=1", "text/plain"),
        (b"a=1", ""),
        (b"a=1", "multipart/form-data; boundary=x"),
        ("a=ü".encode(), FORM),
    ],
)
async def test_a_body_that_is_not_a_form_is_an_invalid_request(body: bytes, content_type: str) -> None:
    with pytest.raises(OAuthError) as raised:
        await form(request(body, content_type=content_type))
    assert raised.value.code == "invalid_request"


async def test_a_json_object_is_read() -> None:
    assert await json_object(request(b'{"a": [1]}', content_type="application/json; charset=utf-8")) == {"a": [1]}


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"a": 1}', FORM),
        (b"", "application/json"),
        (b"[]", "application/json"),
        (b'"a"', "application/json"),
        (b'{"a": 1, "a": 2}', "application/json"),
        (b'{"b": {"a": 1, "a": 2}}', "application/json"),
        (b'{"a": NaN}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"[" * 60_000, "application/json"),
        (b'{"a": "\\ud800"}', "application/json"),
        (b'{"a": ' + b"9" * 5000 + b"}", "application/json"),
    ],
)
async def test_a_body_that_is_not_one_plain_json_object_is_invalid_metadata(body: bytes, content_type: str) -> None:
    with pytest.raises(OAuthError) as raised:
        await json_object(request(body, content_type=content_type))
    assert raised.value.code == "invalid_client_metadata"


@given(VISIBLE, VISIBLE)
def test_basic_carries_form_encoded_id_and_secret(client_id: str, secret: str) -> None:
    authorization = basic(f"{quote(client_id, safe='')}:{quote(secret, safe='')}")
    presented = presented_credentials(sent(authorization=authorization), {})
    assert (presented.method, presented.client_id, presented.secret) == ("client_secret_basic", client_id, secret)
    assert presented_credentials(sent(authorization=authorization), {"client_id": client_id}) == presented


def test_a_body_carries_id_and_secret() -> None:
    presented = presented_credentials(sent(), {"client_id": "c", "client_secret": "s"})
    assert (presented.method, presented.client_id, presented.secret) == ("client_secret_post", "c", "s")


def test_an_id_alone_is_a_public_client() -> None:
    presented = presented_credentials(sent(), {"client_id": "c"})
    assert (presented.method, presented.client_id, presented.secret) == ("none", "c", None)


def test_an_assertion_names_its_client_by_sub_where_client_id_is_left_out() -> None:
    payload = base64.urlsafe_b64encode(b'{"sub": "c"}').rstrip(b"=").decode()
    parameters = {"client_assertion": f"x.{payload}.y", "client_assertion_type": JWT_BEARER}
    presented = presented_credentials(sent(), parameters)
    assert (presented.method, presented.client_id) == ("private_key_jwt", "c")
    assert presented_credentials(sent(), {**parameters, "client_id": "other"}).client_id == "other"


@pytest.mark.parametrize(
    "assertion", ["x", "x.e30.y", "x.W10.y", "x.eyJzdWIiOjd9.y", "x.eyJzdWIiOiIifQ.y", "x.ü.y", "..."]
)
def test_an_assertion_that_names_no_client_is_an_invalid_client(assertion: str) -> None:
    parameters = {"client_assertion": assertion, "client_assertion_type": JWT_BEARER}
    with pytest.raises(OAuthError) as raised:
        presented_credentials(sent(), parameters)
    assert raised.value.code == "invalid_client"


@pytest.mark.parametrize("kind", [None, "urn:ietf:params:oauth:client-assertion-type:saml2-bearer"])
def test_an_assertion_of_another_type_is_an_invalid_request(kind: str | None) -> None:
    parameters = {"client_assertion": "x", **({"client_assertion_type": kind} if kind else {})}
    with pytest.raises(OAuthError) as raised:
        presented_credentials(sent(), parameters)
    assert raised.value.code == "invalid_request"


@pytest.mark.parametrize(
    "parameters",
    [
        {"client_secret": "s"},
        {"client_assertion": "a"},
        {"client_id": "other"},
        {"client_id": "c", "client_secret": "s"},
    ],
)
def test_a_client_must_not_authenticate_in_two_ways_at_once(parameters: dict[str, str]) -> None:
    with pytest.raises(OAuthError) as raised:
        presented_credentials(sent(authorization=basic("c:s")), parameters)
    assert raised.value.code == "invalid_request"


@pytest.mark.parametrize(
    "authorization", ["Bearer x", "Basic", "Basic !!!", basic("no-colon"), "Basic /w==", "", "Digest username=c"]
)
def test_an_authorization_header_that_is_not_basic_is_an_invalid_client(authorization: str) -> None:
    with pytest.raises(OAuthError) as raised:
        presented_credentials(sent(authorization=authorization), {"client_id": "c"})
    assert raised.value.code == "invalid_client"


def test_a_request_without_any_credentials_is_an_invalid_client() -> None:
    with pytest.raises(OAuthError) as raised:
        presented_credentials(sent(), {"client_secret": "s"})
    assert raised.value.code == "invalid_client"


def test_credentials_do_not_show_themselves_when_they_are_printed() -> None:
    presented = presented_credentials(sent(authorization=basic("c:s3cret")), {})
    assert "s3cret" not in repr(presented)


@pytest.mark.parametrize(
    ("authorization", "token"),
    [("Bearer abc", "abc"), ("bearer  abc ", "abc"), ("Basic abc", None), ("Bearer", ""), ("", None)],
)
def test_a_bearer_token_is_read_from_its_header(authorization: str, token: str | None) -> None:
    assert bearer_token(request(authorization=authorization)) == token


def test_a_request_from_nowhere_has_no_address() -> None:
    assert ip_of(request()) == ""
