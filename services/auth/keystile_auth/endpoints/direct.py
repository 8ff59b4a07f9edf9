"""The way past the framework, for the endpoints that programs ask all day; docs/decisions/0029 has the figures."""

from collections.abc import Mapping

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_auth.endpoints.errors import ErrorAnswers
from keystile_auth.errors import OAuthError
from keystile_common.limits import RequestTooLargeError
from keystile_common.store import StoreUnavailableError


class Direct:
    """Sends POST requests of some paths past the framework, and everything else to it.

    Args:
        app: everything else.
        endpoints: by path, what answers; each is an ASGI application that raises errors before it has answered.
        errors: renders what an endpoint raises, as the framework would have it rendered.
    """

    def __init__(self, app: ASGIApp, endpoints: Mapping[str, ASGIApp], errors: ErrorAnswers) -> None:
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
            await endpoint(scope, receive, send)
        except OAuthError as problem:
            answer = await self._errors.oauth(Request(scope), problem)
        except StoreUnavailableError as problem:
            answer = await self._errors.unavailable(Request(scope), problem)
        except RequestTooLargeError:
            raise  # answered further out, where the limit is
        except ClientDisconnect:
            return  # nobody is there for an answer
        except Exception as problem:  # noqa: BLE001 (as the framework, which answers and logs whatever it is)
            answer = await self._errors.unexpected(Request(scope), problem)
        else:
            return
        await answer(scope, receive, send)


def _is_of_a_script(scope: Scope) -> bool:
    """Whether a browser asks for a page's script: the framework puts the headers of CORS on the answer."""
    for name, _ in scope["headers"]:  # noqa: SIM110 (any() would make a generator, on each request)
        if name == b"origin":
            return True
    return False
