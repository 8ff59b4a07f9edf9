"""What a client learns before it asks for a token, and what the checks work on."""

import base64
import contextlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote_plus, urlsplit, urlunsplit

from keystile_common.doctor.probe import Answer, NoAnswerError, Probe

FORGED_HOST = "keystile-doctor-forged.invalid"
STRANGER = "https://keystile-doctor.invalid"
"""Names that nobody can own (RFC 6761 section 6.4)."""

REVISION = "2025-11-25"
MCP_HEADERS = {"Accept": "application/json, text/event-stream", "Mcp-Protocol-Version": REVISION}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A name and its secret."""

    name: str
    secret: str = field(repr=False)

    @property
    def basic(self) -> str:
        """Both as HTTP Basic has them; percent-encoded before that (RFC 6749 section 2.3.1)."""
        pair = f"{quote_plus(self.name)}:{quote_plus(self.secret)}"
        return base64.b64encode(pair.encode()).decode()


@dataclass(frozen=True, slots=True)
class Options:
    """What whoever asks has given.

    Attributes:
        url: of the MCP server, as clients are given it.
        register: whether a client may be registered, and deleted again.
        token: an access token for the MCP server.
        other_token: one for another resource.
        client: one that may use the client credentials grant.
        introspect_as: who may introspect.
    """

    url: str
    register: bool = False
    token: str | None = field(default=None, repr=False)
    other_token: str | None = field(default=None, repr=False)
    client: Credentials | None = None
    introspect_as: Credentials | None = None


@dataclass(frozen=True, slots=True)
class Fetched:
    """A place where a document was looked for.

    Attributes:
        url: the place.
        answer: what came, if anything did.
        document: the JSON object that came with 200, if one did.
        trouble: what is wrong, in words that go behind the URL; empty if nothing is.
    """

    url: str
    answer: Answer | None
    document: dict[str, Any] | None
    trouble: str


@dataclass(slots=True)
class Scene:
    """All that is known so far.

    Attributes:
        options: what was given.
        probe: asks.
        challenge: the answer to a request without a token.
        silence: why there is none.
        bearer: the parameters of its Bearer challenge; None where there is none.
        resource_documents: the places of the resource's metadata, that of the challenge first.
        resource: the metadata that a client would use.
        issuer: the authorization server that a client would use.
        issuer_documents: the places of its metadata, in the order in which clients look.
        metadata: the metadata that a client would use; empty if there are none.
        token: an access token for the MCP server, given or got.
        token_trouble: why there is none, though a client was given.
        client_id: of the client that was registered.
        client_redirect: where answers to it may go.
    """

    options: Options
    probe: Probe
    challenge: Answer | None = None
    silence: str = ""
    bearer: dict[str, str] | None = None
    resource_documents: list[Fetched] = field(default_factory=list)
    resource: dict[str, Any] | None = None
    issuer: str | None = None
    issuer_documents: list[Fetched] = field(default_factory=list)
    metadata: dict[str, Any] = field(default_factory=dict)
    token: str | None = None
    token_trouble: str = ""
    client_id: str | None = None
    client_redirect: str = "http://127.0.0.1:49152/callback"

    @property
    def url(self) -> str:
        """Of the MCP server."""
        return self.options.url

    def endpoint(self, name: str) -> str:
        """An endpoint of the authorization server.

        Raises:
            NoAnswerError: its metadata do not have it.
        """
        value = self.metadata.get(name)
        if not isinstance(value, str) or not value:
            raise NoAnswerError(f"the authorization server's metadata have no {name}")
        return value

    def trusted_endpoint(self, name: str) -> str:
        """An endpoint that may be sent a secret.

        Raises:
            NoAnswerError: there is none, or the metadata are not the issuer's own: whose they are then is not known.
        """
        if self.metadata.get("issuer") != self.issuer:
            raise NoAnswerError(f"no secret was sent to the {name}, since the metadata name another issuer")
        return self.endpoint(name)


def initialize(padding: str = "") -> dict[str, Any]:
    """The first message of a client (MCP 2025-11-25), with `padding` in it."""
    client = {"name": "keystile-doctor", "version": "1"}
    if padding:
        client["title"] = padding
    parameters = {"protocolVersion": REVISION, "capabilities": {}, "clientInfo": client}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": parameters}


def bearer(token: str) -> dict[str, str]:
    """The headers of an MCP request with `token`."""
    return {**MCP_HEADERS, "Authorization": f"Bearer {token}"}


async def call(scene: Scene, token: str, *, secret: bool = True) -> Answer:
    """Greet the MCP server with `token`, and end the session that this may have opened.

    Raises:
        NoAnswerError: there is no answer to read.
    """
    headers = bearer(token)
    answer = await scene.probe.ask("POST", scene.url, secret=secret, headers=headers, json=initialize())
    await end_session(scene, headers, answer.headers.get("mcp-session-id"))
    return answer


async def end_session(scene: Scene, headers: dict[str, str], session: str | None) -> None:
    """End a session, as far as the server lets clients do that. `headers` carry its token."""
    if session:
        with contextlib.suppress(NoAnswerError):
            await scene.probe.ask("DELETE", scene.url, secret=True, headers={**headers, "Mcp-Session-Id": session})


def other_slash(url: str) -> str:
    """`url` with a slash at the end of its path, or without it if it has one."""
    parts = urlsplit(url)
    path = parts.path.removesuffix("/") if parts.path.endswith("/") else f"{parts.path}/"
    return urlunsplit(parts._replace(path=path))
