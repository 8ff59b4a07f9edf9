"""Requests that no client would send: each gets a plain refusal, none a 5xx, a stack or another's header."""

import json
import logging
import re
import socket
import time
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.auth_server import RESOURCE_SECRET, AuthServer, Pkce, RegisteredClient

FORM_ENDPOINTS = ["/token", "/revoke", "/introspect", "/login", "/consent", "/account/sign-out"]
GET_ENDPOINTS = ["/authorize", "/login", "/consent", "/account", "/jwks", "/.well-known/oauth-authorization-server"]
ALL_ENDPOINTS = [*dict.fromkeys([*FORM_ENDPOINTS, *GET_ENDPOINTS, "/register", "/register/x", "/healthz", "/readyz"])]
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture(scope="module")
def client(auth_server: AuthServer) -> RegisteredClient:
    return auth_server.register()


def raw(server: AuthServer, request: bytes) -> tuple[int, bytes]:
    """Send bytes as they are; answers the status (0: the connection was closed) and everything that came back."""
    parts = urlsplit(server.issuer)
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    match = re.match(rb"HTTP/1\.1 (\d{3})", answer)
    return (int(match[1]) if match else 0), answer


def is_plain_refusal(answer: Any) -> bool:
    text = answer.text
    return 400 <= answer.status_code < 500 and "Traceback" not in text and 'File "' not in text


@pytest.mark.parametrize("path", [*FORM_ENDPOINTS, "/register"])
def test_a_body_over_64_kib_is_413_whether_it_says_its_length_or_not(auth_server: AuthServer, path: str) -> None:
    body = b"a=" + b"x" * 70_000

    def chunks() -> Any:
        for start in range(0, len(body), 10_000):
            yield body[start : start + 10_000]

    for content in (body, chunks()):
        answer = auth_server.http.post(f"{auth_server.issuer}{path}", content=content, headers=FORM)
        expected = {413} if path != "/register" else {413, 400}  # 400: refused for its content type, unread
        assert answer.status_code in expected, answer.text


@pytest.mark.parametrize("path", ALL_ENDPOINTS)
def test_headers_over_16_kib_are_431_and_a_query_over_8_kib_is_414(auth_server: AuthServer, path: str) -> None:
    answer = auth_server.http.get(f"{auth_server.issuer}{path}", headers={"X-Padding": "x" * 17_000})
    assert answer.status_code == 431
    answer = auth_server.http.get(f"{auth_server.issuer}{path}?{'x' * 9_000}")
    assert answer.status_code == 414


@pytest.mark.parametrize(
    "content_type",
    [None, "", "text/plain", "application/json", "multipart/form-data; boundary=x", "application/xml", "\xff", ";"],
)
@pytest.mark.parametrize("path", FORM_ENDPOINTS)
def test_a_body_of_another_type_is_refused(auth_server: AuthServer, path: str, content_type: str | None) -> None:
    headers = {"Content-Type": content_type.encode("latin-1")} if content_type is not None else {}
    answer = auth_server.http.post(
        f"{auth_server.issuer}{path}",
        content=b'{"grant_type":"authorization_code"}',
        headers=headers,  # type: ignore[arg-type]
    )
    assert answer.status_code == 400


HOSTILE_FORMS = [
    b"",
    b"&&&&",
    b"=",
    b"=&=&=",
    b"%",
    b"%zz=%zz",
    b"grant_type=%ff%fe",
    b"grant_type=\xff\xfe",
    b"grant_type=%00",
    b"grant_type=a%00b",
    b"grant_type=%0d%0aSet-Cookie:%20evil=1",
    b"grant_type=%ed%a0%80",
    b"grant_type=%f0%9f%94%a5",
    b"client_id=%ed%b3%bf&grant_type=x",
    b"&".join(b"p%d=x" % n for n in range(1000)),
    b"grant_type=x&grant_type=x",
    b"a" * 60_000,
    b"client_id=" + b"x" * 50_000,
    b"token=" + b"kst_at_" * 5_000,
    b"csrf=%c3%bc",
    "grant_type=ü".encode(),
    "grant_type=ü".encode("utf-16"),
]


@pytest.mark.parametrize("body", HOSTILE_FORMS, ids=lambda body: repr(body[:24]))
@pytest.mark.parametrize("path", FORM_ENDPOINTS)
def test_a_hostile_form_is_refused(auth_server: AuthServer, path: str, body: bytes) -> None:
    answer = auth_server.http.post(f"{auth_server.issuer}{path}", content=body, headers=FORM)
    assert is_plain_refusal(answer), answer.text
    assert "set-cookie" not in answer.headers or "evil" not in answer.headers["set-cookie"]


@pytest.mark.parametrize("name", ["grant_type", "client_id", "code", "redirect_uri", "resource", "scope", "token"])
@pytest.mark.parametrize("path", ["/token", "/revoke", "/introspect"])
def test_a_parameter_given_twice_is_refused_by_name(auth_server: AuthServer, path: str, name: str) -> None:
    answer = auth_server.http.post(f"{auth_server.issuer}{path}", content=f"{name}=a&{name}=b", headers=FORM)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")
    assert name in answer.json()["error_description"]


HOSTILE_DOCUMENTS = [
    b"",
    b"null",
    b"[]",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b'{"a":1}\x00',
    b"[" * 60_000,
    b'{"a":' * 10_000,
    b'{"a":NaN}',
    b'{"redirect_uris":["https://a.example/"],"client_name":"\\ud800"}',
    b'{"redirect_uris":["https://a.example/\\ud800"]}',
    b'{"redirect_uris":["https://a.example/"],"redirect_uris":["javascript:alert(1)"]}',
    b'{"redirect_uris":["https://a.example/"],"client_name":{"a":1}}',
    b'{"redirect_uris":["https://a.example/"],"client_name":"' + b"x" * 5000 + b'"}',
    b'{"redirect_uris":["https://a.example/"],"client_name":"a\\u202eb"}',
    b'{"redirect_uris":["https://a.example/"],"client_name":"a\\u0000b"}',
    b'{"redirect_uris":{"0":"https://a.example/"}}',
    b'{"redirect_uris":[1]}',
    b'{"redirect_uris":[]}',
    b'{"redirect_uris":"https://a.example/"}',
    b'{"redirect_uris":["https://a.example/"],"grant_types":"x"}',
    b'{"redirect_uris":["https://a.example/"],"token_endpoint_auth_method":["none"]}',
    b'{"redirect_uris":["https://a.example/"],"jwks":[]}',
    b'{"redirect_uris":["https://a.example/"],"jwks":{"keys":{}}}',
    b'{"redirect_uris":["https://a.example/"],"jwks":{"keys":[1]},"token_endpoint_auth_method":"private_key_jwt"}',
    b'{"redirect_uris":["https://a.example/"],"client_uri":"https://[::1"}',
    b'{"redirect_uris":["https://a.example/"],"client_uri":"javascript:alert(1)"}',
    b'{"redirect_uris":["https://a.example/"],"jwks_uri":"file:///etc/passwd"}',
    b'{"redirect_uris":["https://a.example/"],"jwks_uri":"http://a.example/"}',
    b'{"redirect_uris":' + json.dumps([f"https://a.example/{n}" for n in range(100)]).encode() + b"}",
    b'{"redirect_uris":["https://a.example/"],"jwks":{"keys":[{"kty":"EC","x":1e999}]}}',
    b'{"redirect_uris":["https://a.example/"],"jwks":{"keys":[{"kty":"EC","x":' + b"[" * 500 + b"]" * 500 + b"}]}}",
    b'{"redirect_uris":["https://a.example/"],"client_name":"x","n":' + b"9" * 5000 + b"}",
]


@pytest.mark.parametrize("body", HOSTILE_DOCUMENTS, ids=lambda body: repr(body[-40:]))
def test_a_hostile_registration_is_refused(auth_server: AuthServer, body: bytes) -> None:
    answer = auth_server.http.post(
        f"{auth_server.issuer}/register", content=body, headers={"Content-Type": "application/json"}
    )
    assert is_plain_refusal(answer), answer.text
    assert answer.json()["error"] in {"invalid_client_metadata", "invalid_redirect_uri", "invalid_request"}


@pytest.mark.parametrize(
    "uri",
    [
        "javascript:alert(1)",
        "JavaScript:alert(1)",
        "java\tscript:alert(1)",
        " javascript:alert(1)",
        "data:text/html,x",
        "vbscript:x",
        "file:///etc/passwd",
        "blob:https://a.example/x",
        "about:blank",
        "ftp://a.example/",
        "http://a.example/",
        "http://127.0.0.1.a.example/",
        "http://localhost.a.example/",
        "http://127.0.0.2/",
        "https://a.example/#fragment",
        "https://*.example/",
        "https://a.example/*",
        "https://user@a.example/",
        "https://user:secret@a.example/",
        "https://a.example\\@b.example/",
        "https:///path",
        "https:a.example",
        "//a.example/",
        "/relative",
        "",
        "https://a.example/ x",
        "https://ä.example/",
        "https://a.example:99999/",
        "https://a.example/\r\nx",
        "cursor",
        "Cursor://x",
        "unknown-app:/callback",
    ],
)
def test_cve_2026_67333_a_redirect_uri_that_could_run_or_mislead_is_not_registered(
    auth_server: AuthServer, uri: str
) -> None:
    document = {"redirect_uris": [uri], "token_endpoint_auth_method": "none"}
    answer = auth_server.http.post(f"{auth_server.issuer}/register", json=document)
    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_redirect_uri")


@pytest.mark.parametrize(
    "client_id",
    [
        "ü",
        "🔥",
        "x" * 2000,
        "../x",
        "kst_client_",
        "*",
        "ks:user:x",
        "a b",
        "https:",
        "https://",
        "https://[",
        "http:x",
    ],
)
def test_a_hostile_client_id_is_an_unknown_client(auth_server: AuthServer, client_id: str) -> None:
    answer = auth_server.token(grant_type="client_credentials", client_id=client_id)
    assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
    answer = auth_server.http.get(auth_server.authorization_url(client_id, Pkce()))
    assert answer.status_code == 400


@pytest.mark.parametrize(
    "header",
    [
        "Basic",
        "Basic !!!!",
        "Basic eA==",
        "Basic //79",
        "Basic " + "QUFB" * 2000,
        "Basic Og==",
        "Bearer x",
        "Digest x",
        "basic AAA6AAA=",
        "Basic " + "JTAwOg==",
        "Basic JWVkJWEwJTgwOng=",
    ],
)
def test_a_hostile_authorization_header_is_401(auth_server: AuthServer, header: str) -> None:
    for path, data in (("/token", {"grant_type": "client_credentials"}), ("/introspect", {"token": "x"})):
        answer = auth_server.http.post(f"{auth_server.issuer}{path}", data=data, headers={"Authorization": header})
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["www-authenticate"].startswith("Basic realm=")


HOSTILE_REQUESTS = [
    b"GET /authorize?client_id=\xff\xfe HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /authorize?\xc3\xbc HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /authorize?client_id=x HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET /authorize?client_id=x HTTP/1.1\r\nHost: [::1]:99999\r\n\r\n",
    b"GET /authorize?client_id=x HTTP/1.1\r\nHost: \xff\r\n\r\n",
    b"GET /authorize?client_id=x HTTP/1.1\r\nHost:\r\n\r\n",
    b"GET /authorize?client_id=x HTTP/1.0\r\n\r\n",
    b"GET /consent?request=\xff HTTP/1.1\r\nHost: [\r\n\r\n",
    b"GET /account HTTP/1.1\r\nHost: [\r\nCookie: \xff=\xff; ;;=;\r\n\r\n",
    b"GET /login HTTP/1.1\r\nHost: evil.example@x\r\n\r\n",
    b"GET /%ff%fe/%00 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /register/%00%0a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\r\n\r\n",
    b"GET /register/%ed%a0%80 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET http://evil.example/login HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /static/../../settings.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /static/%2e%2e/%2e%2e/settings.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /static/..%5c..%5csettings.py HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: [\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /token HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    b"POST /introspect HTTP/1.1\r\nHost: x\r\nAuthorization: Basic \xff\xff\r\nContent-Length: 7\r\n\r\ntoken=x",
    b"POST /login HTTP/1.1\r\nHost: [\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: x\r\ntraceparent: \xff\r\ntracestate: \xff\r\n\r\n",
    b"GET /readyz HTTP/1.1\r\nHost: x\r\ntraceparent: 00-zz-zz-01\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00",
    b"\x00" * 100,
]


@pytest.mark.parametrize("request_bytes", HOSTILE_REQUESTS, ids=lambda each: repr(each[:48]))
def test_a_request_that_is_hardly_http_never_ends_in_a_5xx_or_a_stack(
    auth_server: AuthServer, request_bytes: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR):
        status, answer = raw(auth_server, request_bytes.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n", 1))
    assert status < 500, answer
    assert b"Traceback" not in answer
    assert b"evil.example" not in answer
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert b"MASTER_KEY_BYTES" not in answer


ALLOWED = {
    "/authorize": {"GET"}, "/token": {"POST"}, "/introspect": {"POST"}, "/revoke": {"POST"}, "/register": {"POST"},
    "/login": {"GET", "POST"}, "/consent": {"GET", "POST"}, "/consent/switch-user": {"POST"}, "/account": {"GET"},
    "/account/end-connection": {"POST"}, "/account/sign-out": {"POST"}, "/jwks": {"GET"}, "/healthz": {"GET"},
    "/readyz": {"GET"}, "/.well-known/oauth-authorization-server": {"GET"},
    "/register/x": {"GET", "PUT", "DELETE"},
}  # fmt: skip


@pytest.mark.parametrize("path", ALLOWED)
def test_other_methods_are_405(auth_server: AuthServer, path: str) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - ALLOWED[path]:
        answer = auth_server.http.request(method, f"{auth_server.issuer}{path}")
        assert answer.status_code == 405, method
        assert set(answer.headers["allow"].split(", ")) - {"HEAD", "OPTIONS"} <= ALLOWED[path]


@pytest.mark.parametrize("path", ["/token", "/introspect", "/revoke", "/register", "/register/x"])
def test_no_answer_of_a_protocol_endpoint_may_be_kept(auth_server: AuthServer, path: str) -> None:
    for method in ("GET", "POST", "DELETE"):
        answer = auth_server.http.request(method, f"{auth_server.issuer}{path}")
        assert answer.headers["cache-control"] == "no-store"
    answer = auth_server.http.post(
        f"{auth_server.issuer}/introspect", data={"token": "x"}, auth=("mcp", RESOURCE_SECRET)
    )
    assert answer.headers["cache-control"] == "no-store"


def test_a_program_gets_json_from_protocol_endpoints_whatever_it_says_it_accepts(auth_server: AuthServer) -> None:
    """Some HTTP libraries ask for text/html by default; RFC 6749 section 5.2 knows JSON only."""
    for path in ("/token", "/revoke", "/introspect", "/register"):
        answer = auth_server.http.post(
            f"{auth_server.issuer}{path}", headers={"Accept": "text/html, image/gif, *; q=.2", **FORM}
        )
        assert answer.headers["content-type"] == "application/json"
        assert "error" in answer.json()


SPOOFED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Port": "1",
    "X-Forwarded-Prefix": "/evil.example",
    "X-Forwarded-Uri": "/evil.example",
    "X-Forwarded-User": "admin",
    "X_Forwarded_User": "admin",
    "X-Real-IP": "203.0.113.7",
    "X-Original-URL": "/account",
    "X-Rewrite-URL": "/account",
    "X-HTTP-Method-Override": "DELETE",
    "Forwarded": "for=203.0.113.7;host=evil.example;proto=https",
    "Remote-User": "admin",
}


@pytest.mark.parametrize("header", SPOOFED)
def test_cve_2025_64484_and_2026_40575_a_spoofed_header_has_no_effect(
    auth_server: AuthServer, client: RegisteredClient, header: str
) -> None:
    headers = {header: SPOOFED[header]}
    for place in ("/.well-known/oauth-authorization-server", "/.well-known/openid-configuration", "/login"):
        plain = auth_server.http.get(f"{auth_server.issuer}{place}")
        spoofed = auth_server.http.get(f"{auth_server.issuer}{place}", headers=headers)
        assert spoofed.status_code == plain.status_code == 200
        assert "evil.example" not in spoofed.text + str(spoofed.headers)
        if place != "/login":
            assert spoofed.content == plain.content
    answer = auth_server.http.get(auth_server.authorization_url(client.id, Pkce()), headers=headers)
    assert answer.headers["location"].startswith("/login?request=")
    answer = auth_server.http.get(f"{auth_server.issuer}/account", headers=headers)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    registered = auth_server.http.post(
        f"{auth_server.issuer}/register", json={"redirect_uris": ["https://a.example/"]}, headers=headers
    )
    assert registered.json()["registration_client_uri"].startswith(auth_server.issuer)
    assert auth_server.events("client.registered")[-1]["actor"]["ip"] == "127.0.0.1"


def test_a_slow_client_does_not_hold_up_the_others(auth_server: AuthServer) -> None:
    parts = urlsplit(auth_server.issuer)
    connections = [socket.create_connection((parts.hostname, parts.port)) for _ in range(100)]
    try:
        for connection in connections:
            connection.sendall(b"POST /token HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\ngrant")
        started = time.monotonic()
        assert auth_server.http.get(f"{auth_server.issuer}/healthz").status_code == 200
        assert time.monotonic() - started < 5
    finally:
        for connection in connections:
            connection.close()
