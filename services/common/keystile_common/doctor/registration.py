"""Registers a client and deletes it again (RFC 7591, RFC 7592). The only thing here that writes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPStatus

from keystile_common.doctor.finding import Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import Answer, NoAnswerError
from keystile_common.doctor.scene import Scene

DELETE_SECONDS = 4.0
_CLIENT_NAME = "keystile doctor (may be deleted)"
_NOT_ASKED = unknown("Nothing was registered.", "With --register a client is registered and deleted again.")


@dataclass(slots=True)
class Registration:
    """What became of it.

    Attributes:
        verdict: the last word about it.
    """

    verdict: Verdict = _NOT_ASKED


@asynccontextmanager
async def registered(scene: Scene) -> AsyncIterator[Registration]:
    """Register a client for the block, if that was asked for; `scene.client_id` is it."""
    registration = Registration()
    if not scene.options.register:
        yield registration
        return
    answer = None
    try:
        answer = await _register(scene, registration)
    except NoAnswerError as silence:
        registration.verdict = unknown(f"No client could be registered: {silence}.")
    try:
        yield registration
    finally:
        if answer is not None:
            scene.probe.extend(DELETE_SECONDS)
            registration.verdict = await _delete(scene, answer)


async def _register(scene: Scene, registration: Registration) -> Answer | None:
    metadata = {
        "client_name": _CLIENT_NAME,
        "redirect_uris": [scene.client_redirect],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
    }
    answer = await scene.probe.ask("POST", scene.trusted_endpoint("registration_endpoint"), json=metadata)
    document = answer.document() or {}
    for name in ("client_secret", "registration_access_token"):
        if isinstance(document.get(name), str):
            scene.probe.hide(document[name])
    client_id = document.get("client_id")
    if answer.status == HTTPStatus.CREATED and isinstance(client_id, str) and client_id:
        scene.client_id = client_id
        return answer
    registration.verdict = problem(
        f"A registration gets {answer.status} ({document.get('error', 'no error code')}) in place of 201.",
        "Let public clients with a loopback redirect register, or stop announcing registration_endpoint. "
        "429 says that many registered lately: try later.",
    )
    return None


async def _delete(scene: Scene, registered_with: Answer) -> Verdict:
    document = registered_with.document() or {}
    url, token = document.get("registration_client_uri"), document.get("registration_access_token")
    left = f"Delete the client {scene.client_id} by hand; it is called {_CLIENT_NAME}."
    if not isinstance(url, str) or not isinstance(token, str):
        return warning("A client was registered; it cannot be deleted from here (no RFC 7592).", left)
    try:
        answer = await scene.probe.ask("DELETE", url, secret=True, headers={"Authorization": f"Bearer {token}"})
    except NoAnswerError as silence:
        return warning(f"A client was registered and not deleted: {silence}.", left)
    if answer.status != HTTPStatus.NO_CONTENT:
        return warning(f"A client was registered; deleting it gets {answer.status} in place of 204.", left)
    return ok("A client was registered, and deleted again.")
