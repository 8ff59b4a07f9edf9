"""An authorization server in the shape of the MCP SDK's example of one: PORT CODES.

The SDK's routes for OAuth, tokens in a dict, and an introspection route that asks nobody who they are.
"""

# ruff: noqa: ARG002 (the SDK says what the methods are given)

import secrets
import sys
import time

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl, AnyUrl
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.authorization_server import CALLBACK, CLIENT, PKCE, RESOURCE, SCOPE

_SECONDS = 3600


class Provider(OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]):
    """Everything in dicts, and so many codes in them at the beginning."""

    def __init__(self, codes: int) -> None:
        self._client = OAuthClientInformationFull(
            client_id=CLIENT,
            redirect_uris=[AnyUrl(CALLBACK)],
            grant_types=["authorization_code", "refresh_token"],
            token_endpoint_auth_method="none",
        )
        self._codes = {code_text(number): _code(code_text(number)) for number in range(codes)}
        self._access_tokens: dict[str, AccessToken] = {}
        self._refresh_tokens: dict[str, RefreshToken] = {}

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self._client if client_id == CLIENT else None

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        raise NotImplementedError

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        raise NotImplementedError

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self._codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        del self._codes[authorization_code.code]
        return self._issue()

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        return self._refresh_tokens.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        del self._refresh_tokens[refresh_token.token]
        return self._issue()

    async def load_access_token(self, token: str) -> AccessToken | None:
        found = self._access_tokens.get(token)
        if found is not None and found.expires_at is not None and found.expires_at < time.time():
            del self._access_tokens[token]
            return None
        return found

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self._access_tokens.pop(token.token, None)
        self._refresh_tokens.pop(token.token, None)

    def _issue(self) -> OAuthToken:
        access, refresh = secrets.token_hex(32), secrets.token_hex(32)
        expires = int(time.time()) + _SECONDS
        self._access_tokens[access] = AccessToken(
            token=access, client_id=CLIENT, scopes=[SCOPE], expires_at=expires, resource=RESOURCE, subject="user_bench"
        )
        self._refresh_tokens[refresh] = RefreshToken(
            token=refresh, client_id=CLIENT, scopes=[SCOPE], resource=RESOURCE, subject="user_bench"
        )
        return OAuthToken(access_token=access, refresh_token=refresh, expires_in=_SECONDS, scope=SCOPE)


def code_text(number: int) -> str:
    """The code with this number."""
    return f"code-{number}"


def _code(text: str) -> AuthorizationCode:
    return AuthorizationCode(
        code=text,
        scopes=[SCOPE],
        expires_at=time.time() + _SECONDS,
        client_id=CLIENT,
        code_challenge=PKCE.challenge,
        redirect_uri=AnyUrl(CALLBACK),
        redirect_uri_provided_explicitly=True,
        resource=RESOURCE,
        subject="user_bench",
    )


def application(issuer: str, codes: int) -> Starlette:
    """Its routes."""
    provider = Provider(codes)

    async def introspect(request: Request) -> Response:
        form = await request.form()
        found = await provider.load_access_token(str(form.get("token", "")))
        if found is None:
            return JSONResponse({"active": False})
        answer = {
            "active": True,
            "client_id": found.client_id,
            "scope": " ".join(found.scopes),
            "exp": found.expires_at,
            "token_type": "Bearer",
            "aud": found.resource,
            "sub": found.subject,
            "iss": issuer,
        }
        return JSONResponse(answer)

    routes = create_auth_routes(provider, AnyHttpUrl(issuer))
    return Starlette(routes=[*routes, Route("/introspect", introspect, methods=["POST"])])


def main() -> None:
    """Serve until told to stop."""
    port, codes = int(sys.argv[1]), int(sys.argv[2])
    app = application(f"http://127.0.0.1:{port}", codes)
    uvicorn.run(app, port=port, log_config=None, access_log=False, proxy_headers=False, server_header=False)


if __name__ == "__main__":
    main()
