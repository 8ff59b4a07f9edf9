"""The metadata of the MCP server (RFC 9728)."""

from typing import Any

from keystile_common.doctor.discovery import resource_forms
from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import is_safe
from keystile_common.doctor.scene import Fetched, Scene, other_slash

_ROUTE = "Serve them there: a route at the host's root, which an ingress for the server's path alone does not have."


async def metadata(scene: Scene) -> Verdict:
    """Clients find the metadata where they look first."""
    first, *others = scene.resource_documents
    if first.document is not None:
        return ok(f"They are at {first.url}.")
    where = "where the challenge says" if (scene.bearer or {}).get("resource_metadata") else "at the well-known address"
    seen = f"{first.url} ({where}) {first.trouble}."
    if any(each.document is not None for each in others):
        return problem(f"{seen} They are elsewhere.", "Let the challenge name the address at which they are served.")
    return problem(seen, _ROUTE)


async def well_known(scene: Scene) -> Verdict:
    """Both well-known forms, for clients that do not read the challenge."""
    own, root = (_at(scene, form) for form in resource_forms(scene.url))
    if own is None or root is None:
        return unknown("They were not asked for.")
    if own.document is None:
        return warning(f"{own.url} {own.trouble}.", f"{_ROUTE} Some clients do not read the challenge.")
    if root.document is None:
        return ok(f"{own.url} serves them; {root.url} {root.trouble}, which only old clients mind.")
    if _named(root.document) != _named(own.document):
        return ok(f"{own.url} serves them; {root.url} describes another resource.")
    return ok("Both well-known forms serve them.")


async def resource(scene: Scene) -> Verdict:
    """The `resource` is the URL, byte for byte (RFC 9728 section 3.3)."""
    if scene.resource is None:
        return unknown("There are no metadata to look at.")
    named = scene.resource.get("resource")
    if named == scene.url:
        return ok("It is the URL, byte for byte.")
    if not isinstance(named, str) or not named:
        return problem("The metadata have no resource.", f"Put it in: {scene.url}")
    seen = f"The metadata say {named}, the URL is {scene.url}"
    if named == other_slash(scene.url):
        return warning(
            f"{seen}: they differ by a slash at the end.", f"Give clients the URL {named}; strict ones take no other."
        )
    return problem(
        f"{seen}.",
        "They must be the same, byte for byte: change the server's setting, or give clients the URL that it names. "
        "Behind a proxy the setting is the public URL.",
    )


async def authorization_servers(scene: Scene) -> Verdict:
    """There is an authorization server to go to."""
    if scene.resource is None:
        return unknown("There are no metadata to look at.")
    servers = scene.resource.get("authorization_servers")
    if not isinstance(servers, list) or not servers or not all(isinstance(each, str) for each in servers):
        return problem(
            "The metadata name no authorization server.",
            "Put the issuer's URL into authorization_servers, which is a list.",
        )
    if not is_safe(servers[0]):
        return problem(f"{servers[0]} is no https URL.", "The authorization server's issuer must be an https URL.")
    more = f", and {len(servers) - 1} more, which most clients do not look at" if len(servers) > 1 else ""
    return ok(f"{servers[0]}{more}.")


def _at(scene: Scene, place: str) -> Fetched | None:
    return next((each for each in scene.resource_documents if each.url == place), None)


def _named(document: dict[str, Any]) -> object:
    return document.get("resource")


CHECKS: Checks[Scene] = {
    "resource-metadata": metadata,
    "resource-metadata-well-known": well_known,
    "resource": resource,
    "authorization-servers": authorization_servers,
}
