"""What the authorization endpoint refuses before anybody signs in (OAuth 2.1 section 4.1.1, RFC 8707)."""

import hashlib
from http import HTTPStatus
from urllib.parse import parse_qs, urlsplit

from yarl import URL

from keystile_common import base64url
from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown
from keystile_common.doctor.probe import Answer
from keystile_common.doctor.scene import STRANGER, Scene, other_slash

_NEEDS_CLIENT = unknown("It takes a client that is registered.", "With --register this is looked at too.")
_STRANGE_REDIRECT = f"{STRANGER}/callback"
_CHALLENGE = base64url.encode(hashlib.sha256(b"keystile-doctor" * 4).digest())


async def _authorize(scene: Scene, client_id: str, **changes: str | None) -> Answer:
    parameters = {
        "response_type": "code",
        "client_id": client_id,
        "redirect_uri": scene.client_redirect,
        "state": "keystile-doctor",
        "resource": scene.url,
        "code_challenge": _CHALLENGE,
        "code_challenge_method": "S256",
        **changes,
    }
    given = {name: value for name, value in parameters.items() if value is not None}
    url = URL(scene.endpoint("authorization_endpoint")).update_query(given)
    return await scene.probe.ask("GET", str(url), headers={"Accept": "text/html"})


def _error(scene: Scene, answer: Answer) -> str | None:
    """The error code that was sent back to the client, if one was; empty for a code without an error."""
    if answer.location is None or not answer.location.startswith(scene.client_redirect):
        return None
    return next(iter(parse_qs(urlsplit(answer.location).query).get("error", [])), "")


async def strange_redirect(scene: Scene) -> Verdict:
    """Nobody is sent to an address that was not registered."""
    answer = await _authorize(scene, scene.client_id or f"{STRANGER}/unknown-client", redirect_uri=_STRANGE_REDIRECT)
    if answer.location is not None and answer.location.startswith(STRANGER):
        return problem(
            "A redirect_uri that nobody registered is redirected to.",
            "Compare redirect_uri with those registered, exactly, and show an error page: this one is an open "
            "redirector that gives codes away.",
        )
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(f"A redirect_uri that nobody registered gets {answer.status}.", "Answer 400, with a page.")
    return ok(f"A redirect_uri that nobody registered gets {answer.status}, and nobody is sent there.")


async def pkce_required(scene: Scene) -> Verdict:
    """A request without a code challenge is refused (OAuth 2.1 section 4.1.2.1), and so is `plain`."""
    if scene.client_id is None:
        return _NEEDS_CLIENT
    refused = []
    for name, changes in (
        ("no code_challenge", {"code_challenge": None, "code_challenge_method": None}),
        ("the method plain", {"code_challenge_method": "plain"}),
    ):
        answer = await _authorize(scene, scene.client_id, **changes)
        if answer.status in {HTTPStatus.OK, HTTPStatus.FOUND, HTTPStatus.SEE_OTHER} and _error(scene, answer) is None:
            return unknown(f"A request with {name} is not refused before the user signs in; it may be after that.")
        if _error(scene, answer) == "":
            return problem(f"A request with {name} gets a code.", "Require PKCE with S256 of every client.")
        refused.append(name)
    return ok(f"A request with {' or '.join(refused)} is refused.")


async def resource_parameter(scene: Scene) -> Verdict:
    """`resource` is taken as clients send it: the URL, and the URL with a slash at its end."""
    if scene.client_id is None:
        return _NEEDS_CLIENT
    for resource in (scene.url, other_slash(scene.url)):
        error = _error(scene, await _authorize(scene, scene.client_id, resource=resource))
        if error:
            return problem(
                f"A request with resource={resource} is refused ({error}).",
                "Take it as the same resource with and without a slash at its end: clients send both.",
            )
    return ok("It is taken with and without a slash at its end.")


CHECKS: Checks[Scene] = {
    "strange-redirect": strange_redirect,
    "pkce-required": pkce_required,
    "resource-parameter": resource_parameter,
}
