"""Rendering pages: templates, security headers, and the errors that are shown to people."""

from collections.abc import Iterable
from importlib.resources import files
from typing import Any
from urllib.parse import urlsplit

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from keystile_common.traces import trace_id

_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), publickey-credentials-get=()",
}


class PageError(Exception):
    """Something a person must be told on a page, because there is nowhere safe to send them.

    Args:
        status: of the HTTP answer.
        heading: a few words.
        message: what happened, one or two sentences.
        advice: what to do now.
        code: the protocol's error code, for the developer who looks over the person's shoulder.
    """

    def __init__(self, status: int, heading: str, message: str, advice: str | None = None, code: str | None = None):
        super().__init__(heading)
        self.status = status
        self.heading = heading
        self.message = message
        self.advice = advice
        self.code = code


class Pages:
    """Renders the templates of this package."""

    def __init__(self, prefix: str, *, https: bool) -> None:
        self._prefix = prefix
        self._https = https
        self._environment = Environment(
            loader=PackageLoader("keystile_auth"),
            autoescape=True,
            undefined=StrictUndefined,
            auto_reload=False,
        )

    def routes(self) -> list[Mount]:
        """The style sheet and pictures."""
        folder = str(files("keystile_auth") / "static")
        return [Mount(f"{self._prefix}/static", StaticFiles(directory=folder), name="static")]

    def render(
        self, template: str, status: int = 200, *, form_targets: Iterable[str] = (), **values: Any
    ) -> HTMLResponse:
        """A page.

        Args:
            template: its file's name.
            status: of the HTTP answer.
            form_targets: URIs that a form of this page may end at by redirects; its own origin always may.
            values: what the template shows; escaped there.
        """
        html = self._environment.get_template(template).render(static=f"{self._prefix}/static", **values)
        return HTMLResponse(html, status_code=status, headers=self._headers(form_targets))

    def error(self, problem: PageError, reference: str | None = None) -> HTMLResponse:
        """The page of an error."""
        return self.render(
            "error.html",
            problem.status,
            heading=problem.heading,
            message=problem.message,
            advice=problem.advice,
            code=problem.code,
            reference=reference or trace_id(),
        )

    def _headers(self, form_targets: Iterable[str]) -> dict[str, str]:
        # Browsers hold a form's redirects to form-action too, so the client's address must be in it.
        actions = " ".join(["'self'", *sorted({_source(uri) for uri in form_targets})])
        policy = (
            f"default-src 'none'; style-src 'self'; img-src 'self' data:; form-action {actions}; "
            "frame-ancestors 'none'; base-uri 'none'"
        )
        secure = {"Strict-Transport-Security": "max-age=31536000"} if self._https else {}
        return {**_HEADERS, **secure, "Content-Security-Policy": policy}


def redirect(url: str, status: int = 303) -> Response:
    """Send a browser on with GET (never 307: that would send a password along, RFC 9700 section 4.12)."""
    return RedirectResponse(url, status, headers={"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"})


def wants_html(request: Request) -> bool:
    """Whether a person's browser asks, rather than a program."""
    return "text/html" in request.headers.get("accept", "")


def _source(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme in {"https", "http"} else f"{parts.scheme}:"
