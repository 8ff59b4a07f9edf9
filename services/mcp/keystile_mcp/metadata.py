"""Protected resource metadata (RFC 9728), and the page at the root that points to it."""

from urllib.parse import urlsplit, urlunsplit

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, request_response

from keystile_mcp.settings import ResourceServerSettings

WELL_KNOWN = "/.well-known/oauth-protected-resource"
MAX_AGE_SECONDS = 300


def metadata_url(resource: str) -> str:
    """Where the metadata of `resource` are: the well-known part before its path (RFC 9728 section 3.1)."""
    url = urlsplit(resource)
    return urlunsplit((url.scheme, url.netloc, WELL_KNOWN + url.path, "", ""))


def document(settings: ResourceServerSettings) -> dict[str, object]:
    """The metadata document (RFC 9728 section 2)."""
    optional = {"resource_documentation": settings.resource_documentation}
    return {
        "resource": settings.resource,
        "resource_name": settings.resource_name,
        "authorization_servers": [settings.authorization_server],
        "scopes_supported": [settings.advertised_prefix + scope for scope in settings.scopes],
        "bearer_methods_supported": ["header"],
        **{name: value for name, value in optional.items() if value is not None},
    }


def routes(settings: ResourceServerSettings) -> list[Route]:
    """The metadata at both places where clients look, readable by any web page, and `/`.

    The form at the host's root is for clients that do not put the resource's path behind the well-known part.
    """
    metadata = document(settings)
    root = {
        "name": settings.resource_name,
        "mcp_endpoint": settings.resource,
        "resource_metadata": metadata_url(settings.resource),
    }

    async def answer_metadata(_: Request) -> Response:
        return JSONResponse(metadata, headers={"Cache-Control": f"public, max-age={MAX_AGE_SECONDS}"})

    async def answer_root(_: Request) -> Response:
        return JSONResponse(root)

    # The document is the same for everybody, so no origin is kept out; preflights ask for any header.
    public = CORSMiddleware(
        request_response(answer_metadata), allow_origins=["*"], allow_methods=["GET"], allow_headers=["*"]
    )
    return [
        Route(WELL_KNOWN, public, methods=["GET", "OPTIONS"]),
        Route(WELL_KNOWN + settings.endpoint_path, public, methods=["GET", "OPTIONS"]),
        Route("/", answer_root, methods=["GET"]),
    ]
