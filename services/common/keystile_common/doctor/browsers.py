"""What clients in web pages need: cross-origin requests (Fetch standard, CORS)."""

from http import HTTPStatus

from keystile_common.doctor.finding import Checks, Verdict, ok, unknown, warning
from keystile_common.doctor.scene import STRANGER, Scene

_WHO = "Only clients that run in a web page need it"


def _allows(headers: object, origin: str = STRANGER) -> bool:
    return headers in {"*", origin}


async def metadata(scene: Scene) -> Verdict:
    """Web pages may read the metadata."""
    places = [each.url for each in (*scene.resource_documents, *scene.issuer_documents) if each.document is not None]
    if not places:
        return unknown("There are no metadata to look at.")
    closed = []
    for place in places:
        answer = await scene.probe.ask("GET", place, headers={"Origin": STRANGER, "Accept": "application/json"})
        if not _allows(answer.headers.get("access-control-allow-origin")):
            closed.append(place)
    if closed:
        return warning(
            f"Web pages cannot read {', '.join(closed)}.", f"Send Access-Control-Allow-Origin: * there. {_WHO}."
        )
    return ok("Web pages may read all of them.")


async def _preflight(scene: Scene, url: str) -> str:
    """What a page of another origin lacks; empty if nothing."""
    headers = {
        "Origin": STRANGER,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type,mcp-protocol-version",
    }
    answer = await scene.probe.ask("OPTIONS", url, headers=headers)
    if not HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return f"the preflight gets {answer.status}"
    if not _allows(answer.headers.get("access-control-allow-origin")):
        return "Access-Control-Allow-Origin is missing"
    allowed = answer.headers.get("access-control-allow-headers", "").lower().replace(" ", "").split(",")
    return "" if "*" in allowed or "content-type" in allowed else "Access-Control-Allow-Headers lacks Content-Type"


async def _endpoint(scene: Scene, name: str) -> Verdict:
    lacks = await _preflight(scene, scene.endpoint(name))
    if lacks:
        return warning(f"Web pages cannot use the {name}: {lacks}.", f"Answer preflights (OPTIONS) there. {_WHO}.")
    return ok(f"Web pages may use the {name}.")


async def token(scene: Scene) -> Verdict:
    """Web pages may ask for tokens."""
    return await _endpoint(scene, "token_endpoint")


async def registration(scene: Scene) -> Verdict:
    """Web pages may register."""
    if scene.metadata and "registration_endpoint" not in scene.metadata:
        return ok("There is no registration_endpoint.")
    return await _endpoint(scene, "registration_endpoint")


async def mcp(scene: Scene) -> Verdict:
    """Web pages may use the MCP server: what many servers refuse on purpose."""
    lacks = await _preflight(scene, scene.url)
    if lacks:
        return ok(f"A web page of any origin cannot use the MCP server ({lacks}), which may be meant so.")
    return ok("Web pages of any origin may use the MCP server.")


CHECKS: Checks[Scene] = {
    "cors-metadata": metadata,
    "cors-token": token,
    "cors-registration": registration,
    "cors-mcp": mcp,
}
