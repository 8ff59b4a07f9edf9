"""However an introspection request is written, and whether its resource was known, the answer is the same."""

import base64
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import httpx2
import pytest

from keystile_auth.app import MAX_BODY_BYTES
from tests.auth_server import OTHER_SECRET, RESOURCE_SECRET, AuthServer
from tests.security.concurrency import at_once

FORM = "application/x-www-form-urlencoded"


def basic(name: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


RIGHT = basic("mcp", RESOURCE_SECRET)


@pytest.fixture(scope="module")
def token(auth_server: AuthServer) -> str:
    return str(auth_server.tokens(auth_server.register().id)["access_token"])


def ask(server: AuthServer, content: str | Iterator[bytes], **headers: str | None) -> httpx2.Response:
    sent = {"Authorization": RIGHT, "Content-Type": FORM, **{k.replace("_", "-"): v for k, v in headers.items()}}
    present = {name: value for name, value in sent.items() if value is not None}
    return server.http.post(f"{server.issuer}/introspect", content=content, headers=present)


def shape(answer: httpx2.Response) -> Any:
    headers = [(name, value) for name, value in answer.headers.raw if name.lower() != b"date"]
    return answer.status_code, headers, answer.content


def test_every_spelling_of_a_request_gets_the_same_bytes_and_headers(auth_server: AuthServer, token: str) -> None:
    first = shape(ask(auth_server, f"token={token}"))
    assert first[0] == 200
    assert b'"active":true' in first[2]
    spellings = [
        f"token={token}",
        f"token={token}&token_type_hint=access_token",
        f"token_type_hint=refresh_token&token={token}",
        f"token={quote(token[0], safe='')}{''.join(f'%{ord(c):02x}' for c in token[1:5])}{token[5:]}",
        f"client_id=mcp&token={token}",
        f"token={token}&unknown=1",
    ]
    for each in spellings:
        assert shape(ask(auth_server, each)) == first, each
    assert shape(ask(auth_server, f"token={token}", Content_Type=f"{FORM}; charset=utf-8")) == first
    assert shape(ask(auth_server, iter([b"tok", b"en=", token.encode()]))) == first
    posted = f"token={token}&client_id=mcp&client_secret={RESOURCE_SECRET}"
    assert shape(ask(auth_server, posted, Authorization=None)) == first


def test_a_right_secret_before_opens_nothing_to_a_wrong_one(auth_server: AuthServer, token: str) -> None:
    assert ask(auth_server, f"token={token}").status_code == 200
    wrong = [
        basic("mcp", RESOURCE_SECRET + "x"), basic("mcp", OTHER_SECRET), basic("other", RESOURCE_SECRET),
        RIGHT[:-4], "Bearer " + RIGHT[6:], "",
    ]  # fmt: skip
    for each in wrong:
        failures = len(auth_server.events("client.authentication"))
        answer = ask(auth_server, f"token={token}", Authorization=each)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client"), each
        assert answer.headers["www-authenticate"] == 'Basic realm="/introspect"'
        # What is no HTTP Basic at all names nobody, so there is nobody to record.
        assert len(auth_server.events("client.authentication")) in {failures, failures + 1}


@pytest.mark.parametrize(
    "body",
    ["", "token=", "token={0}&token={0}", "token={0}&client_secret=x", "token={0}%00", "token={0}&client_id=other"],
)
def test_a_known_resource_is_parsed_as_strictly(auth_server: AuthServer, token: str, body: str) -> None:
    assert ask(auth_server, f"token={token}").status_code == 200
    answer = ask(auth_server, body.format(token))
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("content_type", ["application/json", "", None])
def test_a_known_resource_must_send_a_form(auth_server: AuthServer, token: str, content_type: str | None) -> None:
    assert ask(auth_server, f"token={token}").status_code == 200
    assert ask(auth_server, f"token={token}", Content_Type=content_type).status_code == 400


def test_a_known_resource_may_not_send_two_headers(auth_server: AuthServer, token: str) -> None:
    assert ask(auth_server, f"token={token}").status_code == 200
    headers = [("Authorization", RIGHT), ("Authorization", RIGHT), ("Content-Type", FORM)]
    answer = auth_server.http.post(f"{auth_server.issuer}/introspect", content=f"token={token}", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


@pytest.mark.parametrize("in_pieces", [False, True])
def test_a_body_that_is_too_large_is_refused(auth_server: AuthServer, token: str, in_pieces: bool) -> None:
    assert ask(auth_server, f"token={token}").status_code == 200
    body = f"token={token}&x={'y' * MAX_BODY_BYTES}"
    assert ask(auth_server, iter([body[:9].encode(), body[9:].encode()]) if in_pieces else body).status_code == 413


def test_a_resource_that_hangs_up_in_the_middle_harms_nobody(auth_server: AuthServer, token: str) -> None:
    to = urlsplit(auth_server.issuer)
    for sent in (f"token={token[:9]}", ""):
        with socket.create_connection((str(to.hostname), to.port or 80)) as connection:
            head = f"POST /introspect HTTP/1.1\r\nHost: a\r\nAuthorization: {RIGHT}\r\nContent-Type: {FORM}\r\n"
            connection.sendall(f"{head}Content-Length: 62\r\n\r\n{sent}".encode())
    assert auth_server.is_active(token)


def test_every_request_is_counted_once_by_its_result(auth_server: AuthServer, token: str) -> None:
    def counted(result: str) -> float:
        name = "keystile_introspection_requests_total"
        return auth_server.metrics.registry.get_sample_value(name, {"result": result}) or 0.0

    results = ("active", "inactive", "unauthorized", "invalid", "error")
    before = [counted(each) for each in results]
    ask(auth_server, f"token={token}")
    ask(auth_server, f"token={token[:-1]}A")
    ask(auth_server, f"token={token}", Authorization=basic("mcp", "x"))
    ask(auth_server, "")
    assert [counted(each) - was for each, was in zip(results, before, strict=True)] == [1, 1, 1, 1, 0]


def test_hundreds_at_once_are_all_answered(auth_server: AuthServer, token: str) -> None:
    # Server and clients share one process here, which coverage slows down; `make bench` asks on 512 connections.
    answers = at_once(f"{auth_server.issuer}/introspect", {"token": token}, 256, auth=("mcp", RESOURCE_SECRET))
    assert {answer.status for answer in answers} == {200}
    assert all(answer.body["active"] for answer in answers)
