"""An OpenID provider on a loopback port whose every answer a test may change; it serves GitHub's addresses too."""

import base64
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, quote, unquote_plus, urlencode, urlsplit

import httpx2

from tests.auth_server import AuthServer
from tests.client_key import ClientKey
from tests.person import Person, form, forms

CLIENT_ID = "keystile"
CLIENT_SECRET = "upstream-secret-" + "z" * 24

Handed = tuple[int, Any]


@dataclass
class OpenIdProvider:
    """The provider. `claims` are of the account that is signed in there; what a test changes holds at once."""

    issuer: str
    key: ClientKey = field(default_factory=ClientKey.generate)
    claims: dict[str, Any] = field(default_factory=lambda: {"sub": "ada", "preferred_username": "ada"})
    id_token_changes: dict[str, Any] = field(default_factory=dict)
    userinfo: dict[str, Any] | None = None
    organisations: list[Any] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    published: list[dict[str, Any]] | None = None
    sign: Callable[[dict[str, Any]], str] | None = None
    answers: dict[str, Handed] = field(default_factory=dict)
    callback_changes: dict[str, str | None] = field(default_factory=dict)
    is_gone: bool = False
    gives_refresh_tokens: bool = True
    fetches: Counter[str] = field(default_factory=Counter)
    refreshed: list[str] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    refresh_tokens: set[str] = field(default_factory=set)

    def settings(self, **changes: Any) -> dict[str, Any]:
        """What Keystile is told of it."""
        return {
            "kind": "oidc",
            "issuer": self.issuer,
            "client_id": CLIENT_ID,
            "client_secret": CLIENT_SECRET,
            **changes,
        }

    def authorize(self, parameters: dict[str, str]) -> str:
        """Answer an authorization request at once, as somebody would who is signed in already."""
        self.asked.append(parameters)
        code = secrets.token_urlsafe(16)
        self.codes[code] = parameters
        answer: dict[str, str | None] = {"code": code, "state": parameters["state"], "iss": self.issuer}
        answer |= self.callback_changes
        query = urlencode({name: value for name, value in answer.items() if value is not None})
        return f"{parameters['redirect_uri']}?{query}"

    def token(self, parameters: dict[str, str], authorization: str) -> Handed:
        """Answer a token request as strictly as a provider should."""
        if not self._knows_client(parameters, authorization):
            return 401, {"error": "invalid_client"}
        if "refresh_token" in parameters:
            token = parameters["refresh_token"]
            self.refreshed.append(token)
            if self.is_gone or token not in self.refresh_tokens:
                return 400, {"error": "invalid_grant"}
            self.refresh_tokens.discard(token)
            return 200, self._tokens(None)
        asked = self.codes.pop(parameters.get("code", ""), None)
        if asked is None or parameters.get("redirect_uri") != asked["redirect_uri"]:
            return 400, {"error": "invalid_grant"}
        digest = hashlib.sha256(parameters.get("code_verifier", "").encode()).digest()
        if base64.urlsafe_b64encode(digest).rstrip(b"=").decode() != asked["code_challenge"]:
            return 400, {"error": "invalid_grant"}
        return 200, self._tokens(asked.get("nonce"))

    def signed(self, claims: dict[str, Any]) -> str:
        """An ID token of these claims."""
        return self.key.sign({"alg": self.key.algorithm, "kid": self.key.key.kid}, claims)

    def id_claims(self, nonce: str | None) -> dict[str, Any]:
        """The claims of an ID token as they should be."""
        now = int(time.time())
        own = {"iss": self.issuer, "aud": CLIENT_ID, "iat": now, "exp": now + 300, "nonce": nonce}
        claims = {**own, **self.claims, **self.id_token_changes}
        return {name: value for name, value in claims.items() if value is not None}

    def _tokens(self, nonce: str | None) -> dict[str, Any]:
        access_token = secrets.token_urlsafe(16)
        answer: dict[str, Any] = {"access_token": access_token, "token_type": "Bearer", "expires_in": 300}
        answer["id_token"] = (self.sign or self.signed)(self.id_claims(nonce))
        if self.gives_refresh_tokens:
            token = secrets.token_urlsafe(16)
            self.refresh_tokens.add(token)
            answer["refresh_token"] = token
        return answer

    def _knows_client(self, parameters: dict[str, str], authorization: str) -> bool:
        if authorization.startswith("Basic "):
            name, _, secret = base64.b64decode(authorization[6:]).decode().partition(":")
            return (unquote_plus(name), unquote_plus(secret)) == (CLIENT_ID, CLIENT_SECRET)
        return (parameters.get("client_id"), parameters.get("client_secret")) == (CLIENT_ID, CLIENT_SECRET)

    def answer(self, method: str, path: str, parameters: dict[str, str], authorization: str) -> Handed:
        """What is answered to anything but an authorization request."""
        self.fetches[path] += 1
        if path in self.answers:
            return self.answers[path]
        match method, path:
            case "GET", "/.well-known/openid-configuration":
                return 200, self._discovery()
            case "GET", "/jwks":
                return 200, {"keys": [self.key.public] if self.published is None else self.published}
            case "POST", "/token" | "/login/oauth/access_token":
                return self.token(parameters, authorization)
            case "GET", "/userinfo" | "/api/v3/user":
                if self.is_gone or not authorization.startswith("Bearer "):
                    return 401, {"error": "invalid_token"}
                return 200, self.claims if self.userinfo is None else self.userinfo
            case "GET", "/api/v3/user/orgs":
                return 200, self.organisations
            case _:
                return 404, {}

    def _discovery(self) -> dict[str, Any]:
        names = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks",
                 "userinfo_endpoint": "userinfo"}  # fmt: skip
        endpoints = {name: f"{self.issuer}/{path}" for name, path in names.items()}
        return {"issuer": self.issuer, **endpoints, **self.metadata}


class _Handler(BaseHTTPRequestHandler):
    provider: OpenIdProvider

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        parameters = dict(parse_qsl(parts.query))
        if parts.path in {"/authorize", "/login/oauth/authorize"}:
            self.send_response(302)
            self.send_header("Location", self.provider.authorize(parameters))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self._send(self.provider.answer("GET", parts.path, parameters, self.headers.get("Authorization", "")))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
        authorization = self.headers.get("Authorization", "")
        self._send(self.provider.answer("POST", urlsplit(self.path).path, dict(parse_qsl(body)), authorization))

    def _send(self, answer: Handed) -> None:
        status, content = answer
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        if 300 <= status < 400:
            self.send_header("Location", f"{self.provider.issuer}/elsewhere?{quote('x')}")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up on a body too long is no error of a test."""


@contextmanager
def running_openid_provider() -> Iterator[OpenIdProvider]:
    """Run a provider while the block runs."""
    handler = type("Handler", (_Handler,), {})
    with _Server(("127.0.0.1", 0), handler) as server:
        provider = OpenIdProvider(f"http://127.0.0.1:{server.server_address[1]}")
        handler.provider = provider  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield provider
        finally:
            server.shutdown()
            thread.join(timeout=5)


def choose(person: Person, page: httpx2.Response, identity: str) -> httpx2.Response:
    """Press the button of an identity on the sign-in page."""
    found = [each for each in forms(page) if each.fields.get("identity") == identity]
    assert found, page.text
    return person.submit(found[0])


def to_provider(person: Person, authorization_url: str, identity: str, decision: str = "allow") -> httpx2.Response:
    """Open a client's authorization URL, choose an identity and decide; answers the redirect that follows."""
    page = choose(person, person.get(authorization_url), identity)
    return person.submit(form(page, "/login/upstream"), decision=decision)


def callback_of(person: Person, redirect: httpx2.Response) -> str:
    """Where the provider sends the browser back to."""
    return str(person.browser.get(redirect.headers["location"]).headers["location"])


def sign_in_elsewhere(person: Person, authorization_url: str, identity: str) -> httpx2.Response:
    """All the way there and back; answers what the browser ends at, which may be a redirect to the client."""
    return person.get(callback_of(person, to_provider(person, authorization_url, identity)))


def newcomer(server: AuthServer) -> Person:
    """Somebody with a new browser and no password here."""
    person = Person(server.issuer, "", "")
    server.people.append(person)
    return person
