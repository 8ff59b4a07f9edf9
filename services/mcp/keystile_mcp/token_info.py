"""Asking Google about an access token: its tokeninfo endpoint, in place of RFC 7662."""

import json
import re
from http import HTTPStatus
from typing import Any

from opentelemetry.trace import Tracer

from keystile_common.jws import looks_like_jwt
from keystile_mcp.access_token_claims import ClaimsError, read_introspected
from keystile_mcp.introspection import AnyIntrospection, body_of
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError
from keystile_mcp.issuers import Issuer

_NUMBER = re.compile(r"[0-9]{1,12}")


class TokenInfoClient(AnyIntrospection):
    """Google's tokeninfo endpoint. Used as an async context manager.

    The token goes in a header, not in the address as a GET would have it: addresses are written to logs.
    """

    def __init__(self, issuer: Issuer, tracer: Tracer) -> None:
        super().__init__(issuer, tracer, {})

    async def ask(self, token: str) -> ActiveToken | None:
        """Ask about `token`; an ID token, which tokeninfo would know too, is not even asked about."""
        if looks_like_jwt(token):
            return None
        url = await self.address()
        async with self.request("POST", url, headers={"Authorization": f"Bearer {token}"}) as response:
            body = await body_of(response)
            if response.status == HTTPStatus.BAD_REQUEST and _object(body).get("error") == "invalid_token":
                return None
            if response.status != HTTPStatus.OK:
                raise IntrospectionError(f"it answered with status {response.status}")
        return read(_object(body), self.issuer)


def read(answer: dict[str, Any], issuer: Issuer) -> ActiveToken | None:
    """What an answer of tokeninfo says, or None if it is of no access token.

    Raises:
        IntrospectionError: it is not what Google documents.
    """
    # Times and truths are strings here.
    claims = dict(answer)
    expires = claims.get("exp")
    if isinstance(expires, str) and _NUMBER.fullmatch(expires):
        claims["exp"] = int(expires)
    if claims.get("email_verified") not in {True, "true"}:
        claims.pop("email", None)
    try:
        return read_introspected(claims, issuer)
    except ClaimsError as problem:
        raise IntrospectionError(f"the answer {problem}") from None


def _object(body: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise IntrospectionError("the answer is not JSON") from None
    if not isinstance(answer, dict):
        raise IntrospectionError("the answer is not a JSON object")
    return answer
