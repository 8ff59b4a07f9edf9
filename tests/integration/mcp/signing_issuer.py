"""An issuer whose access tokens are JWTs: it publishes metadata and keys, and can be away."""

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from tests.integration.mcp.resource_server import ResourceServer, ScriptedAuthorizationServer, resource_server


class SigningIssuer(ScriptedAuthorizationServer):
    """Signs with `key`; what it publishes is set key by key, and counted."""

    def __init__(self) -> None:
        super().__init__()
        self.key = new_key()
        self.published: list[ECKey | RSAKey] = [self.key]
        self.fetches: list[str] = []
        self.status = 200
        self.delay = 0.0
        self.metadata: dict[str, Any] = {}
        self.key_set: Any = None

    def claims(self, **claims: Any) -> dict[str, Any]:
        """The claims of a good token; one that is None is left out."""
        now = int(time.time())
        values = {
            "iss": self.issuer,
            "aud": self.resource,
            "exp": now + 600,
            "iat": now,
            "jti": secrets.token_urlsafe(8),
            "sub": "alice",
            "client_id": "client-1",
            "scope": "mcp:basic mcp:jobs",
        } | claims
        return {name: value for name, value in values.items() if value is not None}

    def sign(self, key: ECKey | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """An access token; `header` and `claims` replace what is in it."""
        key = key or self.key
        values = {"alg": "ES256", "typ": "at+jwt", "kid": key.kid} | (header or {})
        protected = {name: value for name, value in values.items() if value is not None}
        return jws.serialize_compact(protected, json.dumps(self.claims(**claims)), key, algorithms=["ES256"])

    async def answer_metadata(self, request: web.Request) -> web.StreamResponse:
        self.fetches.append(request.path)
        document = {"issuer": self.issuer, "jwks_uri": f"{self.issuer}/jwks"} | self.metadata
        return web.json_response(document, status=self.status)

    async def answer_keys(self, request: web.Request) -> web.StreamResponse:
        self.fetches.append(request.path)
        await asyncio.sleep(self.delay)
        keys = {"keys": [key.as_dict(private=False) for key in self.published]}
        return web.json_response(self.key_set if self.key_set is not None else keys, status=self.status)

    @property
    def key_fetches(self) -> int:
        """How often the key set was asked for."""
        return self.fetches.count("/jwks")


def new_key() -> ECKey:
    return ECKey.generate_key("P-256", auto_kid=True)


@asynccontextmanager
async def signing_issuer() -> AsyncIterator[SigningIssuer]:
    issuer = SigningIssuer()
    application = web.Application()
    application.router.add_get("/.well-known/oauth-authorization-server", issuer.answer_metadata)
    application.router.add_get("/jwks", issuer.answer_keys)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    issuer.issuer = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield issuer
    finally:
        await runner.cleanup()


@asynccontextmanager
async def jwks_resource_server(issuer: SigningIssuer, **settings: Any) -> AsyncIterator[ResourceServer]:
    """A resource server that takes the tokens of `issuer` by their signature."""
    async with resource_server(issuer, validation="jwks", **settings) as server:
        yield server
