"""Client authentication (RFC 6749 section 2.3, RFC 7521, RFC 7523)."""

import base64
import json
import time
from typing import Any

import httpx2
import pytest
from joserfc import jws

from tests.auth_server import CALLBACK, RESOURCE, AuthServer, Pkce
from tests.client_key import ClientKey, key_set
from tests.document_host import DocumentHost
from tests.operator import Operator
from tests.person import Person

SIGNER = ClientKey.generate("ES256")
RSA_SIGNER = ClientKey.generate("RS256")


def assert_invalid_client(answer: httpx2.Response) -> None:
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), answer.text


def ask(server: AuthServer, auth: tuple[str, str] | None = None, **parameters: Any) -> httpx2.Response:
    """A request that proves who asks, for a code that was never issued: 400 when the proof holds, 401 when not."""
    return server.token(auth, grant_type="authorization_code", code="junk", **parameters)


def signing_client(server: AuthServer, **metadata: Any) -> str:
    keys = {} if "jwks_uri" in metadata else {"jwks": key_set(SIGNER)}
    return server.register(**{"token_endpoint_auth_method": "private_key_jwt", **keys, **metadata}).id


@pytest.mark.parametrize("registered", ["client_secret_basic", "client_secret_post"])
@pytest.mark.parametrize("used", ["header", "body"])
def test_a_secret_may_stand_in_header_or_body_whichever_was_registered(
    auth_server: AuthServer, registered: str, used: str
) -> None:
    client = auth_server.register(token_endpoint_auth_method=registered)
    assert client.secret is not None
    if used == "header":
        answer = ask(auth_server, (client.id, client.secret))
    else:
        answer = ask(auth_server, client_id=client.id, client_secret=client.secret)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_grant")


def test_id_and_secret_in_the_header_are_form_encoded(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    encoded = "".join(f"%{ord(character):02X}" for character in str(client.secret))
    assert ask(auth_server, (client.id, encoded)).status_code == 400


@pytest.mark.parametrize("secret", ["wrong", "", None])
def test_a_wrong_or_missing_secret_is_an_invalid_client(auth_server: AuthServer, secret: str | None) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert_invalid_client(ask(auth_server, client_id=client.id, client_secret=secret))
    if secret is not None:
        assert_invalid_client(ask(auth_server, (client.id, secret)))


def test_a_client_whose_registration_is_gone_is_told_to_register_again(auth_server: AuthServer) -> None:
    answer = ask(auth_server, client_id="kst_client_gone")
    assert_invalid_client(answer)
    assert "register again" in answer.json()["error_description"]


def test_a_401_names_the_scheme_that_a_client_may_use(auth_server: AuthServer) -> None:
    assert ask(auth_server, ("nobody", "x")).headers["www-authenticate"].startswith("Basic realm=")


def test_a_public_client_that_sends_a_secret_is_an_invalid_client(auth_server: AuthServer) -> None:
    client = auth_server.register()
    assert_invalid_client(ask(auth_server, client_id=client.id, client_secret="made-up"))
    assert_invalid_client(ask(auth_server, (client.id, "made-up")))


def test_a_client_that_authenticates_in_two_ways_is_an_invalid_request(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    assert client.secret is not None
    answer = ask(auth_server, (client.id, client.secret), client_secret=client.secret)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    answer = ask(auth_server, (client.id, client.secret), client_id="another")
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_a_request_without_any_client_is_an_invalid_client(auth_server: AuthServer) -> None:
    assert_invalid_client(ask(auth_server))


def test_a_confidential_client_redeems_its_code_with_its_secret_and_not_without(
    auth_server: AuthServer, person: Person
) -> None:
    client, pkce = auth_server.register(token_endpoint_auth_method="client_secret_post"), Pkce()
    code = auth_server.code(client.id, pkce, person)
    assert_invalid_client(auth_server.redeem(client.id, code, pkce))
    assert auth_server.redeem(client.id, code, pkce, client_secret=client.secret).status_code == 200


@pytest.mark.parametrize("way", ["code", "refresh token"])
def test_what_another_client_was_given_does_not_vouch_for_a_client(
    auth_server: AuthServer, person: Person, way: str
) -> None:
    client = auth_server.register()
    confidential = auth_server.register(token_endpoint_auth_method="client_secret_post")
    pkce = Pkce()
    code = auth_server.code(client.id, pkce, person)
    token = auth_server.tokens(client.id, person)["refresh_token"]
    for thief in (confidential.id, "nobody"):
        answer = auth_server.redeem(thief, code, pkce) if way == "code" else auth_server.refresh(thief, token)
        assert_invalid_client(answer)
    # Nothing of it is used up.
    rightful = auth_server.redeem(client.id, code, pkce) if way == "code" else auth_server.refresh(client.id, token)
    assert rightful.status_code == 200


@pytest.mark.parametrize("algorithm", ["ES256", "RS256", "PS256"])
def test_a_client_proves_itself_with_its_own_key(auth_server: AuthServer, person: Person, algorithm: str) -> None:
    signer = ClientKey.generate(algorithm)
    client = signing_client(auth_server, jwks=key_set(signer))
    pkce = Pkce()
    code = auth_server.code(client, pkce, person)
    data: dict[str, Any] = {"grant_type": "authorization_code", "code": code, "code_verifier": pkce.verifier}
    tokens = auth_server.token(**data, **signer.credentials(client, auth_server.issuer)).json()
    assert auth_server.is_active(tokens["access_token"])
    refreshed = auth_server.token(
        grant_type="refresh_token",
        refresh_token=tokens["refresh_token"],
        **signer.credentials(client, f"{auth_server.issuer}/token"),
    )
    assert refreshed.status_code == 200


def test_an_assertion_may_come_with_its_client_id_and_a_list_of_audiences(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    proof = SIGNER.credentials(client, "", aud=["https://other.example", auth_server.issuer])
    assert ask(auth_server, client_id=client, **proof).status_code == 400


def test_an_assertion_without_a_key_id_is_checked_with_each_key_that_fits(
    auth_server: AuthServer,
) -> None:
    only = signing_client(auth_server)
    assert ask(auth_server, **SIGNER.credentials(only, auth_server.issuer, kid=False)).status_code == 400
    second = ClientKey.generate("ES256")
    several = signing_client(auth_server, jwks=key_set(RSA_SIGNER, second, SIGNER))
    assert ask(auth_server, **SIGNER.credentials(several, auth_server.issuer)).status_code == 400
    assert ask(auth_server, **RSA_SIGNER.credentials(several, auth_server.issuer)).status_code == 400
    assert ask(auth_server, **SIGNER.credentials(several, auth_server.issuer, kid=False)).status_code == 400
    stranger = ClientKey.generate("ES256")
    assert_invalid_client(ask(auth_server, **stranger.credentials(several, auth_server.issuer, kid=False)))


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "another"},
        {"sub": "another"},
        {"iss": None},
        {"aud": "https://other.example"},
        {"aud": None},
        {"aud": [7]},
        {"exp": 1},
        {"exp": None},
        {"exp": "soon"},
        {"exp": int(time.time()) + 86400},
        {"nbf": int(time.time()) + 3600},
        {"nbf": "later"},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 257},
    ],
)
def test_an_assertion_with_a_wrong_or_missing_claim_is_an_invalid_client(
    auth_server: AuthServer, claims: dict[str, Any]
) -> None:
    client = signing_client(auth_server)
    proof = SIGNER.credentials(client, auth_server.issuer, **claims)
    assert_invalid_client(ask(auth_server, client_id=client, **proof))


def test_an_assertion_is_used_once(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    proof = SIGNER.credentials(client, auth_server.issuer)
    assert ask(auth_server, **proof).status_code == 400
    again = ask(auth_server, **proof)
    assert_invalid_client(again)
    assert "jti" in again.json()["error_description"]


def test_the_same_jti_of_another_client_is_another(auth_server: AuthServer) -> None:
    for client in (signing_client(auth_server), signing_client(auth_server)):
        assert ask(auth_server, **SIGNER.credentials(client, auth_server.issuer, jti="one")).status_code == 400


def test_an_assertion_by_another_key_is_an_invalid_client(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    other = ClientKey.generate("ES256")
    assert_invalid_client(ask(auth_server, **other.credentials(client, auth_server.issuer)))
    assert_invalid_client(ask(auth_server, **RSA_SIGNER.credentials(client, auth_server.issuer)))


def test_a_client_that_signs_may_not_come_with_less(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    assert_invalid_client(ask(auth_server, client_id=client))
    assert_invalid_client(ask(auth_server, (client, "x")))


def test_a_client_that_does_not_sign_may_not_come_with_an_assertion(auth_server: AuthServer) -> None:
    client = auth_server.register()
    assert_invalid_client(ask(auth_server, **SIGNER.credentials(client.id, auth_server.issuer)))


@pytest.mark.parametrize("assertion", ["junk", "a.b", "a.b.c.d.e", "x" * 9000, "e30.e30.x"])
def test_an_assertion_that_is_no_jwt_is_an_invalid_client(auth_server: AuthServer, assertion: str) -> None:
    client = signing_client(auth_server)
    proof = {**SIGNER.credentials(client, auth_server.issuer), "client_assertion": assertion}
    assert_invalid_client(ask(auth_server, client_id=client, **proof))


def test_an_assertion_whose_payload_is_no_object_is_an_invalid_client(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    assertion = jws.serialize_compact({"alg": "ES256", "kid": SIGNER.key.kid}, b"[]", SIGNER.key)
    proof = {**SIGNER.credentials(client, auth_server.issuer), "client_assertion": assertion}
    assert_invalid_client(ask(auth_server, client_id=client, **proof))


def test_keys_behind_a_jwks_uri_are_fetched_once_and_again_when_the_client_has_changed_them(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    old, new = ClientKey.generate("ES256"), ClientKey.generate("ES256")
    uri = document_host.serve(document_host.url("jwks.json"), key_set(old))
    client = signing_client(auth_server, jwks_uri=uri)
    for _ in range(3):
        assert ask(auth_server, **old.credentials(client, auth_server.issuer)).status_code == 400
    assert document_host.fetched(uri) == 1
    document_host.serve(uri, key_set(new))
    assert ask(auth_server, **new.credentials(client, auth_server.issuer)).status_code == 400
    assert document_host.fetched(uri) == 2
    # What was taken out of the set is worth nothing from then on.
    assert_invalid_client(ask(auth_server, **old.credentials(client, auth_server.issuer)))


def test_forged_assertions_make_us_ask_the_jwks_uri_ten_times_a_minute_at_most(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    uri = document_host.serve(document_host.url("jwks.json"), key_set(SIGNER))
    client = signing_client(auth_server, jwks_uri=uri)
    forger = ClientKey.generate("ES256")
    for _ in range(13):
        assert_invalid_client(ask(auth_server, **forger.credentials(client, auth_server.issuer)))
    assert document_host.fetched(uri) <= 10
    assert ask(auth_server, **SIGNER.credentials(client, auth_server.issuer)).status_code == 400


@pytest.mark.parametrize(
    "answer", [b"junk", b"[]", b'{"keys": 7}', b'{"keys": [{"kty": "oct", "k": "eA"}]}', b"[" * 9000]
)
def test_a_jwks_uri_that_gives_no_public_keys_is_an_invalid_client(
    auth_server: AuthServer, document_host: DocumentHost, answer: bytes
) -> None:
    uri = document_host.serve(document_host.url("jwks.json"), answer)
    client = signing_client(auth_server, jwks_uri=uri)
    assert_invalid_client(ask(auth_server, **SIGNER.credentials(client, auth_server.issuer)))


def test_a_jwks_uri_that_does_not_answer_is_an_invalid_client(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    client = signing_client(auth_server, jwks_uri=document_host.url("missing.json"))
    assert_invalid_client(ask(auth_server, **SIGNER.credentials(client, auth_server.issuer)))


def test_what_was_fetched_as_keys_is_never_taken_for_a_metadata_document(
    auth_server: AuthServer, document_host: DocumentHost
) -> None:
    # It has the form of what is kept of a document that was checked: an operator's client, no less.
    uri = document_host.url("jwks.json")
    forged = {
        **key_set(SIGNER),
        "id": uri,
        "name": "Forged",
        "source": "operator",
        "redirect_uris": [CALLBACK],
        "auth_methods": ["private_key_jwt"],
        "grant_types": ["client_credentials"],
        "client_uri": None,
        "jwks": key_set(SIGNER),
        "jwks_uri": None,
        "scopes": ["mcp:basic"],
        "resources": [RESOURCE],
        "secret_hash": None,
        "registration_token_hash": None,
        "issued": 0,
    }
    document_host.serve(uri, forged)
    client = signing_client(auth_server, jwks_uri=uri)
    assert ask(auth_server, **SIGNER.credentials(client, auth_server.issuer)).status_code == 400
    proof = SIGNER.credentials(uri, auth_server.issuer)
    answer = auth_server.token(grant_type="client_credentials", resource=RESOURCE, client_id=uri, **proof)
    assert_invalid_client(answer)


def test_an_operators_client_may_prove_itself_with_a_key_too(
    auth_server: AuthServer, operator: Operator, tmp_path: Any
) -> None:
    (tmp_path / "keys.json").write_text(json.dumps(key_set(SIGNER)))
    options = ["--auth-method", "private_key_jwt", "--jwks-file", str(tmp_path / "keys.json")]
    bounds = ["--resource", RESOURCE, "--scope", "mcp:basic"]
    client = operator.done("clients", "add", "Signer", *options, *bounds).value("client_id")
    proof = SIGNER.credentials(client, auth_server.issuer)
    assert auth_server.token(grant_type="client_credentials", resource=RESOURCE, **proof).status_code == 200


def test_client_authentication_is_the_same_at_the_revocation_endpoint(auth_server: AuthServer) -> None:
    client = signing_client(auth_server)
    url = f"{auth_server.issuer}/revoke"
    data = {"token": "x", **SIGNER.credentials(client, auth_server.issuer)}
    assert auth_server.http.post(url, data=data).status_code == 200
    assert_invalid_client(auth_server.http.post(url, data=data))
    assert_invalid_client(auth_server.http.post(url, data={"token": "x", "client_id": client}))


def test_a_header_that_is_not_basic_is_an_invalid_client(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    encoded = base64.b64encode(b"no colon").decode()
    for authorization in ("Bearer x", "Basic ???", f"Basic {encoded}"):
        answer = auth_server.http.post(
            f"{auth_server.issuer}/token",
            data={"grant_type": "authorization_code", "client_id": client.id},
            headers={"Authorization": authorization},
        )
        assert_invalid_client(answer)
