"""Finds what a client finds: the challenge, the resource's metadata, the authorization server's metadata."""

import asyncio
import re
from urllib.parse import urlsplit, urlunsplit

from keystile_common.doctor.finding import shown
from keystile_common.doctor.probe import NoAnswerError, Probe
from keystile_common.doctor.scene import MCP_HEADERS, Fetched, Scene, initialize

_RESOURCE = "/.well-known/oauth-protected-resource"
_SERVER = "/.well-known/oauth-authorization-server"
_OPENID = "/.well-known/openid-configuration"

# RFC 9110 section 11: a parameter, or the name of a scheme with something or nothing behind it.
_PART = re.compile(r'([!#$%&\'*+.^_`|~\w-]+)(?:[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s,"=]+)))?', re.ASCII)


async def discover(scene: Scene) -> None:
    """Fill in what a client learns before it asks for a token. What is missing stays missing; the checks say so."""
    try:
        scene.challenge = await scene.probe.ask("POST", scene.url, headers=MCP_HEADERS, json=initialize())
    except NoAnswerError as silence:
        scene.silence = str(silence)
    else:
        scene.bearer = bearer_challenge(scene.challenge.headers.get("www-authenticate", ""))
    scene.resource_documents = await _fetch(scene.probe, resource_places(scene.url, scene.bearer or {}))
    scene.resource = _first(scene.resource_documents)
    servers = (scene.resource or {}).get("authorization_servers")
    if isinstance(servers, list) and servers and isinstance(servers[0], str):
        scene.issuer = servers[0]
        scene.issuer_documents = await _fetch(scene.probe, issuer_places(scene.issuer))
        scene.metadata = _first(scene.issuer_documents) or {}


def bearer_challenge(header: str) -> dict[str, str] | None:
    """The parameters of the Bearer challenge in a WWW-Authenticate header (RFC 9110 section 11.6.1), or None."""
    found: dict[str, str] | None = None
    scheme = ""
    for part in _PART.finditer(header):
        name, quoted, plain = part.groups()
        if quoted is None and plain is None:
            scheme = name.lower()
            found = {} if scheme == "bearer" and found is None else found
        elif scheme == "bearer" and found is not None:
            found.setdefault(name.lower(), plain or re.sub(r"\\(.)", r"\1", quoted))
    return found


def resource_places(url: str, challenge: dict[str, str]) -> list[str]:
    """Where clients look for the metadata of `url`: where the challenge says, else RFC 9728 section 3.1's two forms."""
    named = challenge.get("resource_metadata")
    return list(dict.fromkeys(([named] if named else []) + list(resource_forms(url))))


def resource_forms(url: str) -> tuple[str, str]:
    """The well-known address for `url`, and that for its host alone."""
    parts = urlsplit(url)
    own = urlunsplit((parts.scheme, parts.netloc, _RESOURCE + parts.path.removesuffix("/"), parts.query, ""))
    return own, urlunsplit((parts.scheme, parts.netloc, _RESOURCE, "", ""))


def issuer_places(issuer: str) -> list[str]:
    """Where clients look for an issuer's metadata, in their order (MCP 2025-11-25, RFC 8414 sections 3.1 and 5)."""
    try:
        parts = urlsplit(issuer)
    except ValueError:
        return []
    path = parts.path.removesuffix("/")
    paths = (_SERVER + path, _OPENID + path, path + _OPENID)
    return list(dict.fromkeys(urlunsplit((parts.scheme, parts.netloc, each, "", "")) for each in paths))


async def _fetch(probe: Probe, places: list[str]) -> list[Fetched]:
    return list(await asyncio.gather(*(_fetch_one(probe, place) for place in places)))


async def _fetch_one(probe: Probe, place: str) -> Fetched:
    try:
        answer = await probe.ask("GET", place, headers={"Accept": "application/json"})
    except NoAnswerError as silence:
        return Fetched(place, None, None, f"gives no answer: {silence}")
    if answer.location is not None:
        return Fetched(place, answer, None, f"redirects to {shown(answer.location)}")
    if answer.status != 200:  # noqa: PLR2004
        return Fetched(place, answer, None, f"answers {answer.status}")
    if not answer.is_whole:
        return Fetched(place, answer, None, f"answers more than {len(answer.body) // 1024} kB")
    document = answer.document()
    if document is None:
        kind = answer.media_type or "no type"
        return Fetched(place, answer, None, f"answers 200 with what is no JSON object ({kind})")
    return Fetched(place, answer, document, "")


def _first(places: list[Fetched]) -> dict[str, object] | None:
    return next((each.document for each in places if each.document is not None), None)
