"""Where errors become answers, and nowhere else: a page for a person, JSON for a program."""

from http import HTTPStatus

import structlog
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from keystile_auth.endpoints.answers import error_answer, no_store, unavailable_answer
from keystile_auth.endpoints.pages import PageError, Pages, wants_html
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_common.metrics import AuthMetrics
from keystile_common.store import StoreUnavailableError


class ErrorAnswers:
    """Renders every error that an endpoint lets through."""

    def __init__(self, pages: Pages, metrics: AuthMetrics) -> None:
        self._pages = pages
        self._metrics = metrics

    def register(self, app: FastAPI) -> None:
        """Answer the errors of `app`."""
        app.add_exception_handler(OAuthError, self.oauth)
        app.add_exception_handler(PageError, self.page)
        app.add_exception_handler(StoreUnavailableError, self.unavailable)
        app.add_exception_handler(HTTPException, self.http)
        app.add_exception_handler(Exception, self.unexpected)

    async def oauth(self, request: Request, problem: Exception) -> Response:
        """An error with a protocol's code."""
        assert isinstance(problem, OAuthError)  # noqa: S101 (registered for this class alone, as are the others)
        if isinstance(problem, RateLimitedError):
            self._metrics.rate_limited.labels(problem.endpoint).inc()
        answer = error_answer(request, problem)
        if not wants_html(request):
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
        if not wants_html(request):
            return answer
        page = PageError(
            HTTPStatus.SERVICE_UNAVAILABLE,
            "Please try again in a moment",
            "The server cannot reach its data at the moment. Nothing was changed.",
            "Wait a few seconds and load this page again.",
            "temporarily_unavailable",
        )
        return self._shown(page, answer)

    async def http(self, request: Request, problem: Exception) -> Response:
        """No such address, or the wrong method."""
        assert isinstance(problem, HTTPException)  # noqa: S101
        if wants_html(request):
            missing = problem.status_code == HTTPStatus.NOT_FOUND
            heading = "There is no such page" if missing else problem.detail
            page = PageError(problem.status_code, heading, "The address, or the way it was asked for, is wrong.")
            return self._pages.error(page)
        content = {"error": "invalid_request", "error_description": problem.detail}
        return no_store(content, problem.status_code, {**(problem.headers or {}), "Cache-Control": "no-store"})

    async def unexpected(self, request: Request, problem: Exception) -> Response:
        """A mistake of ours."""
        # The kind of error only: its text could carry what a request brought.
        structlog.get_logger("keystile_auth").error("unexpected error", kind=type(problem).__name__)
        if wants_html(request):
            page = PageError(500, "Something went wrong here", "The server made a mistake, which is in its log.")
            return self._pages.error(page)
        return no_store({"error": "server_error", "error_description": "the server made a mistake"}, 500)

    def _shown(self, page: PageError, answer: Response) -> Response:
        shown = self._pages.error(page)
        if "Retry-After" in answer.headers:
            shown.headers["Retry-After"] = answer.headers["Retry-After"]
        return shown
