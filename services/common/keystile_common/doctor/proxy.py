"""What stands before the servers: how much it lets through, and whose word it takes for the host."""

from http import HTTPStatus

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import Answer, NoAnswerError
from keystile_common.doctor.scene import FORGED_HOST, MCP_HEADERS, Scene, initialize

_HEADER_BYTES = 10_000
_BODY_BYTES = 1_000_000
_FORGED = {
    "X-Forwarded-Host": FORGED_HOST,
    "X-Forwarded-Proto": "http",
    "X-Forwarded-Prefix": "/keystile-doctor-forged",
    "Forwarded": f"host={FORGED_HOST};proto=http",
}
_MARKS = (FORGED_HOST, "keystile-doctor-forged")


async def large_header(scene: Scene) -> Verdict:
    """A header of 10 kB gets through: signed tokens are large."""
    headers = {**MCP_HEADERS, "X-Keystile-Doctor": "x" * _HEADER_BYTES}
    advice = (
        "Let headers of 16 kB through (nginx: large_client_header_buffers): signed tokens of many groups are large."
    )
    try:
        answer = await scene.probe.ask("POST", scene.url, headers=headers, json=initialize())
    except NoAnswerError as silence:
        return warning(f"A header of 10 kB gets no answer: {silence}.", advice)
    return _same(scene, answer, "A header of 10 kB", advice)


async def large_body(scene: Scene) -> Verdict:
    """A body of 1 MB gets through: arguments of tools are large."""
    body = initialize("x" * _BODY_BYTES)
    answer = await scene.probe.ask("POST", scene.url, headers=MCP_HEADERS, json=body)
    advice = "Let bodies of a few MB through (nginx: client_max_body_size), if tools take files or long texts."
    return _same(scene, answer, "A body of 1 MB", advice)


def _same(scene: Scene, answer: Answer, what: str, advice: str) -> Verdict:
    if scene.challenge is None:
        return unknown("There is no answer to compare with.")
    seen = f"{what} gets {answer.status}"
    if answer.status != scene.challenge.status:
        return warning(f"{seen}; without it, it is {scene.challenge.status}.", advice)
    return ok(f"{seen}, as without it.")


async def forged_host(scene: Scene) -> Verdict:
    """What a stranger writes into Host and X-Forwarded-… changes no link."""
    places = [each.url for each in (*scene.resource_documents, *scene.issuer_documents) if each.document is not None]
    for name, headers in (("X-Forwarded-Host and Forwarded", _FORGED), ("Host", {"Host": FORGED_HOST})):
        answers = [await scene.probe.ask("GET", place, headers=headers) for place in places]
        answers.append(await scene.probe.ask("POST", scene.url, headers={**MCP_HEADERS, **headers}, json=initialize()))
        for answer in answers:
            # What refuses the name may well repeat it.
            told = answer.headers.get("www-authenticate", "") + (answer.location or "")
            if answer.status == HTTPStatus.OK:
                told += answer.body.decode(errors="replace")
            if any(mark in told for mark in _MARKS):
                return problem(
                    f"{answer.url} makes its links of what the request says in {name}.",
                    "Set the public URL in the server's settings, and let the proxy overwrite these headers: "
                    "through a cache, one stranger's request sends others elsewhere.",
                )
    return ok("Host, Forwarded and X-Forwarded-… of a stranger change no link.")


CHECKS: Checks[Scene] = {"large-header": large_header, "large-body": large_body, "forged-host": forged_host}
