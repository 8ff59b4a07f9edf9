"""What each action leaves behind: its audit event, with actor and outcome, and its metric."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keystile_auth.store import embedded
from tests.auth_server import OTHER_SECRET, PASSWORD, RESOURCE, RESOURCE_SECRET, AuthServer, Pkce, running_auth_server
from tests.document_host import DocumentHost
from tests.operator import Operator
from tests.person import Person, form


def value(server: AuthServer, name: str, **labels: str) -> float:
    return server.metrics.registry.get_sample_value(f"keystile_{name}", labels) or 0.0


@contextmanager
def counted(server: AuthServer, name: str, by: int = 1, **labels: str) -> Iterator[None]:
    """What is done inside moves a metric by `by`."""
    before = value(server, name, **labels)
    yield
    assert value(server, name, **labels) - before == by, (name, labels)


@contextmanager
def recorded(server: AuthServer, *kinds: str) -> Iterator[list[dict[str, Any]]]:
    """What is done inside leaves events of these types, in this order; they are in the list afterwards."""
    before, events = len(server.events()), list[dict[str, Any]]()
    yield events
    events.extend(server.events()[before:])
    assert [event["type"] for event in events] == list(kinds)
    for event in events:
        assert event["actor"]["ip"] == "127.0.0.1"
        assert event["id"]
        assert event["time"].endswith("Z")


def subject(server: AuthServer, person: Person) -> str:
    tokens = server.tokens(server.register().id, person)
    return str(server.introspect(tokens["access_token"])["sub"])


def test_events_are_chained(auth_server: AuthServer, person: Person) -> None:
    auth_server.tokens(auth_server.register().id, person)
    events = auth_server.events()
    assert [event["sequence"] for event in events] == list(range(1, len(events) + 1))


def test_a_registration(auth_server: AuthServer) -> None:
    labels: dict[str, Any] = {"source": "registration", "outcome": "registered"}
    with (
        counted(auth_server, "client_registrations_total", **labels),
        recorded(auth_server, "client.registered") as events,
    ):
        client = auth_server.register()
    assert events[0]["outcome"] == "success"
    assert events[0]["actor"]["client_id"] == client.id


def test_a_refused_registration(auth_server: AuthServer) -> None:
    labels: dict[str, Any] = {"source": "registration", "outcome": "refused"}
    with (
        counted(auth_server, "client_registrations_total", **labels),
        recorded(auth_server, "client.registered") as events,
    ):
        auth_server.http.post(f"{auth_server.issuer}/register", json={})
    assert events[0]["outcome"] == "failure"
    assert events[0]["reason"].startswith("invalid_redirect_uri: ")


def test_an_update_and_a_deletion_of_a_client(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    auth_server.tokens(client.id, person)
    headers = {"Authorization": f"Bearer {client.registration_token}"}
    document = {"client_id": client.id, "redirect_uris": ["https://app.example.com/cb"]}
    with recorded(auth_server, "client.updated", "client.deleted") as events:
        auth_server.http.put(client.registration_uri, headers=headers, json=document)
        with counted(auth_server, "token_revocations_total", reason="client_deleted"):
            auth_server.http.delete(client.registration_uri, headers=headers)
    assert {event["actor"]["client_id"] for event in events} == {client.id}


def test_sign_in_consent_code_and_tokens(auth_server: AuthServer) -> None:
    person, client, pkce = auth_server.person(), auth_server.register(), Pkce()
    with (
        counted(auth_server, "logins_total", identity="local", outcome="success"),
        counted(auth_server, "authorization_requests_total", outcome="granted", error=""),
        recorded(auth_server, "user.login", "consent", "code.issued") as events,
    ):
        code = auth_server.code(client.id, pkce, person)
    sub = events[0]["actor"]["sub"]
    assert sub.startswith("user_")
    for event in events:
        assert event["outcome"] == "success"
        assert event["actor"] == {"sub": sub, "client_id": client.id, "ip": "127.0.0.1"}
    assert events[2]["reason"] == "asked"
    assert events[2]["target"].items() >= {"resource": RESOURCE, "scope": "mcp:basic"}.items()
    grant_type = "authorization_code"
    with (
        counted(auth_server, "token_requests_total", grant_type=grant_type, outcome="success", error=""),
        counted(auth_server, "token_request_duration_seconds_count", grant_type=grant_type),
        counted(auth_server, "tokens_issued_total", token_type="access_token", grant_type=grant_type),
        counted(auth_server, "tokens_issued_total", token_type="refresh_token", grant_type=grant_type),
        recorded(auth_server, "token.issued") as issued,
    ):
        tokens = auth_server.redeem(client.id, code, pkce).json()
    assert issued[0]["actor"] == {"sub": sub, "client_id": client.id, "ip": "127.0.0.1"}
    assert issued[0]["target"]["grant"] == events[2]["target"]["grant"]
    with (
        counted(auth_server, "token_requests_total", grant_type="refresh_token", outcome="success", error=""),
        recorded(auth_server, "token.refreshed") as refreshed,
    ):
        auth_server.refresh(client.id, tokens["refresh_token"])
    assert refreshed[0]["actor"] == issued[0]["actor"]


def test_a_consent_that_was_remembered(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    auth_server.tokens(client.id, person)
    with recorded(auth_server, "code.issued") as events:
        auth_server.code(client.id, Pkce(), person)
    assert events[0]["reason"] == "remembered"


def test_a_consent_that_was_denied(auth_server: AuthServer, person: Person) -> None:
    sub, client = subject(auth_server, person), auth_server.register()
    labels: dict[str, Any] = {"outcome": "denied", "error": "access_denied"}
    with counted(auth_server, "authorization_requests_total", **labels), recorded(auth_server, "consent") as events:
        person.decide(auth_server.authorization_url(client.id, Pkce()), "deny")
    assert events[0]["outcome"] == "denied"
    assert events[0]["actor"]["sub"] == sub


def test_a_request_that_is_not_valid(auth_server: AuthServer) -> None:
    client = auth_server.register()
    with (
        counted(auth_server, "authorization_requests_total", outcome="error", error="invalid_target"),
        recorded(auth_server, "access.denied") as events,
    ):
        auth_server.http.get(auth_server.authorization_url(client.id, Pkce(), resource=None))
    assert events[0]["outcome"] == "denied"
    assert events[0]["actor"]["client_id"] == client.id
    with (
        counted(auth_server, "authorization_requests_total", outcome="error", error="invalid_client"),
        recorded(auth_server, "access.denied") as unknown,
    ):
        auth_server.http.get(auth_server.authorization_url("x" * 500, Pkce()))
    assert unknown[0]["actor"]["client_id"] == "x" * 200


def test_a_wrong_password_and_neither_it_nor_the_name_is_kept(auth_server: AuthServer) -> None:
    person = auth_server.person("perhaps-a-password")
    page = person.get(f"{auth_server.issuer}/login")
    with (
        counted(auth_server, "logins_total", identity="local", outcome="failure"),
        recorded(auth_server, "user.login") as events,
    ):
        person.submit(form(page, "/login"), username="perhaps-a-password", password=PASSWORD)
    assert events[0]["outcome"] == "failure"
    assert events[0]["actor"]["sub"] is None
    assert "perhaps-a-password" not in str(events)


def test_signing_out(auth_server: AuthServer) -> None:
    person = auth_server.person()
    sub = subject(auth_server, person)
    for path, reason in (("/account/sign-out", "user"), ("/account/sign-out-everywhere", "everywhere")):
        page = person.get(f"{auth_server.issuer}/account")
        page = person.sign_in(page) if "/login" in str(page.url) else page
        with recorded(auth_server, "user.logout") as events:
            person.submit(form(page, path))
        assert (events[0]["actor"]["sub"], events[0]["reason"]) == (sub, reason)


def test_ending_a_connection(auth_server: AuthServer) -> None:
    person, client = auth_server.person(), auth_server.register()
    auth_server.tokens(client.id, person)
    page = person.get(f"{auth_server.issuer}/account")
    with (
        counted(auth_server, "token_revocations_total", reason="user"),
        recorded(auth_server, "grant.ended") as events,
    ):
        person.submit(form(page, "/end-connection"))
    assert events[0]["actor"]["client_id"] == client.id
    assert events[0]["target"]["resource"] == RESOURCE


def test_a_revocation(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    tokens = auth_server.tokens(client.id, person)
    for kind in ("access_token", "refresh_token"):
        with (
            counted(auth_server, "token_revocations_total", reason="client"),
            recorded(auth_server, "token.revoked") as events,
        ):
            data = {"token": tokens[kind], "client_id": client.id}
            auth_server.http.post(f"{auth_server.issuer}/revoke", data=data)
        assert events[0]["actor"]["client_id"] == client.id
        assert tokens[kind] not in str(events)


def test_a_code_used_twice(auth_server: AuthServer, person: Person) -> None:
    client, pkce = auth_server.register(), Pkce()
    code = auth_server.code(client.id, pkce, person)
    auth_server.redeem(client.id, code, pkce)
    with (
        counted(auth_server, "token_revocations_total", reason="code_reuse"),
        recorded(auth_server, "code.reuse_detected") as events,
    ):
        auth_server.redeem(client.id, code, pkce)
    assert events[0]["outcome"] == "denied"
    assert events[0]["actor"]["sub"].startswith("user_")
    assert events[0]["actor"]["client_id"] == client.id


def test_a_refresh_token_used_twice(auth_server: AuthServer, person: Person) -> None:
    client = auth_server.register()
    first = auth_server.tokens(client.id, person)
    second = auth_server.refresh(client.id, first["refresh_token"]).json()
    auth_server.refresh(client.id, second["refresh_token"])
    with (
        counted(auth_server, "refresh_token_reuse_detected_total"),
        counted(auth_server, "token_revocations_total", reason="refresh_token_reuse"),
        recorded(auth_server, "refresh_token.reuse_detected") as events,
    ):
        auth_server.refresh(client.id, first["refresh_token"])
    assert events[0]["outcome"] == "denied"


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        ({"grant_type": "authorization_code", "code": "junk"}, "invalid_grant"),
        ({"grant_type": "refresh_token", "refresh_token": "junk"}, "invalid_grant"),
        ({"grant_type": "client_credentials"}, "unauthorized_client"),
    ],
)
def test_a_token_request_that_is_refused(auth_server: AuthServer, parameters: dict[str, Any], error: str) -> None:
    client = auth_server.register()
    labels: dict[str, Any] = {"grant_type": parameters["grant_type"], "outcome": "error", "error": error}
    with counted(auth_server, "token_requests_total", **labels), recorded(auth_server, "access.denied") as events:
        auth_server.token(client_id=client.id, **parameters)
    assert events[0]["outcome"] == "denied"
    assert events[0]["actor"]["client_id"] == client.id
    assert events[0]["reason"].startswith(f"{error}: ")


def test_a_grant_type_that_a_stranger_made_up_is_no_label(auth_server: AuthServer) -> None:
    labels: dict[str, Any] = {"grant_type": "unknown", "outcome": "error", "error": "unsupported_grant_type"}
    with counted(auth_server, "token_requests_total", **labels):
        auth_server.token(client_id=auth_server.register().id, grant_type="made-up")


def test_a_client_that_does_not_prove_who_it_is(auth_server: AuthServer) -> None:
    client = auth_server.register(token_endpoint_auth_method="client_secret_basic")
    with (
        counted(auth_server, "client_auth_failures_total", method="client_secret_basic"),
        recorded(auth_server, "client.authentication") as events,
    ):
        auth_server.token((client.id, "wrong"), grant_type="authorization_code", code="x")
    assert events[0]["outcome"] == "failure"
    assert events[0]["actor"]["client_id"] == client.id
    with counted(auth_server, "client_auth_failures_total", method="none"):
        auth_server.http.post(f"{auth_server.issuer}/revoke", data={"client_id": "nobody", "token": "x"})


def test_client_credentials(auth_server: AuthServer, operator: Operator) -> None:
    machine = operator.machine()
    labels: dict[str, Any] = {"token_type": "access_token", "grant_type": "client_credentials"}
    with counted(auth_server, "tokens_issued_total", **labels), recorded(auth_server, "token.issued") as events:
        auth_server.token(machine, grant_type="client_credentials", resource=RESOURCE)
    assert events[0]["actor"] == {"sub": machine[0], "client_id": machine[0], "ip": "127.0.0.1"}


def test_introspection_by_its_result(auth_server: AuthServer, person: Person) -> None:
    token = auth_server.tokens(auth_server.register().id, person)["access_token"]
    url, mine = f"{auth_server.issuer}/introspect", ("mcp", RESOURCE_SECRET)
    with counted(auth_server, "introspection_requests_total", result="active"):
        auth_server.http.post(url, data={"token": token}, auth=mine)
    with counted(auth_server, "introspection_requests_total", by=2, result="inactive"):
        auth_server.http.post(url, data={"token": token}, auth=("other", OTHER_SECRET))
        auth_server.http.post(url, data={"token": "junk"}, auth=mine)
    with (
        counted(auth_server, "introspection_requests_total", result="unauthorized"),
        recorded(auth_server, "client.authentication") as events,
    ):
        auth_server.http.post(url, data={"token": token}, auth=("mcp", "wrong"))
    assert events[0]["actor"]["client_id"] == "mcp"
    with (
        counted(auth_server, "introspection_requests_total", result="invalid"),
        counted(auth_server, "introspection_duration_seconds_count"),
    ):
        auth_server.http.post(url, data={}, auth=mine)


def test_the_very_first_start_makes_a_key_and_says_so() -> None:
    with (
        # A short path: a unix socket's name has a hundred characters at most.
        tempfile.TemporaryDirectory(prefix="ks-") as folder,
        embedded.run(Path(folder)) as new_store,
        running_auth_server(new_store) as server,
    ):
        (event,) = server.events("key.created")
        assert event["target"]["kid"] == server.http.get(f"{server.issuer}/jwks").json()["keys"][0]["kid"]


def test_a_document_client_signs_in_like_any_other(auth_server: AuthServer, document_host: DocumentHost) -> None:
    client, person = document_host.client(), auth_server.person()
    with recorded(auth_server, "user.login", "consent", "code.issued", "token.issued") as events:
        auth_server.tokens(client, person)
    assert {event["actor"]["client_id"] for event in events} == {client}
