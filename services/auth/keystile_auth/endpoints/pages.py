"""Rendering pages: templates, security headers, and the errors that are shown to people."""

from collections.abc import Iterable
from functools import cached_property
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from starlette.responses import HTMLResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from keystile_common.traces import trace_id

if TYPE_CHECKING:
    from jinja2 import Environment

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

    @cached_property
    def _environment(self) -> "Environment":
        # With the first page: a server for machines alone shows none, and Jinja takes 2 MB.
        from jinja2 import Environment, PackageLoader, StrictUndefined  # noqa: PLC0415

        return Environment(
            loader=PackageLoader("keystile_auth"), autoescape=True, undefined=StrictUndefined, auto_reload=False
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
        policy = (
            f"default-src 'none'; style-src 'self'; img-src 'self' data:; {_form_action(form_targets)}"
            "frame-ancestors 'none'; base-uri 'none'"
        )
        secure = {"Strict-Transport-Security": "max-age=31536000"} if self._https else {}
        return {**_HEADERS, **secure, "Content-Security-Policy": policy}


def redirect(url: str, status: int = 303) -> Response:
    """Send a browser on with GET (never 307: that would send a password along, RFC 9700 section 4.12)."""
    # Written as it is: RedirectResponse quotes some characters anew, and a redirect URI must arrive as registered.
    headers = {"Location": url, "Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    return Response(status_code=status, headers=headers)


def _form_action(targets: Iterable[str]) -> str:
    """The directive that bounds where forms lead, redirects included.

    Browsers hold the whole chain of redirects behind a form to it. A program on this machine is the chain's end; a
    web application may go on to wherever it likes (claude.ai to the claude: scheme), so its forms get no bound.
    """
    parts = [urlsplit(uri) for uri in targets]
    if any(each.scheme == "https" for each in parts):
        return ""
    sources = {f"http://{each.netloc}" if each.scheme == "http" else f"{each.scheme}:" for each in parts}
    actions = " ".join(["'self'", *sorted(sources)])
    return f"form-action {actions}; "
