"""Every page people see, with sample data: ordinary, awkward and hostile.

The page tests drive these samples through a browser. To look at them by eye::

    python tests/integration/pages_gallery.py        # serves them on a free port of this computer
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

PACKAGE = Path(__file__).resolve().parents[2] / "services" / "auth" / "keystile_auth"
STATIC_TYPES = {".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self' data:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)

LONG_WORD = "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft" * 2
LONG_HOST = "claude.ai.account-verification.secure-sign-in.oauth-callback.xn--80ak6aa92e.evil.example:65535"
RIGHT_TO_LEFT = "‮مساعد الذكاء الاصطناعي — evil.example"
STACKED_MARKS = "Z" + "̶͉̝̥̎͗̃" * 12 + "algo"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:145.0) Gecko/20100101 Firefox/145.0"
SAFARI = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 19_1 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/19.1 Mobile/15E148 Safari/604.1"
)


@dataclass(frozen=True)
class Sample:
    """One page in one state: the template's name and what it is given."""

    template: str
    context: dict[str, Any]


def at(day: int, hour: int, minute: int = 0) -> datetime:
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


def scope(name: str, text: str, *, already: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, text=text, already=already)


READ = scope("files:read", "Read the files in your team folder")
WRITE = scope("files:write", "Create, change and delete files in your team folder")
SEARCH = scope("search", "Search what you can see", already=True)
MANY_SCOPES = [scope(f"area{number}:manage", f"Manage area number {number}") for number in range(40)]


def login(**changes: Any) -> Sample:
    context = {
        "action": "/login",
        "upstream_action": "/login/upstream",
        "password_identities": {"local": "local"},
        "elsewhere": {},
        "by_address": False,
        "by_header": None,
        "again": "/login?request=r-1",
        "is_switch": False,
        "is_refused": "error" in changes,
        "csrf": "csrf-token",
        "request_id": "request-1",
        "client_name": "Claude Code",
        "username": "",
        "error": None,
    }
    return Sample("login.html", context | changes)


def client(**changes: Any) -> SimpleNamespace:
    facts = {
        "name": "Claude",
        "id": "https://claude.ai/oauth/client.json",
        "uri_host": "claude.com",
        "verified_host": "claude.ai",
        "is_self_registered": False,
    }
    return SimpleNamespace(**(facts | changes))


def consent(**changes: Any) -> Sample:
    context = {
        "action": "/authorize/decision",
        "csrf": "csrf-token",
        "request_id": "request-1",
        "client": client(),
        "redirect_host": "claude.ai",
        "redirect_is_loopback": False,
        "resource": SimpleNamespace(name="Team tools", uri="https://tools.example.com/mcp"),
        "scopes": [READ, WRITE],
        "user": SimpleNamespace(username="ada"),
        "switch_user_action": "/login/switch",
        "destination": None,
    }
    return Sample("consent.html", context | changes)


def connection(**changes: Any) -> SimpleNamespace:
    facts = {
        "id": "grant-1",
        "client_name": "Claude",
        "client_host": "claude.ai",
        "resource_name": "Team tools",
        "resource_uri": "https://tools.example.com/mcp",
        "scopes": [READ, WRITE, SEARCH],
        "since": at(3, 9, 12),
        "last_used": at(23, 14, 5),
    }
    return SimpleNamespace(**(facts | changes))


def session(**changes: Any) -> SimpleNamespace:
    facts = {
        "id": "session-1",
        "current": True,
        "since": at(23, 8, 30),
        "last_seen": at(23, 14, 5),
        "ip": "203.0.113.24",
        "user_agent": FIREFOX,
    }
    return SimpleNamespace(**(facts | changes))


def account(**changes: Any) -> Sample:
    context = {
        "user": SimpleNamespace(username="ada"),
        "csrf": "csrf-token",
        "connections": [
            connection(),
            connection(
                id="grant-2",
                client_name="Claude Code",
                client_host=None,
                scopes=[READ],
                since=at(23, 14),
                last_used=None,
            ),
        ],
        "sessions": [
            session(),
            session(
                id="session-2", current=False, since=at(9, 19, 44), ip="2001:db8:85a3::8a2e:370:7334", user_agent=SAFARI
            ),
        ],
        "actions": SimpleNamespace(
            end_connection="/account/connections/end",
            end_session="/account/sessions/end",
            sign_out="/account/sign-out",
            sign_out_everywhere="/account/sign-out-everywhere",
        ),
        "notice": None,
    }
    return Sample("account.html", context | changes)


def error(**changes: Any) -> Sample:
    context = {
        "heading": "This sign-in cannot go on",
        "message": "The application sent you here with an address to return to that it has not registered.",
        "advice": "Go back to the application and connect it again. If that leads here too, tell its makers.",
        "code": "invalid_request",
        "reference": "4bf92f3577b34da6a3ce929d0e0e4736",
    }
    return Sample("error.html", context | changes)


HOSTILE_NAME = f"Claude “official” 🛡️✅ approved by Keystile {RIGHT_TO_LEFT} <b>{LONG_WORD}</b> {STACKED_MARKS} " * 3
HOSTILE_SCOPES = [
    scope("x" * 200, LONG_WORD),
    scope("emoji:🔥", f"🔥 {RIGHT_TO_LEFT}"),
    *MANY_SCOPES,
    scope("y" * 90, "Something you allowed", already=True),
]
HOSTILE_RESOURCE = SimpleNamespace(name=f"Tools of {LONG_WORD}", uri=f"https://tools.example.com/{'deep/' * 40}mcp")
HOSTILE_USER = SimpleNamespace(username=f"{RIGHT_TO_LEFT}{'a' * 120}")

SAMPLES: dict[str, Sample] = {
    "login": login(),
    "login-account": login(request_id=None, client_name=None),
    "login-error": login(username="ada", error="That user name and password do not belong together."),
    "login-hostile": login(client_name=HOSTILE_NAME, username="a" * 200, error=f"Wrong. {LONG_WORD}"),
    "login-chooser": login(
        by_address=True,
        by_header="The portal",
        elsewhere={"corp": "Corp", "partners": f"Partners of {LONG_WORD}"},
        password_identities={"local": "local", "directory": "The directory"},
    ),
    "login-elsewhere": login(elsewhere={"corp": "Corp"}, password_identities={}),
    "consent": consent(),
    "consent-loopback": consent(
        client=client(name="Claude Code", uri_host=None, verified_host=None, is_self_registered=True),
        redirect_host="localhost:51234",
        redirect_is_loopback=True,
    ),
    "consent-step-up": consent(
        client=client(name="Nightly report", uri_host=None, verified_host=None),
        redirect_host="reports.example.com",
        scopes=[WRITE, SEARCH],
    ),
    "consent-nothing-new": consent(scopes=[SEARCH]),
    "consent-no-scope": consent(scopes=[]),
    "consent-hostile": consent(
        client=client(name=HOSTILE_NAME, uri_host="www.claude.ai." + "a" * 180, verified_host="сlaude.ai"),
        redirect_host=LONG_HOST,
        resource=HOSTILE_RESOURCE,
        scopes=HOSTILE_SCOPES,
        user=HOSTILE_USER,
    ),
    "account": account(),
    "account-notice": account(notice="Claude Code can no longer use Team tools."),
    "account-empty": account(connections=[], sessions=[]),
    "account-hostile": account(
        connections=[
            connection(
                client_name=HOSTILE_NAME,
                client_host=LONG_HOST,
                resource_name=HOSTILE_RESOURCE.name,
                resource_uri=HOSTILE_RESOURCE.uri,
                scopes=HOSTILE_SCOPES,
            )
        ],
        sessions=[session(), session(id="session-2", current=False, user_agent=f"{RIGHT_TO_LEFT}{'Bot/' * 80}", ip="")],
        user=HOSTILE_USER,
        notice=f"Ended. {LONG_WORD}",
    ),
    "error": error(),
    "error-plain": error(advice=None, code=None, reference=None),
    "error-hostile": error(
        heading=LONG_WORD, message=HOSTILE_NAME, advice=LONG_WORD, code="x" * 150, reference="f" * 300
    ),
    "signed-out": Sample("signed_out.html", {"sign_in_url": "/account"}),
}


def environment() -> Environment:
    return Environment(loader=FileSystemLoader(PACKAGE / "templates"), autoescape=True, undefined=StrictUndefined)


def render(sample: Sample) -> str:
    return environment().get_template(sample.template).render(static="/static", **sample.context)


def index() -> str:
    links = "".join(f'<li><a href="/{name}">{name}</a></li>' for name in SAMPLES)
    return f'<!doctype html><html lang="en"><title>Pages</title><ul>{links}</ul></html>'


class GalleryHandler(BaseHTTPRequestHandler):
    """Serves the samples and the static files under the policy that production sends."""

    def do_GET(self) -> None:
        name = self.path.removeprefix("/")
        if name.startswith("static/"):
            self.answer_file(PACKAGE / "static" / Path(name).name)
        elif not name:
            self.answer("text/html; charset=utf-8", index().encode())
        elif name in SAMPLES:
            self.answer("text/html; charset=utf-8", render(SAMPLES[name]).encode())
        else:
            self.send_error(404)

    def answer_file(self, path: Path) -> None:
        if path.is_file():
            self.answer(STATIC_TYPES[path.suffix], path.read_bytes())
        else:
            self.send_error(404)

    def answer(self, content_type: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Security-Policy", CONTENT_SECURITY_POLICY)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Stay quiet: a test's output is its own."""


@contextmanager
def serve(port: int = 0) -> Iterator[str]:
    """Serve the gallery on 127.0.0.1 while the context lasts; gives its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", port), GalleryHandler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


if __name__ == "__main__":
    with serve() as base_url:
        print(f"The pages are at {base_url}/ (Ctrl-C ends)")
        with suppress(KeyboardInterrupt):
            threading.Event().wait()
