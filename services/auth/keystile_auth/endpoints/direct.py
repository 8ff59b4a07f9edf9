"""The way past the framework, for the endpoints that programs ask all day; docs/decisions/0029 has the figures."""

from collections.abc import Coroutine, Mapping
from typing import Any, Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_auth.endpoints.errors import ErrorAnswers
from keystile_auth.errors import OAuthError
from keystile_common.limits import RequestTooLargeError
from keystile_common.recurring_requests import EXTENSION, Answer, AnswerAgain
from keystile_common.store import StoreUnavailableError


class DirectEndpoint(Protocol):
    """What answers POST requests of one path."""

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> AnswerAgain | None:
        """Answer a request, or raise before anything is answered; what this returns, may raise what this raises.

        Returns:
            What answers the likes of the request, if something shall.
        """


class Direct:
    """Sends POST requests of some paths past the framework, and everything else to it.

    Args:
        app: everything else.
        endpoints: by path, what answers.
        errors: renders what an endpoint raises, as the framework would have it rendered.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, DirectEndpoint], errors: ErrorAnswers) -> None:
        self._app = app
        self._endpoints = endpoints
        self._errors = errors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI connection."""
        endpoint = self._endpoints.get(scope["path"]) if scope["type"] == "http" else None
        if endpoint is None or scope["method"] != "POST" or _is_of_a_script(scope):
            await self._app(scope, receive, send)
            return
        try:
            again = await endpoint.serve(scope, receive, send)
        except RequestTooLargeError:
            raise  # answered further out, where the limit is
        except ClientDisconnect:
            return  # nobody is there for an answer
        except Exception as problem:  # noqa: BLE001 (as the framework, which answers and logs whatever it is)
            answer = await self._error(scope, problem)
            await answer(scope, receive, send)
            return
        offer = scope.get("extensions", {}).get(EXTENSION)
        if again is not None and offer is not None:
            offer(self._with_errors(scope, again))

    def _with_errors(self, scope: Scope, again: AnswerAgain) -> AnswerAgain:
        async def rendered(coming: Coroutine[Any, Any, Answer]) -> Answer:
            try:
                return await coming
            except Exception as problem:  # noqa: BLE001 (as above)
                return Answer.of(await self._error(scope, problem))

        def answer_again(body: bytes) -> Answer | Coroutine[Any, Any, Answer] | None:
            answer = again(body)
            return answer if answer is None or isinstance(answer, Answer) else rendered(answer)

        return answer_again

    async def _error(self, scope: Scope, problem: Exception) -> Response:
        request = Request(scope)
        if isinstance(problem, OAuthError):
            return await self._errors.oauth(request, problem)
        if isinstance(problem, StoreUnavailableError):
            return await self._errors.unavailable(request, problem)
        return await self._errors.unexpected(request, problem)


def _is_of_a_script(scope: Scope) -> bool:
    """Whether a browser asks for a page's script: the framework puts the headers of CORS on the answer."""
    for name, _ in scope["headers"]:  # noqa: SIM110 (any() would make a generator, on each request)
        if name == b"origin":
            return True
    return False
