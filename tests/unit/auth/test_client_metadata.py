"""Client metadata that a stranger sent (RFC 7591 section 2)."""

import json
from typing import Any

import pytest

from keystile_auth.clients import metadata
from keystile_auth.clients.client import Client, Source
from keystile_auth.clients.metadata import ClientMetadata
from keystile_auth.errors import OAuthError

REDIRECT = "https://app.example.com/cb"
EC_KEY = {"kty": "EC", "crv": "P-256", "x": "A" * 43, "y": "A" * 43}


def check(**document: Any) -> ClientMetadata:
    return metadata.check({"redirect_uris": [REDIRECT], **document}, ["cursor"], ("client_secret_basic",))


def refusal(**document: Any) -> OAuthError:
    with pytest.raises(OAuthError) as raised:
        check(**document)
    return raised.value


def test_what_is_left_out_has_the_defaults_of_the_specification() -> None:
    checked = check()
    assert checked.name == "app.example.com"
    assert checked.redirect_uris == (REDIRECT,)
    assert checked.grant_types == ("authorization_code",)
    assert checked.auth_methods == ("client_secret_basic",)
    assert (checked.client_uri, checked.jwks, checked.jwks_uri) == (None, None, None)


def test_what_is_unknown_is_ignored() -> None:
    assert check(software_statement="x", scope=7, contacts=None, logo_uri="http://internal/") == check()


@pytest.mark.parametrize("uris", [None, [], "https://app.example.com/cb", [7], [REDIRECT, "http://evil.example/"]])
def test_redirect_uris_must_be_a_list_of_uris_that_may_be_registered(uris: Any) -> None:
    assert refusal(redirect_uris=uris).code == "invalid_redirect_uri"


def test_the_refusal_of_a_redirect_uri_names_which_one_it_is() -> None:
    assert "number 2," in refusal(redirect_uris=[REDIRECT, "javascript:alert(1)"]).description


def test_at_most_twenty_redirect_uris_may_be_registered() -> None:
    uris = [f"{REDIRECT}/{number}" for number in range(21)]
    assert len(check(redirect_uris=uris[:20]).redirect_uris) == 20
    assert refusal(redirect_uris=uris).code == "invalid_redirect_uri"


def test_a_redirect_uri_given_twice_is_kept_once() -> None:
    assert check(redirect_uris=[REDIRECT, REDIRECT]).redirect_uris == (REDIRECT,)


def test_grant_types_that_no_user_stands_behind_are_left_out() -> None:
    listed = [
        "client_credentials",
        "refresh_token",
        "urn:ietf:params:oauth:grant-type:jwt-bearer",
        "authorization_code",
    ]
    assert check(grant_types=listed).grant_types == ("authorization_code", "refresh_token")


@pytest.mark.parametrize("grants", [["client_credentials"], ["refresh_token"], ["implicit"], "authorization_code", [1]])
def test_grant_types_must_be_a_list_with_authorization_code(grants: Any) -> None:
    assert refusal(grant_types=grants).code == "invalid_client_metadata"


@pytest.mark.parametrize("responses", [["token"], [], "code", {"code": 1}])
def test_response_types_must_be_a_list_with_code(responses: Any) -> None:
    assert refusal(response_types=responses).code == "invalid_client_metadata"


def test_response_types_with_code_among_them_are_taken() -> None:
    assert check(response_types=["code", "code id_token"]) == check()


def test_the_authentication_method_is_the_one_named() -> None:
    assert check(token_endpoint_auth_method="none").auth_methods == ("none",)


def test_the_methods_of_the_plural_parameter_stand_in_for_a_missing_singular() -> None:
    methods = ["private_key_jwt", "none", "none"]
    assert check(token_endpoint_auth_methods_supported=methods).auth_methods == ("private_key_jwt", "none")
    both = check(token_endpoint_auth_method="none", token_endpoint_auth_methods_supported=methods)
    assert both.auth_methods == ("none",)


@pytest.mark.parametrize("method", [7, ["none"], True])
def test_the_authentication_method_must_be_a_string(method: Any) -> None:
    assert refusal(token_endpoint_auth_method=method).code == "invalid_client_metadata"


def test_private_key_jwt_needs_keys() -> None:
    assert refusal(token_endpoint_auth_method="private_key_jwt").code == "invalid_client_metadata"
    keys = {"keys": [EC_KEY]}
    assert check(token_endpoint_auth_method="private_key_jwt", jwks=keys).jwks == keys
    uri = "https://app.example.com/jwks"
    assert check(token_endpoint_auth_method="private_key_jwt", jwks_uri=uri).jwks_uri == uri


def test_jwks_and_jwks_uri_must_not_both_be_given() -> None:
    assert refusal(jwks={"keys": []}, jwks_uri="https://app.example.com/jwks").code == "invalid_client_metadata"


@pytest.mark.parametrize("jwks", [[], "x", {}, {"keys": {}}, {"keys": None}, {"keys": ["x"]}, {"keys": [7]}])
def test_jwks_must_be_a_key_set(jwks: Any) -> None:
    assert refusal(jwks=jwks).code == "invalid_client_metadata"


@pytest.mark.parametrize("secret", [{"kty": "oct", "k": "c2VjcmV0"}, {**EC_KEY, "d": "A" * 43}])
def test_jwks_must_not_show_a_private_or_shared_key(secret: dict[str, str]) -> None:
    assert "public" in refusal(jwks={"keys": [EC_KEY, secret]}).description


@pytest.mark.parametrize("name", ["client_uri", "jwks_uri"])
@pytest.mark.parametrize(
    "uri",
    [
        7,
        "app.example.com",
        "https://",
        "ftp://app.example.com/",
        "javascript:alert(1)",
        "https://user@app.example.com/",
        "https://[::1",
        "https://app.example.com/\ud800",
        "https://app.example.com/a b",
    ],
)
def test_an_address_must_be_https_without_user_or_password(name: str, uri: Any) -> None:
    assert refusal(**{name: uri}).code == "invalid_client_metadata"


def test_an_empty_address_counts_as_left_out() -> None:
    assert check(client_uri="", jwks_uri="") == check()


def test_keys_are_fetched_by_https_only_though_a_page_may_be_plain_http() -> None:
    assert check(client_uri="http://app.example.com/").client_uri == "http://app.example.com/"
    assert refusal(jwks_uri="http://app.example.com/jwks").code == "invalid_client_metadata"


@pytest.mark.parametrize(
    "name",
    [
        7,
        "a\nb",
        "a\x00b",
        "a\x7fb",
        "a\x85b",
        "bank\u202emoc",
        "a\u200bb",
        "a\u2066b",
        "a\ufeffb",
        "a\u061cb",
        "a\u2028b",
        "a\u2029b",
        "a\u00adb",
        "a\U000e0041b",
        "a\ud800b",
        "x" * 201,
    ],
)
def test_a_name_must_read_as_it_is_written(name: Any) -> None:
    assert refusal(client_name=name).code == "invalid_client_metadata"


@pytest.mark.parametrize("name", ["Claude", "Zoë’s Werkzeug & <b>Co</b>", "道具箱", "كلود", "🔧 Tools"])
def test_a_name_in_any_script_is_taken(name: str) -> None:
    assert check(client_name=f" {name} ").name == name


def test_a_name_of_nothing_is_replaced() -> None:
    assert check(client_name="  ").name == "An application"
    assert check(redirect_uris=["cursor:callback"]).name == "An application"


def test_a_client_reads_back_from_the_store_as_it_was_put() -> None:
    client = Client(
        id="kst_client_1",
        name="Werkzeug",
        source=Source.OPERATOR,
        redirect_uris=(REDIRECT,),
        auth_methods=("private_key_jwt",),
        grant_types=("client_credentials",),
        jwks={"keys": [EC_KEY]},
        scopes=("read",),
        resources=("https://mcp.example.com",),
        issued=1,
    )
    assert Client.from_json(client.to_json()) == client
    unbounded = Client(id="kst_client_2", name="x", source=Source.REGISTRATION)
    assert Client.from_json(unbounded.to_json()) == unbounded
    assert json.loads(unbounded.to_json())["scopes"] is None


def test_only_the_host_of_a_metadata_document_speaks_for_its_client() -> None:
    document = Client(id="https://app.example.com/client.json", name="x", source=Source.METADATA_DOCUMENT)
    assert document.verified_host == "app.example.com"
    registered = Client(id="kst_client_1", name="x", source=Source.REGISTRATION, client_uri="https://bank.example/")
    assert (registered.verified_host, registered.host) == (None, "bank.example")
