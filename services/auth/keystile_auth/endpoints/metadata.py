"""Authorization server metadata (RFC 8414, OpenID Connect Discovery) and the key set (RFC 7517)."""

from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keystile_auth.clients.client import AUTH_METHODS
from keystile_auth.endpoints.answers import CORS
from keystile_auth.endpoints.token import GRANT_TYPES
from keystile_auth.settings import AuthSettings
from keystile_auth.tokens.resources import Resources
from keystile_auth.tokens.signing_keys import SigningKeys
from keystile_common.jws import ALGORITHMS

# Less than PUBLISHED_SECONDS of the signing keys: a copy of the key set must know a key before it signs.
_CACHE = {"Cache-Control": "public, max-age=300"}

_Handler = Callable[[Request], Awaitable[Response]]


def authorization_server_metadata(settings: AuthSettings, resources: Resources) -> dict[str, Any]:
    """The metadata document (RFC 8414 section 2). Every URL in it comes from the settings, none from a request."""
    issuer = settings.issuer
    return {
        "issuer": issuer,
        "authorization_endpoint": f"{issuer}/authorize",
        "token_endpoint": f"{issuer}/token",
        "introspection_endpoint": f"{issuer}/introspect",
        "revocation_endpoint": f"{issuer}/revoke",
        "jwks_uri": f"{issuer}/jwks",
        **({"registration_endpoint": f"{issuer}/register"} if settings.registration.enabled else {}),
        "scopes_supported": list(resources.scopes),
        "response_types_supported": ["code"],
        "response_modes_supported": ["query"],
        "grant_types_supported": list(GRANT_TYPES),
        "code_challenge_methods_supported": ["S256"],
        "token_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "token_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "revocation_endpoint_auth_methods_supported": list(AUTH_METHODS),
        "revocation_endpoint_auth_signing_alg_values_supported": list(ALGORITHMS),
        "introspection_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "client_id_metadata_document_supported": settings.metadata_documents.enabled,
        "authorization_response_iss_parameter_supported": True,
        "protected_resources": [resource.uri for resource in resources.by_name.values()],
    }


def routes(settings: AuthSettings, resources: Resources, keys: SigningKeys) -> list[Route]:
    """Both documents at each well-known form, and the key set as it is at each moment.

    For an issuer with a path that is: the path behind the well-known part (RFC 8414 section 3.1), and in front of
    it (OpenID Connect Discovery section 4).
    """
    path = urlsplit(settings.issuer).path
    document = authorization_server_metadata(settings, resources)
    # OpenID Connect Discovery requires these two; no ID token is issued without the openid scope, which we lack.
    openid = {
        **document,
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": ["ES256"],
    }
    places = {
        f"/.well-known/oauth-authorization-server{path}": document,
        f"{path}/.well-known/oauth-authorization-server": document,
        f"/.well-known/openid-configuration{path}": openid,
        f"{path}/.well-known/openid-configuration": openid,
    }

    async def key_set(_: Request) -> Response:
        return JSONResponse({"keys": await keys.published()}, headers=_CACHE)

    return [*(_route(place, _constant(content)) for place, content in places.items()), _route(f"{path}/jwks", key_set)]


def _constant(content: dict[str, Any]) -> _Handler:
    async def get(_: Request) -> Response:
        return JSONResponse(content, headers=_CACHE)

    return get


def _route(place: str, handler: _Handler) -> Route:
    return Route(place, handler, methods=["GET", "OPTIONS"], middleware=CORS)
