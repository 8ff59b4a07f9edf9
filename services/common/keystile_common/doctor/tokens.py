"""What can only be looked at with a token, or a secret: whether tokens are taken, refused, introspected."""

from http import HTTPStatus

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown
from keystile_common.doctor.probe import Answer, NoAnswerError
from keystile_common.doctor.scene import Credentials, Scene, call, other_slash

_NEEDS_TOKEN = unknown(
    "It takes a token.", "Give one with --token-file, or --client-id and --client-secret-file to get one."
)


async def obtain(scene: Scene) -> None:
    """Take the token that was given, or get one by the client credentials grant (RFC 6749 section 4.4)."""
    scene.token = scene.options.token
    if scene.token is not None or scene.options.client is None:
        return
    try:
        answer = await _grant(scene, scene.options.client, scene.url)
        token = (answer.document() or {}).get("access_token")
        if answer.status == HTTPStatus.OK and isinstance(token, str) and token.isascii() and token.isprintable():
            scene.probe.hide(token)
            scene.token = token
        else:
            scene.token_trouble = f"The token endpoint answers {answer.status} ({_code(answer)})"
    except NoAnswerError as silence:
        scene.token_trouble = str(silence)


async def _grant(scene: Scene, client: Credentials, resource: str) -> Answer:
    form = {"grant_type": "client_credentials", "resource": resource}
    return await scene.probe.ask(
        "POST", scene.trusted_endpoint("token_endpoint"), secret=True, data=form, headers=_basic(client)
    )


def _basic(credentials: Credentials) -> dict[str, str]:
    return {"Authorization": f"Basic {credentials.basic}"}


def _code(answer: Answer) -> str:
    return str((answer.document() or {}).get("error", "no error code"))


async def token_accepted(scene: Scene) -> Verdict:
    """The MCP server takes a token of its authorization server."""
    if scene.token_trouble:
        return problem(
            f"No token could be got: {scene.token_trouble}.",
            "Check the client's id and secret, and that it may use the client credentials grant for this resource.",
        )
    if scene.token is None:
        return _NEEDS_TOKEN
    answer = await call(scene, scene.token)
    if answer.status == HTTPStatus.UNAUTHORIZED:
        return problem(
            "The token gets 401.",
            "Is it expired, or of another resource or issuer? If it is fresh: can the MCP server reach the "
            "authorization server, and are the issuer and audience that it expects those of the token?",
        )
    if answer.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return problem(f"The token gets {answer.status}.", "Look at the MCP server's log.")
    return ok(f"The token is taken: initialize gets {answer.status}.")


async def token_resource(scene: Scene) -> Verdict:
    """The token endpoint takes `resource` with and without a slash at its end."""
    client = scene.options.client
    if client is None or scene.token is None:
        return unknown("It takes a client.", "Give one with --client-id and --client-secret-file.")
    other = other_slash(scene.url)
    answer = await _grant(scene, client, other)
    issued = (answer.document() or {}).get("access_token")
    if isinstance(issued, str):
        scene.probe.hide(issued)
    if answer.status != HTTPStatus.OK:
        return problem(
            f"The token endpoint refuses resource={other} ({_code(answer)}).",
            "Take it as the same resource with and without a slash at its end: clients send both.",
        )
    return ok("The token endpoint takes it with and without a slash at its end.")


async def audience(scene: Scene) -> Verdict:
    """A token for another resource is refused (RFC 8707 section 2)."""
    other = scene.options.other_token
    if other is None:
        return unknown("It takes a token for another resource.", "Give one with --other-token-file.")
    answer = await call(scene, other)
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return ok(f"A token for another resource gets {answer.status}.")
    if answer.status >= HTTPStatus.BAD_REQUEST:
        return unknown(f"A token for another resource gets {answer.status}.")
    return problem(
        f"A token for another resource gets {answer.status}.",
        "Let the MCP server check the audience: whoever runs another server could use its callers' tokens here.",
    )


async def introspection(scene: Scene) -> Verdict:
    """The secret is good for introspection (RFC 7662)."""
    credentials = scene.options.introspect_as
    if credentials is None:
        return unknown("It takes a secret.", "Give one with --introspect-as and --secret-file.")
    url = scene.trusted_endpoint("introspection_endpoint")
    form = {"token": "keystile-doctor-made-this-up"}
    answer = await scene.probe.ask("POST", url, secret=True, data=form, headers=_basic(credentials))
    document = answer.document() or {}
    if answer.status == HTTPStatus.OK and document.get("active") is False:
        return ok(f"{credentials.name} may introspect.")
    if answer.status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        return problem(
            f"{credentials.name} gets {answer.status} at the introspection endpoint.",
            "The name or its secret is another one at the authorization server: bring the two together.",
        )
    return problem(
        f"Asked about a token that was made up, it answers {answer.status} without active: false.",
        'It must answer 200 with {"active": false}: look at the authorization server\'s log.',
    )


CHECKS: Checks[Scene] = {
    "token": token_accepted,
    "token-resource": token_resource,
    "audience": audience,
    "introspection": introspection,
}
