"""Issuers as each provider documents itself: its metadata, and its tokens, by the addresses given with each.

Whatever is taken from there is a claim's name, place and form; the values are made up here.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from tests.integration.mcp.resource_server import ScriptedAuthorizationServer, _loopback

TENANT = "6babcaad-604b-40ac-a9d7-9fd97c0b779f"
API = "11112222-bbbb-3333-cccc-4444dddd5555"
KEY = RSAKey.generate_key(2048, auto_kid=True)
CURVE_KEY = ECKey.generate_key("P-256", auto_kid=True)
RESOURCE = "https://tools.example.com/mcp"
LEFT_OUT = object()


@dataclass(frozen=True)
class Shape:
    """How one provider's issuer and tokens look; ISSUER and NOW in a claim stand for what they say.

    Attributes:
        path: of the issuer, on its host.
        settings: of the MCP server beside `provider` and `authorization_server`.
        header: of an access token, without alg and kid.
        claims: of an access token with both scopes.
        few: changes to them for one with a scope too little.
        id_token: of an ID token; `id_header` its header.
        principal: the subject and client that must come out of it.
        prefix: what clients put before scopes.
        algorithm: what it signs with.
    """

    name: str
    path: str
    claims: Mapping[str, Any]
    few: Mapping[str, Any]
    id_token: Mapping[str, Any]
    principal: tuple[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    header: Mapping[str, Any] = field(default_factory=lambda: {"typ": "JWT"})
    id_header: Mapping[str, Any] = field(default_factory=lambda: {"typ": "JWT"})
    prefix: str = ""
    algorithm: str = "RS256"


# https://auth0.com/docs/secure/tokens/access-tokens/access-token-profiles (both), and .../id-tokens/id-token-structure
AUTH0 = Shape(
    "auth0",
    "/",
    {
        "iss": "ISSUER",
        "sub": "auth0|6553da60a54af58e29493993",
        "aud": [RESOURCE, "https://example.auth0.com/userinfo"],
        "iat": "NOW",
        "exp": 600,
        "azp": "K1AUPhZq8mRi0Q0p",
        "scope": "openid profile mcp:basic mcp:jobs",
    },
    {"scope": "openid mcp:basic"},
    {"iss": "ISSUER", "sub": "auth0|6553da60a54af58e29493993", "aud": RESOURCE, "iat": "NOW", "exp": 600, "sid": "s1"},
    ("auth0|6553da60a54af58e29493993", "K1AUPhZq8mRi0Q0p"),
)
AUTH0_RFC_9068 = Shape(
    "auth0",
    "/",
    {name: value for name, value in AUTH0.claims.items() if name != "azp"}
    | {"client_id": "K1AUPhZq8mRi0Q0p", "jti": "j"},
    AUTH0.few,
    AUTH0.id_token,
    AUTH0.principal,
    header={"typ": "at+jwt"},
)
# https://developer.okta.com/docs/api/openapi/okta-oauth/guides/overview/ (access token and ID token payloads; the
# header has alg and kid)
OKTA = Shape(
    "okta",
    "/oauth2/default",
    {
        "ver": 1,
        "jti": "AT.0mP4JKAZX1iACIT4vbEDF7LpvDVjxypPMf0D7uX39RE",
        "iss": "ISSUER",
        "aud": "api://default",
        "sub": "alice@example.com",
        "iat": "NOW",
        "exp": 600,
        "cid": "0oabv6kx4qq6h1U5l0h7",
        "uid": "00uid4BxXw6I6TV4m0g3",
        "scp": ["openid", "mcp:basic", "mcp:jobs"],
    },
    {"scp": ["mcp:basic"]},
    {
        "ver": 1,
        "jti": "ID.4eAWJOCMB3SX8XewDfVR",
        "iss": "ISSUER",
        "aud": "api://default",
        "sub": "00uid4BxXw6I6TV4m0g3",
        "iat": "NOW",
        "exp": 600,
        "amr": ["pwd"],
        "idp": "00ok1u7AsAkrwdZL3z0g3",
        "auth_time": "NOW",
    },
    ("00uid4BxXw6I6TV4m0g3", "0oabv6kx4qq6h1U5l0h7"),
    settings={"audience": "api://default"},
    header={},
    id_header={},
)
# https://learn.microsoft.com/en-us/entra/identity-platform/access-token-claims-reference and id-token-claims-reference
_ENTRA = {
    "iss": "ISSUER",
    "aud": API,
    "iat": "NOW",
    "nbf": "NOW",
    "exp": 600,
    "azp": "00001111-aaaa-2222-bbbb-3333cccc4444",
    "azpacr": "0",
    "name": "Alice",
    "oid": "aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb",
    "preferred_username": "alice@example.com",
    "scp": "mcp:basic mcp:jobs",
    "sub": "AAAAAAAAAAAAAAAAAAAAAIkzqFVrSaSaFHy782bbtaQ",
    "tid": TENANT,
    "uti": "uti",
    "ver": "2.0",
}
ENTRA = Shape(
    "entra",
    f"/{TENANT}/v2.0",
    _ENTRA,
    {"scp": "mcp:basic"},
    {name: value for name, value in _ENTRA.items() if name not in {"azp", "azpacr", "scp"}} | {"roles": ["mcp:basic"]},
    ("aaaaaaaa-0000-1111-2222-bbbbbbbbbbbb", "00001111-aaaa-2222-bbbb-3333cccc4444"),
    settings={"audience": [API, "api://tools"]},
    prefix=f"{RESOURCE}/",
)
ENTRA_VERSION_1 = Shape(
    "entra",
    ENTRA.path,
    {name: value for name, value in _ENTRA.items() if name not in {"azp", "azpacr", "preferred_username"}}
    | {
        "iss": f"https://sts.windows.net/{TENANT}/",
        "aud": "api://tools",
        "appid": "00001111-aaaa-2222-bbbb-3333cccc4444",
        "upn": "alice@example.com",
        "ver": "1.0",
    },
    ENTRA.few,
    ENTRA.id_token,
    ENTRA.principal,
    settings=ENTRA.settings,
    prefix=ENTRA.prefix,
)
# The same; a machine's token, with the optional claim idtyp.
ENTRA_MACHINE = Shape(
    "entra",
    ENTRA.path,
    {name: value for name, value in _ENTRA.items() if name not in {"scp", "name", "preferred_username"}}
    | {"idtyp": "app", "roles": ["mcp:basic", "mcp:jobs"]},
    {"roles": ["mcp:basic"]},
    ENTRA.id_token,
    ENTRA.principal,
    settings=ENTRA.settings,
    prefix=ENTRA.prefix,
)
# https://www.keycloak.org/docs/latest/server_admin/ and what Keycloak 26.7 issues (see test_keycloak.py)
_KEYCLOAK = {
    "exp": 600,
    "iat": "NOW",
    "auth_time": "NOW",
    "jti": "onrtac:1",
    "iss": "ISSUER",
    "aud": [RESOURCE, "account"],
    "sub": "f1c4f64e-2c0c-4cda-8c9f-9f3f8f3a2b0e",
    "typ": "Bearer",
    "azp": "cli",
    "sid": "s1",
    "realm_access": {"roles": ["mcp:basic", "mcp:jobs", "offline_access"]},
    "resource_access": {RESOURCE: {"roles": ["mcp:basic", "mcp:jobs"]}, "account": {"roles": ["view-profile"]}},
    "scope": "openid mcp:basic mcp:jobs",
    "preferred_username": "alice",
}
_KEYCLOAK_ID = {name: value for name, value in _KEYCLOAK.items() if name != "scope"} | {"typ": "ID"}
KEYCLOAK = Shape(
    "keycloak",
    "/realms/example",
    _KEYCLOAK,
    {"scope": "openid mcp:basic"},
    _KEYCLOAK_ID,
    ("f1c4f64e-2c0c-4cda-8c9f-9f3f8f3a2b0e", "cli"),
)
KEYCLOAK_REALM_ROLES = Shape(
    "keycloak",
    KEYCLOAK.path,
    _KEYCLOAK,
    {"realm_access": {"roles": ["mcp:basic"]}},
    _KEYCLOAK_ID,
    KEYCLOAK.principal,
    settings={"scope_claim": "realm_access"},
    algorithm="PS256",
)
KEYCLOAK_CLIENT_ROLES = Shape(
    "keycloak",
    KEYCLOAK.path,
    _KEYCLOAK,
    {"resource_access": {RESOURCE: {"roles": ["mcp:basic"]}, "account": {"roles": ["mcp:jobs"]}}},
    _KEYCLOAK_ID,
    KEYCLOAK.principal,
    settings={"scope_claim": "resource_access"},
    header={"typ": "at+jwt"},
    algorithm="ES256",
)
# https://docs.aws.amazon.com/cognito/latest/developerguide/amazon-cognito-user-pools-using-the-access-token.html and
# ...-using-the-id-token.html; aud: .../cognito-user-pools-define-resource-servers.html, "Resource binding"
_COGNITO = {
    "sub": "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
    "cognito:groups": ["testers"],
    "iss": "ISSUER",
    "version": 2,
    "client_id": "1example23456789",
    "origin_jti": "oj",
    "event_id": "ev",
    "token_use": "access",
    "scope": f"openid {RESOURCE}/mcp:basic {RESOURCE}/mcp:jobs https://other.example/mcp:admin",
    "auth_time": "NOW",
    "exp": 600,
    "iat": "NOW",
    "jti": "j1",
    "username": "alice",
}
_COGNITO_ID = {
    name: value for name, value in _COGNITO.items() if name not in {"client_id", "scope", "version", "username"}
} | {"token_use": "id", "aud": "1example23456789", "cognito:username": "alice", "email": "alice@example.com"}
COGNITO = Shape(
    "cognito",
    "/eu-central-1_Example1",
    _COGNITO,
    {"scope": f"{RESOURCE}/mcp:basic mcp:jobs https://other.example/mcp:jobs"},
    _COGNITO_ID,
    ("aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee", "1example23456789"),
    settings={"audience": "1example23456789"},
    header={},
    id_header={},
    prefix=f"{RESOURCE}/",
)
COGNITO_BOUND = Shape(
    "cognito",
    COGNITO.path,
    {**_COGNITO, "aud": RESOURCE},
    COGNITO.few,
    {**_COGNITO_ID, "aud": RESOURCE},
    COGNITO.principal,
    header={},
    id_header={},
    prefix=COGNITO.prefix,
)
# RFC 9068 section 2; OpenID Connect Core section 2
GENERIC = Shape(
    "generic",
    "",
    {
        "iss": "ISSUER",
        "sub": "alice",
        "aud": RESOURCE,
        "iat": "NOW",
        "exp": 600,
        "jti": "j",
        "client_id": "cli",
        "scope": "mcp:basic mcp:jobs",
    },
    {"scope": "mcp:basic"},
    {"iss": "ISSUER", "sub": "alice", "aud": RESOURCE, "iat": "NOW", "exp": 600, "azp": "cli", "scope": "mcp:basic"},
    ("alice", "cli"),
    header={"typ": "application/at+jwt"},
    algorithm="ES256",
)

SHAPES = {
    "auth0": AUTH0,
    "auth0, RFC 9068": AUTH0_RFC_9068,
    "okta": OKTA,
    "entra": ENTRA,
    "entra, version 1": ENTRA_VERSION_1,
    "entra, a machine": ENTRA_MACHINE,
    "keycloak": KEYCLOAK,
    "keycloak, realm roles": KEYCLOAK_REALM_ROLES,
    "keycloak, client roles": KEYCLOAK_CLIENT_ROLES,
    "cognito": COGNITO,
    "cognito, bound": COGNITO_BOUND,
    "generic": GENERIC,
}


class ProviderIssuer(ScriptedAuthorizationServer):
    """Publishes metadata at one of the well-known forms, and keys; signs; introspects; is Google's tokeninfo."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.asked: list[str] = []
        self.metadata: dict[str, Any] = {}
        self.token_info_answer: tuple[int, str] | None = None
        self.token_info: dict[str, dict[str, Any]] = {}

    def settings(self, shape: Shape, **more: Any) -> dict[str, Any]:
        """Of an MCP server that trusts it."""
        return {"provider": shape.name, "resource": RESOURCE, **shape.settings, **more}

    def access_token(self, shape: Shape, **changes: Any) -> str:
        """One of the provider's; LEFT_OUT leaves a claim out."""
        return self.sign(shape, shape.header, {**shape.claims, **changes})

    def id_token(self, shape: Shape, **changes: Any) -> str:
        """One of the provider's, with the audience of its access tokens, as if a client were registered by that."""
        return self.sign(shape, shape.id_header, {**shape.id_token, **changes})

    def sign(self, shape: Shape, header: Mapping[str, Any], claims: Mapping[str, Any], alg: str = "") -> str:
        key = CURVE_KEY if (alg or shape.algorithm) == "ES256" else KEY
        protected = {"alg": alg or shape.algorithm, "kid": key.kid, **header}
        text = json.dumps({name: self.value(each) for name, each in claims.items() if each is not LEFT_OUT})
        return jws.serialize_compact(protected, text, key, algorithms=["RS256", "PS256", "ES256", "RS512"])

    def value(self, claim: Any) -> Any:
        now = int(time.time())
        if claim in (600, -5):
            return now + claim
        return {"ISSUER": self.issuer, "NOW": now}.get(claim, claim) if isinstance(claim, str) else claim

    async def publish(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path)
        root = self.issuer.removesuffix(self.path)
        if request.path == f"{self.path.rstrip('/')}/.well-known/openid-configuration":
            document = {
                "issuer": self.issuer,
                "jwks_uri": f"{root}/keys",
                "introspection_endpoint": f"{root}/introspect",
            } | self.metadata
            return web.json_response(document)
        if request.path == "/keys":
            # Entra and others put certificates beside their keys, and no alg.
            keys = [{**key.as_dict(private=False), "use": "sig", "x5t": "t"} for key in (KEY, CURVE_KEY)]
            return web.json_response({"keys": keys})
        # As Cognito and others do for a well-known address that they do not have.
        return web.json_response({"message": "no"}, status=400)

    async def answer_token_info(self, request: web.Request) -> web.StreamResponse:
        self.asked.append(request.path_qs)
        if self.token_info_answer is not None:
            status, text = self.token_info_answer
            return web.Response(status=status, text=text)
        token = request.headers["Authorization"].removeprefix("Bearer ")
        if token in self.token_info:
            return web.json_response(self.token_info[token])
        return web.json_response({"error": "invalid_token", "error_description": "Invalid Value"}, status=400)


@asynccontextmanager
async def provider_issuer(path: str) -> AsyncIterator[ProviderIssuer]:
    issuer = ProviderIssuer(path)
    application = web.Application()
    application.router.add_post("/introspect", issuer.introspect)
    application.router.add_post("/tokeninfo", issuer.answer_token_info)
    application.router.add_get("/{rest:.*}", issuer.publish)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    listener = _loopback()
    await web.SockSite(runner, listener).start()
    issuer.issuer = f"http://127.0.0.1:{listener.getsockname()[1]}{path}"
    try:
        yield issuer
    finally:
        await runner.cleanup()
