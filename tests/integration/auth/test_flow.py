"""The authorization code flow, whole (RFC 6749 section 4.1, RFC 7636, RFC 9207)."""

from urllib.parse import parse_qs, urlsplit

from tests.auth_server import RESOURCE, AuthServer, Pkce


def test_a_code_is_exchanged_for_an_access_token_that_introspects_as_active(auth_server: AuthServer) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id)
    answer = auth_server.introspect(tokens["access_token"])
    assert answer["active"] is True
    assert answer["aud"] == RESOURCE
    assert answer["iss"] == auth_server.issuer
    assert answer["client_id"] == client.id
    assert answer["scope"] == "mcp:basic"
    assert answer["exp"] - answer["iat"] == tokens["expires_in"] == 900


def test_state_comes_back_as_it_was_sent_and_iss_names_the_issuer_once(auth_server: AuthServer) -> None:
    client, state = auth_server.register(), "a b&c=ü%41"
    callback = auth_server.person().allow(auth_server.authorization_url(client.id, Pkce(), state=state))
    answer = parse_qs(urlsplit(callback).query)
    assert answer["state"] == [state]
    assert answer["iss"] == [auth_server.issuer]


def test_a_refresh_token_is_rotated_and_revoking_it_ends_every_token_of_the_grant(
    auth_server: AuthServer,
) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert auth_server.is_active(second["access_token"])
    data = {"token": second["refresh_token"], "client_id": client.id}
    assert auth_server.http.post(f"{auth_server.issuer}/revoke", data=data).status_code == 200
    assert not auth_server.is_active(first["access_token"])
    assert not auth_server.is_active(second["access_token"])


def test_a_denied_request_answers_access_denied_to_the_client(auth_server: AuthServer) -> None:
    client = auth_server.register()
    callback = auth_server.person().decide(auth_server.authorization_url(client.id, Pkce()), "deny")
    answer = parse_qs(urlsplit(callback).query)
    assert answer["error"] == ["access_denied"]
    assert "code" not in answer
