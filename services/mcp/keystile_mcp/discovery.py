"""An issuer's metadata (RFC 8414, OpenID Connect Discovery), for what the settings do not say."""

import json
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from keystile_common.http_client import HttpClient
from keystile_common.settings import is_loopback_host
from keystile_mcp.introspection_answer import IntrospectionError

MAX_DOCUMENT_BYTES = 256 * 1024


class DiscoveryError(IntrospectionError):
    """The issuer says nothing that can be used; `str()` says why."""


def metadata_places(issuer: str) -> tuple[str, ...]:
    """Where an issuer's metadata may be: RFC 8414 section 3.1, OpenID Connect Discovery section 4, and both mixed."""
    url = urlsplit(issuer)
    origin, path = f"{url.scheme}://{url.netloc}", url.path.rstrip("/")
    return tuple(
        dict.fromkeys(
            (
                f"{origin}/.well-known/oauth-authorization-server{path}",
                f"{origin}{path}/.well-known/openid-configuration",
                f"{origin}/.well-known/openid-configuration{path}",
            )
        )
    )


async def find_address(client: HttpClient, issuer: str, name: str) -> str:
    """The address that `issuer`'s metadata have under `name`.

    Args:
        client: fetches.
        issuer: as set.
        name: such as `jwks_uri`.

    Raises:
        DiscoveryError: there is none, or no safe one.
        aiohttp.ClientError: the issuer cannot be reached.
    """
    problem = "it has no metadata"
    for place in metadata_places(issuer):
        document = await fetch(client, place, missing_ok=True)
        if not isinstance(document, dict):
            continue
        # RFC 8414 section 3.3: whoever says another name may be anybody.
        if document.get("issuer") != issuer:
            problem = "its metadata name another issuer"
            continue
        address = document.get(name)
        if isinstance(address, str) and _is_safe(address):
            return address
        problem = f"its metadata have no https {name}"
    raise DiscoveryError(problem)


async def fetch(client: HttpClient, url: str, *, missing_ok: bool = False) -> Any:
    """A JSON document; None if it is missing and may be.

    Raises:
        DiscoveryError: another answer than that.
        aiohttp.ClientError: nobody answers.
    """
    async with client.request("GET", url) as response:
        # Some answer 400 or 403 for a well-known address that they do not have.
        if missing_ok and HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return None
        if response.status != HTTPStatus.OK:
            raise DiscoveryError(f"it answered with status {response.status}")
        body = b""
        while not response.content.at_eof():
            body += await response.content.read(MAX_DOCUMENT_BYTES + 1 - len(body))
            if len(body) > MAX_DOCUMENT_BYTES:
                raise DiscoveryError(f"a document is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise DiscoveryError("a document is not JSON") from None


def _is_safe(address: str) -> bool:
    try:
        url = urlsplit(address)
        return url.scheme == "https" or (url.scheme == "http" and is_loopback_host(url.hostname))
    except ValueError:
        return False
