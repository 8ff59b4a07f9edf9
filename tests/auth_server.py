"""A real authorization server for tests: the application under uvicorn on a loopback port, in a thread."""

import asyncio
import base64
import hashlib
import io
import json
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import httpx2
import uvicorn
from opentelemetry.trace import NoOpTracer, Tracer

from keystile_auth.app import create_app, create_metrics
from keystile_auth.identity.local import LocalUsers
from keystile_auth.settings import AuthSettings
from keystile_auth.store.users import UserStore
from keystile_common.audit import AuditLog, FileSink, StreamSink
from keystile_common.certificates import ServerCertificate
from keystile_common.metrics import AuthMetrics
from keystile_common.recurring_protocol import HttpProtocol
from keystile_common.server import bind
from keystile_common.settings import Listen
from keystile_common.store import connect
from tests.person import Person
from tests.stores import settings_of

MASTER_KEY = base64.b64encode(b"k" * 32).decode()
RESOURCE = "http://127.0.0.1:3232/mcp"
OTHER_RESOURCE = "https://other.example.com/mcp"
RESOURCE_SECRET = "resource-secret-" + "x" * 32
OTHER_SECRET = "other-secret-" + "y" * 32
PASSWORD = "correct horse battery staple"
SCOPES = {"mcp:basic": "Use the basic tools", "mcp:jobs": "Start long-running jobs"}
CALLBACK = "http://127.0.0.1:49152/callback"


_GENEROUS = {
    "registration": {"per_hour_and_address": 100_000},
    "metadata_documents": {"fetches_per_minute_and_address": 100_000},
    "sign_in": {"failures_per_5_minutes_and_address": 100_000},
}


def auth_settings(issuer: str, store_url: str, /, **overrides: Any) -> AuthSettings:
    """Settings for tests: two resources, generous limits.

    `overrides` replace whole sections, but leave limits by address as generous as they are unless they name them: all
    tests come from one address.
    """
    values: dict[str, Any] = {
        "issuer": issuer,
        "master_key": MASTER_KEY,
        "store": settings_of(store_url),
        "resources": {
            "mcp": {"uri": RESOURCE, "title": "Team tools", "scopes": SCOPES, "secret": RESOURCE_SECRET},
            "other": {
                "uri": OTHER_RESOURCE,
                "title": "Other tools",
                "scopes": {"other:use": "Use the other tools"},
                "secret": OTHER_SECRET,
            },
        },
        "metadata_documents": {"allow_loopback": True},
    }
    for section, generous in _GENEROUS.items():
        overrides[section] = {**generous, **overrides.get(section, values.get(section, {}))}
    return AuthSettings.model_validate({**values, **overrides})


@dataclass
class RegisteredClient:
    """What a registration answered."""

    id: str
    secret: str | None
    registration_token: str
    registration_uri: str


@dataclass
class Pkce:
    """A code verifier and its S256 challenge (RFC 7636)."""

    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48))

    @property
    def challenge(self) -> str:
        return base64.urlsafe_b64encode(hashlib.sha256(self.verifier.encode()).digest()).rstrip(b"=").decode()


@dataclass
class AuthServer:
    """A running server, and the steps of the protocol as a client takes them."""

    issuer: str
    settings: AuthSettings
    metrics: AuthMetrics
    audit_lines: io.StringIO
    http: httpx2.Client
    people: list[Person] = field(default_factory=list)

    def register(self, **metadata: Any) -> RegisteredClient:
        """Register a public client, or whatever `metadata` says."""
        document = {
            "client_name": "Test client",
            "redirect_uris": [CALLBACK],
            "grant_types": ["authorization_code", "refresh_token"],
            "token_endpoint_auth_method": "none",
            **metadata,
        }
        answer = self.http.post(f"{self.issuer}/register", json=document)
        assert answer.status_code == 201, answer.text
        body = answer.json()
        return RegisteredClient(
            body["client_id"],
            body.get("client_secret"),
            body["registration_access_token"],
            body["registration_client_uri"],
        )

    def add_user(self, username: str | None = None, password: str = PASSWORD) -> str:
        """Create a user; answers the name."""
        name = username or f"user-{secrets.token_hex(6)}"
        self.in_store(lambda users: LocalUsers(users).create(name, password, int(time.time())))
        return name

    def in_store(self, work: Callable[[UserStore], Any]) -> Any:
        """Run `work` on the user store."""

        async def run() -> Any:
            store = connect(self.settings.store, self.metrics.store, NoOpTracer(), self.settings.store.durability)
            try:
                return await work(UserStore(store))
            finally:
                await store.close()

        return asyncio.run(run())

    def person(self, username: str | None = None) -> Person:
        """A person with a browser who can sign in here."""
        person = Person(self.issuer, username or self.add_user(), PASSWORD)
        self.people.append(person)
        return person

    def authorization_url(self, client_id: str, pkce: Pkce, **parameters: Any) -> str:
        """A valid authorization request; `parameters` replace its own, None leaves one out."""
        values = {
            "response_type": "code",
            "client_id": client_id,
            "redirect_uri": CALLBACK,
            "state": "st4te",
            "scope": "mcp:basic",
            "resource": RESOURCE,
            "code_challenge": pkce.challenge,
            "code_challenge_method": "S256",
            **parameters,
        }
        return f"{self.issuer}/authorize?{urlencode({k: v for k, v in values.items() if v is not None})}"

    def code(self, client_id: str, pkce: Pkce, person: Person | None = None, **parameters: Any) -> str:
        """A code that a person has consented to."""
        callback = (person or self.person()).allow(self.authorization_url(client_id, pkce, **parameters))
        answer = parse_qs(urlsplit(callback).query)
        assert "code" in answer, callback
        return answer["code"][0]

    def token(self, auth: tuple[str | bytes, str | bytes] | None = None, **parameters: Any) -> httpx2.Response:
        """A token request; parameters that are None are left out."""
        data = {key: value for key, value in parameters.items() if value is not None}
        return self.http.post(f"{self.issuer}/token", data=data, auth=auth or httpx2.USE_CLIENT_DEFAULT)

    def redeem(self, client_id: str, code: str, pkce: Pkce, **parameters: Any) -> httpx2.Response:
        """Redeem a code as a public client."""
        values = {"redirect_uri": CALLBACK, "code_verifier": pkce.verifier, **parameters}
        return self.token(grant_type="authorization_code", client_id=client_id, code=code, **values)

    def tokens(self, client_id: str, person: Person | None = None, **parameters: Any) -> dict[str, Any]:
        """The tokens of a whole authorization code flow."""
        pkce = Pkce()
        answer = self.redeem(client_id, self.code(client_id, pkce, person, **parameters), pkce)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def refresh(self, client_id: str, refresh_token: str, **parameters: Any) -> httpx2.Response:
        """Refresh as a public client."""
        return self.token(grant_type="refresh_token", client_id=client_id, refresh_token=refresh_token, **parameters)

    def introspect(
        self, token: str, auth: tuple[str | bytes, str | bytes] = ("mcp", RESOURCE_SECRET)
    ) -> dict[str, Any]:
        """What the resource learns of a token."""
        answer = self.http.post(f"{self.issuer}/introspect", data={"token": token}, auth=auth)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def is_active(self, token: str) -> bool:
        """Whether introspection calls a token active."""
        return bool(self.introspect(token)["active"])

    def events(self, kind: str | None = None) -> list[dict[str, Any]]:
        """The audit events so far, of one type or all."""
        events = [json.loads(line) for line in self.audit_lines.getvalue().splitlines()]
        return [event for event in events if kind is None or event["type"] == kind]


@contextmanager
def running_auth_server(
    store_url: str,
    *,
    path: str = "",
    port: int = 0,
    clock: Callable[[], float] = time.time,
    tracer: Tracer | None = None,
    sinks: list[StreamSink | FileSink] | None = None,
    certificate: ServerCertificate | None = None,
    verify: ssl.SSLContext | bool = True,
    **overrides: Any,
) -> Iterator[AuthServer]:
    """Run a server whose issuer has `path` while the block runs; with `certificate` by TLS, which `verify` trusts."""
    listener = bind(Listen(host="127.0.0.1", port=port), "-")
    origin = "https://localhost" if certificate else "http://127.0.0.1"
    issuer = f"{origin}:{listener.getsockname()[1]}{path}"
    settings = auth_settings(issuer, store_url, **overrides)
    metrics, lines = create_metrics(), io.StringIO()
    tracer = tracer or NoOpTracer()
    audit = AuditLog([StreamSink("stdout", lines), *(sinks or [])], metrics.audit)
    store = connect(settings.store, metrics.store, tracer, settings.store.durability)
    app = create_app(settings, store, metrics, tracer, audit, clock)
    with serving(app, listener, certificate), httpx2.Client(timeout=10, verify=verify) as http:
        server = AuthServer(issuer, settings, metrics, lines, http)
        try:
            yield server
        finally:
            for person in server.people:
                person.browser.close()


@contextmanager
def serving(app: Any, listener: Any, certificate: ServerCertificate | None = None) -> Iterator[None]:
    """Serve an ASGI application on `listener` from a thread while the block runs."""
    # As `keystile_common.server.run` has it: uvicorn by itself would trust forwarded headers from loopback.
    config = uvicorn.Config(
        app,
        http=HttpProtocol,
        access_log=False,
        log_config=None,
        lifespan="on",
        ws="none",
        proxy_headers=False,
        server_header=False,
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    deadline = time.monotonic() + 10
    while not server.started:
        assert thread.is_alive(), "the server stopped while it started"
        assert time.monotonic() < deadline, "the server did not start in time"
        time.sleep(0.005)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(timeout=15)
        listener.close()
