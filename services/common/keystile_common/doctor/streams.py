"""Whether events of a stream arrive at once, or are held back by what stands before the server."""

import asyncio
from http import HTTPStatus

import aiohttp

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown
from keystile_common.doctor.probe import NoAnswerError
from keystile_common.doctor.scene import Scene, bearer, end_session, initialize

_WAIT_SECONDS = 3.0
_MODERN = "2026-07-28"
_LISTEN = "subscriptions/listen"
_ADVICE = (
    "Turn buffering off on the way (nginx: proxy_buffering off; others: flush at once, and no compression of "
    "text/event-stream): notifications and progress would come late or never."
)


async def streams(scene: Scene) -> Verdict:
    """The first event of a stream that stays open arrives at once."""
    if scene.token is None:
        return unknown("It takes a token.", "Give one with --token-file.")
    # The answer that comes first in such a stream is the server's word that it listens (MCP 2026-07-28).
    return await _modern(scene, scene.token) or await _of_session(scene, scene.token)


async def _modern(scene: Scene, token: str) -> Verdict | None:
    """The verdict of a server of revision 2026-07-28; None for others."""
    headers = {**bearer(token), "Mcp-Protocol-Version": _MODERN, "Mcp-Method": _LISTEN}
    meta = {
        "io.modelcontextprotocol/protocolVersion": _MODERN,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "keystile-doctor", "version": "1"},
    }
    parameters = {"_meta": meta, "notifications": {"toolsListChanged": True}}
    message = {"jsonrpc": "2.0", "id": 1, "method": _LISTEN, "params": parameters}
    try:
        async with scene.probe.stream("POST", scene.url, secret=True, headers=headers, json=message) as response:
            if not _is_stream(response):
                return None
            if await _first_event(scene, response):
                return ok("The first event of a stream arrives at once.")
            return problem("A stream opens, and its first event does not arrive while it is open.", _ADVICE)
    except NoAnswerError as silence:
        # Others are known to answer: if this does not even begin, it is held back until its end.
        return problem(f"A stream does not begin: {silence}.", _ADVICE)


async def _of_session(scene: Scene, token: str) -> Verdict:
    """The verdict of a server of earlier revisions, whose streams need say nothing."""
    opened = await scene.probe.ask("POST", scene.url, secret=True, headers=bearer(token), json=initialize())
    session = opened.headers.get("mcp-session-id")
    headers = {**bearer(token), **({"Mcp-Session-Id": session} if session else {})}
    try:
        return await _listen(scene, headers)
    finally:
        await end_session(scene, headers, session)


async def _listen(scene: Scene, headers: dict[str, str]) -> Verdict:
    try:
        async with scene.probe.stream("GET", scene.url, secret=True, headers=headers) as response:
            if not _is_stream(response):
                return unknown(f"The server offers no stream to look at (GET gets {response.status}).")
            if await _first_event(scene, response):
                return ok("The first event of a stream arrives at once.")
            return unknown("A stream opens at once; the server sent no event to look at.")
    except NoAnswerError as silence:
        return problem(f"A stream does not begin: {silence}.", _ADVICE)


def _is_stream(response: aiohttp.ClientResponse) -> bool:
    return response.status == HTTPStatus.OK and response.content_type == "text/event-stream"


async def _first_event(scene: Scene, response: aiohttp.ClientResponse) -> bool:
    wait = min(_WAIT_SECONDS, scene.probe.seconds_left() / 2)
    try:
        return bool(await asyncio.wait_for(response.content.readany(), wait))
    except TimeoutError:
        return False


CHECKS: Checks[Scene] = {"streams": streams}
