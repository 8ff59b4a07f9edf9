"""How the MCP endpoint answers those who have no token (RFC 6750 section 3, RFC 9728 section 5.1)."""

from http import HTTPStatus
from urllib.parse import urlsplit

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import Answer, NoAnswerError, is_loopback
from keystile_common.doctor.scene import MCP_HEADERS, Scene, call, initialize, other_slash

_JUNK = "keystile-doctor-made-this-up"
_CHALLENGE_EXAMPLE = 'WWW-Authenticate: Bearer resource_metadata="https://…/.well-known/oauth-protected-resource/…"'


async def unauthenticated(scene: Scene) -> Verdict:
    """A request without a token gets 401."""
    answer = scene.challenge
    if answer is None:
        return problem(
            f"A request without a token gets no answer: {scene.silence}.",
            "Look at the server's log, and at the time-outs of what stands before it.",
        )
    seen = f"A request without a token gets {answer.status}"
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return ok(f"{seen}.")
    if answer.location is not None:
        return problem(
            f"{seen} and is sent on to {answer.location}.",
            "Give clients the URL that answers by itself: a redirect turns a POST into a GET, or loses its token.",
        )
    if HTTPStatus.OK <= answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return problem(f"{seen}: anybody may use this server.", "Let it ask for a token: 401 with a Bearer challenge.")
    return problem(f"{seen}.", _advice(answer))


def _advice(answer: Answer) -> str:
    if answer.status in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}:
        return "No MCP endpoint is here. Check the path of the URL, and the routes of what stands before the server."
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return "The server, or what stands before it, is broken or away: look at its log."
    return "Without a token the answer must be 401: only that makes a client ask its user to sign in."


async def challenge(scene: Scene) -> Verdict:
    """The 401 carries a Bearer challenge that names the metadata and scopes."""
    if scene.challenge is None or scene.challenge.status != HTTPStatus.UNAUTHORIZED:
        return unknown("There is no 401 to look at.")
    if scene.bearer is None:
        return problem("The 401 has no Bearer challenge.", f"Send one, like {_CHALLENGE_EXAMPLE}")
    if "resource_metadata" not in scene.bearer:
        return problem(
            "The Bearer challenge does not name resource_metadata.",
            f"Name them, like {_CHALLENGE_EXAMPLE}; clients of MCP 2025-06-18 find them by nothing else.",
        )
    if "scope" not in scene.bearer:
        return ok(f"It names the metadata at {scene.bearer['resource_metadata']}, and no scope.")
    return ok(f"It names the metadata at {scene.bearer['resource_metadata']}, and the scope {scene.bearer['scope']}.")


async def junk_token(scene: Scene) -> Verdict:
    """A token that nobody issued is refused with 401."""
    answer = await call(scene, _JUNK, secret=False)
    seen = f"A token that was made up gets {answer.status}"
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return ok(f"{seen}.")
    if answer.status < HTTPStatus.MULTIPLE_CHOICES:
        return problem(f"{seen}: tokens are not checked.", "Let the server check every token, on every request.")
    return problem(
        f"{seen}.",
        "It must be 401: on anything else a client whose token has expired does not get a new one. "
        "A 5xx often says that the server cannot reach its authorization server.",
    )


async def other_methods(scene: Scene) -> Verdict:
    """GET and DELETE ask for a token too, or are not allowed."""
    statuses = {}
    for method in ("GET", "DELETE"):
        statuses[method] = (await scene.probe.ask(method, scene.url, headers=MCP_HEADERS)).status
    seen = "Without a token " + " and ".join(f"{method} gets {status}" for method, status in statuses.items())
    open_to_all = [method for method, status in statuses.items() if status < HTTPStatus.MULTIPLE_CHOICES]
    if "DELETE" in open_to_all:
        return problem(f"{seen}.", "DELETE ends sessions: ask for a token there too, or answer 405.")
    if open_to_all:
        return warning(f"{seen}.", "GET opens a stream: ask for a token there too, or answer 405.")
    if max(statuses.values()) >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(f"{seen}.", "401 or 405 is expected: clients try GET, and take a 5xx for a broken server.")
    return ok(f"{seen}.")


async def trailing_slash(scene: Scene) -> Verdict:
    """What becomes of those who add or leave out a slash at the end."""
    path = urlsplit(scene.url).path
    if path in {"", "/"}:
        return ok("The URL has no path, so a slash at its end makes no difference.")
    other = other_slash(scene.url)
    answer = await scene.probe.ask("POST", other, headers=MCP_HEADERS, json=initialize())
    way = "without" if path.endswith("/") else "with"
    if answer.location is None:
        return ok(f"The URL {way} a slash at its end gets {answer.status}.")
    advice = "Serve both, or answer 404: clients lose the token, or turn the POST into a GET, when they are sent on."
    seen = f"The URL {way} a slash at its end is sent on to {answer.location}."
    if answer.location.startswith("http://") and not is_loopback(urlsplit(answer.location).hostname):
        return problem(seen, f"{advice} This one leads to plain http: let the server know that it is behind TLS.")
    return warning(seen, advice)


async def plain_http(scene: Scene) -> Verdict:
    """What becomes of those who write http for https."""
    parts = urlsplit(scene.url)
    if parts.scheme != "https":
        return ok("The URL is plain http itself.")
    if parts.port not in {None, 443}:
        return unknown(f"The URL has the port {parts.port}, so it has no address of plain http.")
    url = f"http://{parts.netloc.removesuffix(':443')}{parts.path}"
    try:
        answer = await scene.probe.ask("POST", url, headers=MCP_HEADERS, json=initialize())
    except NoAnswerError as silence:
        return ok(f"Plain http is not served: {silence}.")
    return judge_plain(answer)


def judge_plain(answer: Answer) -> Verdict:
    """What an answer over plain http means for a server that has an https URL."""
    if answer.location is not None and answer.location.startswith("https://"):
        return ok(f"Plain http gets {answer.status} to https. Clients need the https URL: a redirect loses the POST.")
    if answer.status >= HTTPStatus.BAD_REQUEST and answer.status != HTTPStatus.UNAUTHORIZED:
        return ok(f"Plain http gets {answer.status}.")
    return problem(
        f"Plain http gets {answer.status}.",
        "Close port 80 for this host or send it on to https: whoever writes http sends tokens in plain text.",
    )


CHECKS: Checks[Scene] = {
    "plain-http": plain_http,
    "unauthenticated": unauthenticated,
    "challenge": challenge,
    "junk-token": junk_token,
    "other-methods": other_methods,
    "trailing-slash": trailing_slash,
}
