"""Refusals of a bearer token, and how they are written (RFC 6750 section 3, RFC 9728 section 5.1).

A refusal is raised where it is found and rendered in one place: `BearerError` knows what is wrong,
`Challenge` knows how this resource says so.
"""

import json
from collections.abc import Sequence
from http import HTTPStatus

from starlette.types import Send

from keystile_common.audit import Actor
from keystile_common.health import RETRY_AFTER_SECONDS


class BearerError(Exception):
    """A request that does not get through.

    Args:
        status: what is answered.
        result: why, as `keystile_token_validations_total` counts it.
        description: a sentence for the client's owner; never anything that the client sent.
        code: RFC 6750's error code; None where a challenge must have none.
        scopes: those the request needs, where that is known better than by the resource's own.
        actor: whose token it was, where the authorization server said so.
    """

    def __init__(
        self,
        status: HTTPStatus,
        result: str,
        description: str,
        *,
        code: str | None = None,
        scopes: Sequence[str] | None = None,
        actor: Actor | None = None,
    ) -> None:
        super().__init__(description)
        self.status = status
        self.result = result
        self.description = description
        self.code = code
        self.scopes = scopes
        self.actor = actor or Actor()


def missing_token() -> BearerError:
    """No access token came: no error code, since the client may not have known that one is needed."""
    return BearerError(
        HTTPStatus.UNAUTHORIZED, "missing", "An access token is needed, in the Authorization header as Bearer"
    )


def malformed_request(description: str) -> BearerError:
    """The request carries its token in a way that RFC 6750 does not allow."""
    return BearerError(HTTPStatus.BAD_REQUEST, "malformed", description, code="invalid_request")


def invalid_token(result: str, description: str, actor: Actor | None = None) -> BearerError:
    """The token is malformed, expired, revoked, or not meant for this resource."""
    return BearerError(HTTPStatus.UNAUTHORIZED, result, description, code="invalid_token", actor=actor)


def insufficient_scope(needed: Sequence[str], missing: Sequence[str]) -> BearerError:
    """The token is good and lacks scopes; the client can ask the user for all of them at once."""
    return BearerError(
        HTTPStatus.FORBIDDEN,
        "insufficient_scope",
        f"This needs {' '.join(needed)}; the token lacks {' '.join(missing)}",
        code="insufficient_scope",
        scopes=needed,
    )


def unavailable() -> BearerError:
    """Nobody can say now whether the token is good. Never 401: the client would throw a good token away."""
    return BearerError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "The authorization server cannot be asked at the moment; try again",
        code="temporarily_unavailable",
    )


class Challenge:
    """Writes refusals for one resource.

    Args:
        metadata_url: where the resource's metadata are (RFC 9728), from the settings.
        required_scopes: what every request needs.
        scope_prefix: what clients put before a scope when they ask the authorization server for it.
    """

    def __init__(self, metadata_url: str, required_scopes: Sequence[str], scope_prefix: str = "") -> None:
        self._scope_prefix = scope_prefix
        self._metadata_url = metadata_url
        self._required_scopes = required_scopes

    async def refuse(self, error: BearerError, send: Send) -> None:
        """Answer the request with `error`."""
        content = {"error": error.code} if error.code else {}
        body = json.dumps({**content, "error_description": error.description}).encode()
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"cache-control", b"no-store"),
        ]
        if error.status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers.append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
        else:
            headers.append((b"www-authenticate", self._header(error).encode()))
        await send({"type": "http.response.start", "status": int(error.status), "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _header(self, error: BearerError) -> str:
        parameters = []
        if error.code:
            parameters += [f'error="{error.code}"', f'error_description="{error.description}"']
        parameters.append(f'resource_metadata="{self._metadata_url}"')
        scopes = self._required_scopes if error.scopes is None else error.scopes
        if scopes:
            parameters.append(f'scope="{" ".join(self._scope_prefix + scope for scope in scopes)}"')
        return "Bearer " + ", ".join(parameters)
