"""Where errors become answers, and nowhere else: a page for a person, JSON for a program."""

import contextlib
from http import HTTPStatus
from pathlib import Path
from traceback import extract_tb

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_auth.endpoints.answers import error_answer, no_store, unavailable_answer
from keystile_auth.endpoints.pages import PageError, Pages
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_common.metrics import AuthMetrics
from keystile_common.store import StoreUnavailableError

_FOR_PROGRAMS = ("/token", "/introspect", "/revoke", "/register", "/events/", "/jwks", "/.well-known/")

_FRAMES = 6


class AnsweredErrors:
    """Keeps an unexpected error, which `ErrorAnswers` has answered and logged, from the web server's own log.

    Starlette raises it once more, and uvicorn would log its text.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with contextlib.suppress(Exception):
            await self._app(scope, receive, send)


class ErrorAnswers:
    """Renders every error that an endpoint lets through. `prefix` is the issuer's path."""

    def __init__(self, pages: Pages, metrics: AuthMetrics, prefix: str) -> None:
        self._pages = pages
        self._metrics = metrics
        self._prefix = prefix

    def register(self, app: FastAPI) -> None:
        """Answer the errors of `app`."""
        app.add_exception_handler(OAuthError, self.oauth)
        app.add_exception_handler(PageError, self.page)
        app.add_exception_handler(StoreUnavailableError, self.unavailable)
        app.add_exception_handler(HTTPException, self.http)
        app.add_exception_handler(ClientDisconnect, self.gone)
        app.add_exception_handler(Exception, self.unexpected)

    async def oauth(self, request: Request, problem: Exception) -> Response:
        """An error with a protocol's code."""
        assert isinstance(problem, OAuthError)  # noqa: S101 (registered for this class alone, as are the others)
        if isinstance(problem, RateLimitedError):
            self._metrics.rate_limited.labels(problem.endpoint).inc()
        answer = error_answer(request, problem)
        if not self._wants_html(request):
            return answer
        sentence = problem.description[:1].upper() + problem.description[1:]
        page = PageError(int(problem.status), "That did not work", f"{sentence}.", None, problem.code)
        return self._shown(page, answer)

    async def page(self, _: Request, problem: Exception) -> Response:
        """An error that only a person can be told."""
        assert isinstance(problem, PageError)  # noqa: S101
        return self._pages.error(problem)

    async def unavailable(self, request: Request, _: Exception) -> Response:
        """The store is away: nothing was done."""
        answer = unavailable_answer()
        if not self._wants_html(request):
            return answer
        page = PageError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Please try again in a moment",
            "The server cannot reach its data at the moment.",
            "Wait a few seconds and load this page again.",
            "temporarily_unavailable",
        )
        return self._shown(page, answer)

    async def http(self, request: Request, problem: Exception) -> Response:
        """No such address, or the wrong method."""
        assert isinstance(problem, HTTPException)  # noqa: S101
        if self._wants_html(request):
            missing = problem.status_code == HTTPStatus.NOT_FOUND
            heading = "There is no such page" if missing else problem.detail
            page = PageError(problem.status_code, heading, "The address, or the way it was asked for, is wrong.")
            shown = self._pages.error(page)
            shown.headers.update(problem.headers or {})
            return shown
        content = {"error": "invalid_request", "error_description": problem.detail}
        return no_store(content, problem.status_code, {**(problem.headers or {}), "Cache-Control": "no-store"})

    async def gone(self, _: Request, __: Exception) -> Response:
        """The client went away before its request was whole: nobody reads this."""
        return Response(status_code=HTTPStatus.BAD_REQUEST)

    async def unexpected(self, request: Request, problem: Exception) -> Response:
        """A mistake of ours."""
        # What it is and where, not its text: that could carry what a request brought.
        frames = [f"{Path(each.filename).name}:{each.lineno}" for each in extract_tb(problem.__traceback__)]
        log = structlog.get_logger("keystile_auth")
        log.error("unexpected error", kind=type(problem).__name__, where=frames[-_FRAMES:])
        if self._wants_html(request):
            page = PageError(500, "Something went wrong here", "The server made a mistake, which is in its log.")
            return self._pages.error(page)
        return no_store({"error": "server_error", "error_description": "the server made a mistake"}, 500)

    def _wants_html(self, request: Request) -> bool:
        # Some programs say that they read HTML too; what they call answers as its RFC says, JSON.
        path = request.url.path.removeprefix(self._prefix)
        return "text/html" in request.headers.get("accept", "") and not path.startswith(_FOR_PROGRAMS)

    def _shown(self, page: PageError, answer: Response) -> Response:
        shown = self._pages.error(page)
        if "Retry-After" in answer.headers:
            shown.headers["Retry-After"] = answer.headers["Retry-After"]
        return shown
