"""Reading requests strictly: forms, queries, JSON bodies, client credentials."""

import base64
import binascii
import json
import re
from functools import lru_cache
from typing import Any
from urllib.parse import unquote_plus, unquote_to_bytes

from starlette.requests import ClientDisconnect, Request

from keystile_auth.clients.authentication import JWT_BEARER, PresentedCredentials
from keystile_auth.errors import OAuthError
from keystile_common import base64url

MAX_PARAMETERS = 50
_URLS = frozenset({"redirect_uri", "resource"})
_MAX_URL = 512
_REMEMBERED = 256
_CONTROL = re.compile(r"[\x00-\x1f]")
FORM = "application/x-www-form-urlencoded"


def parse(text: str) -> tuple[dict[str, str], set[str]]:
    """The parameters of a query or form, and the names of those that came more than once.

    One without a value counts as left out (RFC 6749 section 3.1).

    Raises:
        OAuthError: `invalid_request`: too many, not UTF-8, or a control character.
    """
    pieces = text.split("&")
    if len(pieces) > MAX_PARAMETERS:
        raise _malformed()
    _refuse_control(text)
    values: dict[str, str] = {}
    repeated = set()
    for piece in filter(None, pieces):
        name, _, value = piece.partition("=")
        if "%" in piece or "+" in piece:
            name = _decoded(name)
            value = _decoded_url(value) if name in _URLS and len(value) <= _MAX_URL else _decoded(value)
        if name in values:
            repeated.add(name)
        values.setdefault(name, value)
    return {name: value for name, value in values.items() if value}, repeated


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text:
        return text
    try:
        decoded = unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeDecodeError:
        raise _malformed() from None
    _refuse_control(decoded)
    return decoded


@lru_cache(_REMEMBERED)
def _decoded_url(text: str) -> str:
    """As `_decoded`, of what many requests have in common. Nothing that is secret may be kept by this."""
    return _decoded(text)


def _refuse_control(text: str) -> None:
    if _CONTROL.search(text):
        raise OAuthError("invalid_request", "a parameter has a control character")


def _malformed() -> OAuthError:
    return OAuthError("invalid_request", f"at most {MAX_PARAMETERS} parameters, in UTF-8")


def single(parsed: tuple[dict[str, str], set[str]]) -> dict[str, str]:
    """The parameters, when none came twice.

    Raises:
        OAuthError: `invalid_request` naming one that did (RFC 6749 section 3.2).
    """
    values, repeated = parsed
    if repeated:
        raise OAuthError("invalid_request", f"the parameter {min(repeated)[:40]} must be given once")
    return values


def query_of(request: Request) -> str:
    """The query as it was sent. Starlette's own parsing of URLs fails on a Host header that is none.

    Raises:
        OAuthError: `invalid_request`: not ASCII.
    """
    try:
        return bytes(request.scope["query_string"]).decode("ascii")
    except UnicodeDecodeError:
        raise OAuthError("invalid_request", "the query must be percent-encoded ASCII") from None


async def form(request: Request, *, folded: bool = False) -> dict[str, str]:
    """The parameters of a form body.

    Args:
        request: whose body.
        folded: whether line breaks in values are left out, which base64 may have (RFC 2045 section 6.8).

    Raises:
        OAuthError: `invalid_request`: another content type, not a form, or a parameter twice.
    """
    require_form(content_type_of(request))
    return form_of(await body_of(request), folded=folded)


def content_type_of(request: Request) -> str:
    """What a request says that its body is, in small letters and without parameters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_form(content_type: str) -> None:
    """Refuse a body that is said to be something else.

    Raises:
        OAuthError: `invalid_request`.
    """
    if content_type != FORM:
        raise OAuthError("invalid_request", f"the body must be {FORM}")


def form_of(body: bytes, *, folded: bool = False) -> dict[str, str]:
    """As `form`, of a body that has come, whatever its type."""
    try:
        text = body.decode("ascii")
    except UnicodeDecodeError:
        raise OAuthError("invalid_request", f"the body must be {FORM}: percent-encoded ASCII") from None
    if folded:
        text = re.sub("%0[AaDd]", "", text)
    return single(parse(text))


async def body_of(request: Request) -> bytes:
    """As `Request.body`, which makes a generator for what is nearly always one piece."""
    pieces = []
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def json_object(request: Request, code: str = "invalid_client_metadata") -> dict[str, Any]:
    """The JSON object of a body.

    Raises:
        OAuthError: with `code`: another content type, not JSON, not an object, or a name twice.
    """
    if content_type_of(request) != "application/json":
        raise OAuthError(code, "the body must be application/json")
    try:
        value = json.loads(await request.body(), object_pairs_hook=_unique, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()  # no half of a surrogate pair, no 1e999
    except (ValueError, RecursionError):
        raise OAuthError(code, "the body must be a JSON object with each name once") from None
    if not isinstance(value, dict):
        raise OAuthError(code, "the body must be a JSON object")
    return value


def authorization_of(request: Request) -> list[str]:
    """The values of a request's Authorization headers, of which it may have one."""
    return request.headers.getlist("authorization")


def presented_credentials(authorization: list[str], parameters: dict[str, str]) -> PresentedCredentials:
    """What a request brings to say which client sends it (RFC 6749 section 2.3.1, RFC 7521 section 4.2).

    Args:
        authorization: from `authorization_of`.
        parameters: of the body.

    Raises:
        OAuthError: `invalid_request` when it uses two ways at once; `invalid_client` when it uses none.
    """
    basic = bool(authorization)
    ways = [basic, "client_secret" in parameters, "client_assertion" in parameters]
    if sum(ways) > 1 or len(authorization) > 1:
        raise OAuthError("invalid_request", "the client must authenticate in one way only")
    client_id = parameters.get("client_id")
    if basic:
        return _basic(authorization[0], client_id)
    if "client_assertion" in parameters:
        if parameters.get("client_assertion_type") != JWT_BEARER:
            raise OAuthError("invalid_request", f"client_assertion_type must be {JWT_BEARER}")
        assertion = parameters["client_assertion"]
        return PresentedCredentials("private_key_jwt", client_id or _unverified_subject(assertion), assertion=assertion)
    if not client_id:
        raise OAuthError("invalid_client", "client authentication is missing: send client_id or HTTP Basic")
    if "client_secret" in parameters:
        return PresentedCredentials("client_secret_post", client_id, secret=parameters["client_secret"])
    return PresentedCredentials("none", client_id)


def bearer_token(request: Request) -> str | None:
    """The token of an `Authorization: Bearer` header (RFC 6750 section 2.1), or None."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def ip_of(request: Request) -> str:
    """The network address of whoever sent the request; forwarded ones only from trusted proxies (see settings)."""
    return request.client.host if request.client else ""


def _basic(header: str, client_id: str | None) -> PresentedCredentials:
    scheme, _, value = header.partition(" ")
    if scheme.lower() != "basic":
        raise OAuthError("invalid_client", "the Authorization header must be HTTP Basic")
    try:
        decoded = base64.b64decode(value.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        decoded = ""
    name, separator, secret = decoded.partition(":")
    if not separator:
        raise OAuthError("invalid_client", "the Authorization header is not HTTP Basic of id and secret")
    name = unquote_plus(name)
    if client_id is not None and client_id != name:
        raise OAuthError("invalid_request", "client_id is not the one of the Authorization header")
    return PresentedCredentials("client_secret_basic", name, secret=unquote_plus(secret))


def _unverified_subject(assertion: str) -> str:
    """The client an assertion speaks of, to find the keys to check it with."""
    try:
        payload = assertion.split(".")[1]
        subject = json.loads(base64url.decode(payload))["sub"]
    except (IndexError, ValueError, KeyError, TypeError, RecursionError):
        subject = None
    if not isinstance(subject, str) or not subject:
        raise OAuthError("invalid_client", "the client assertion has no sub")
    return subject


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len({name for name, _ in pairs}) != len(pairs):
        raise ValueError("a name twice")
    return dict(pairs)


def _no_constant(name: str) -> None:
    raise ValueError(name)
