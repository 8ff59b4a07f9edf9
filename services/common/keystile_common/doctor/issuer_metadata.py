"""The metadata of the authorization server (RFC 8414, OpenID Connect Discovery), and what clients need of them."""

from http import HTTPStatus

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import is_safe
from keystile_common.doctor.scene import Scene

_NOTHING = unknown("There are no metadata of an authorization server to look at.")
_BY_HAND = "Turn one of the two on, or set each client up by hand and give its user the client_id."


async def metadata(scene: Scene) -> Verdict:
    """Clients find the metadata at one of the forms that they try."""
    places = scene.issuer_documents
    if not places:
        return unknown("No authorization server is known.")
    found = [each.url for each in places if each.document is not None]
    if not found:
        return problem(
            ". ".join(f"{each.url} {each.trouble}" for each in places) + ".",
            "Serve them at the first of these, at the root of the issuer's host. "
            "Check that the issuer in authorization_servers is the authorization server's own.",
        )
    for each in places:
        if each.document is not None:
            break
        # A client goes on to the next form at a 4xx (MCP 2025-11-25), and may give up at anything else.
        if each.answer is None or not HTTPStatus.BAD_REQUEST <= each.answer.status < HTTPStatus.INTERNAL_SERVER_ERROR:
            return warning(f"{each.url} {each.trouble}.", "Answer 404 there, or the metadata: some clients stop here.")
    if places[0].document is None:
        return warning(
            f"Only {', '.join(found)}.", f"Serve {places[0].url} too: clients of MCP 2025-06-18 ask for nothing else."
        )
    return ok(f"{', '.join(found)}.")


async def issuer(scene: Scene) -> Verdict:
    """Every document's `issuer` is the one that the resource names, byte for byte (RFC 8414 section 3.3)."""
    documents = [(each.url, each.document) for each in scene.issuer_documents if each.document is not None]
    if not documents:
        return _NOTHING
    for url, document in documents:
        named = document.get("issuer")
        if named != scene.issuer:
            return problem(
                f"{url} says the issuer is {named}; the MCP server's metadata say {scene.issuer}.",
                "They must be the same, byte for byte (a slash at the end counts): "
                "put the issuer as it calls itself into authorization_servers.",
            )
        endpoints = ("authorization_endpoint", "token_endpoint", "registration_endpoint")
        if any(document.get(name) != scene.metadata.get(name) for name in endpoints):
            return warning(f"{url} names other endpoints than {documents[0][0]}.", "Let every form tell the same.")
    return ok(f"It is {scene.issuer}, byte for byte, in each document.")


async def endpoints(scene: Scene) -> Verdict:
    """The endpoints that clients need are there, and https."""
    if not scene.metadata:
        return _NOTHING
    for name in ("authorization_endpoint", "token_endpoint"):
        if not isinstance(scene.metadata.get(name), str):
            return problem(f"The metadata have no {name}.", "Put it in: no client can do without it.")
    told = {name: url for name, url in scene.metadata.items() if name.endswith("_endpoint") or name == "jwks_uri"}
    unsafe = [f"{name} ({url})" for name, url in told.items() if not isinstance(url, str) or not is_safe(url)]
    if unsafe:
        return problem(
            f"Not https: {', '.join(unsafe)}.",
            "Every endpoint must be an https URL. Behind a proxy that ends TLS, set the authorization server's "
            "public URL: it made these of what the proxy passed on.",
        )
    return ok(f"{len(told)} endpoints, each https or on this machine.")


async def pkce(scene: Scene) -> Verdict:
    """S256 is announced, without which MCP clients must refuse."""
    if not scene.metadata:
        return _NOTHING
    methods = _names(scene, "code_challenge_methods_supported")
    if "S256" in methods:
        return ok("code_challenge_methods_supported has S256.")
    return problem(
        "code_challenge_methods_supported does not have S256.",
        "Announce it (and support it): MCP clients must refuse to go on without it.",
    )


async def metadata_documents(scene: Scene) -> Verdict:
    """Clients may come with a Client ID Metadata Document."""
    if not scene.metadata:
        return _NOTHING
    if scene.metadata.get("client_id_metadata_document_supported") is not True:
        return ok("Not supported; clients register, or are set up by hand.")
    if "none" not in _names(scene, "token_endpoint_auth_methods_supported"):
        return warning(
            "Supported, but token_endpoint_auth_methods_supported does not have none.",
            "Add none: Claude uses its document only where both are announced.",
        )
    return ok("Supported, also for public clients (none): what Claude and ChatGPT look for.")


async def dynamic_registration(scene: Scene) -> Verdict:
    """A client that nobody has set up can become one."""
    if not scene.metadata:
        return _NOTHING
    documents = scene.metadata.get("client_id_metadata_document_supported") is True
    if isinstance(scene.metadata.get("registration_endpoint"), str):
        return ok("There is a registration_endpoint.")
    if documents:
        return ok("There is none; clients come with a metadata document. Those that only register cannot connect.")
    return warning("Neither registration nor metadata documents: a new client cannot introduce itself.", _BY_HAND)


async def refresh(scene: Scene) -> Verdict:
    """Clients may refresh, so that their users need not sign in again and again."""
    if not scene.metadata:
        return _NOTHING
    grants = _names(scene, "grant_types_supported") or ["authorization_code", "implicit"]  # RFC 8414 section 2
    if "authorization_code" not in grants:
        return problem("grant_types_supported has no authorization_code.", "Announce it: clients come with codes.")
    if "refresh_token" not in grants:
        return warning("grant_types_supported has no refresh_token.", "Announce it, or users sign in again each time.")
    return ok("authorization_code and refresh_token are supported.")


def _names(scene: Scene, member: str) -> list[object]:
    value = scene.metadata.get(member)
    return value if isinstance(value, list) else []


CHECKS: Checks[Scene] = {
    "issuer-metadata": metadata,
    "issuer": issuer,
    "endpoints": endpoints,
    "pkce": pkce,
    "metadata-documents": metadata_documents,
    "dynamic-registration": dynamic_registration,
    "grant-types": refresh,
}
