"""Which requests are for this resource: by their host, origin and content type (MCP, transports, security warning)."""

from http import HTTPStatus
from urllib.parse import urlsplit

from mcp_types import INVALID_REQUEST
from starlette.types import ASGIApp, Receive, Scope, Send

from keystile_mcp.json_rpc import refuse
from keystile_mcp.settings import ResourceServerSettings

_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
_DEFAULT_PORTS = {"http": 80, "https": 443}
_JSON = b"application/json"

_HOST = (HTTPStatus.MISDIRECTED_REQUEST, "The Host header must name this server as its resource identifier does")
_ORIGIN = (HTTPStatus.FORBIDDEN, "Web pages of this origin may not use this server; see allowed_origins")
_CONTENT_TYPE = (HTTPStatus.BAD_REQUEST, "The Content-Type header must be application/json")


def allowed_hosts(settings: ResourceServerSettings) -> list[str]:
    """What the Host header may say: the resource's own host, or any loopback name if it is a local one.

    A web page that has its name rebound to our address still sends its own name.
    """
    url = urlsplit(settings.resource)
    if not settings.is_local:
        return [url.netloc] if url.port else [url.netloc, f"{url.netloc}:{_DEFAULT_PORTS[url.scheme]}"]
    return [f"{name}:{url.port}" if url.port else name for name in _LOOPBACK_NAMES]


def allowed_origins(settings: ResourceServerSettings) -> list[str]:
    """What the Origin header may say, if there is one: those set, and the resource's own."""
    scheme = urlsplit(settings.resource).scheme
    return [*settings.allowed_origins, *(f"{scheme}://{host}" for host in allowed_hosts(settings))]


class HostAndOrigin:
    """Lets a request through to `app` if it names this resource's host, an allowed origin if any, and brings JSON.

    Args:
        app: an MCP server, as ASGI.
        settings: the resource, and the origins of web pages that may use it.
    """

    def __init__(self, app: ASGIApp, settings: ResourceServerSettings) -> None:
        self._app = app
        self._hosts = frozenset(host.lower().encode() for host in allowed_hosts(settings))
        self._origins = frozenset(origin.lower().encode() for origin in allowed_origins(settings))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        problem = self._problem(scope)
        if problem is None:
            await self._app(scope, receive, send)
        else:
            status, sentence = problem
            await refuse(send, status, INVALID_REQUEST, sentence)

    def _problem(self, scope: Scope) -> tuple[HTTPStatus, str] | None:
        # Once over the headers: this runs on every request. One that comes twice has to be right twice.
        hosts, kind = 0, b""
        for name, value in scope["headers"]:
            if name == b"host":
                hosts += 1
                if value.lower() not in self._hosts:
                    return _HOST
            elif name == b"origin":
                if value.lower() not in self._origins:
                    return _ORIGIN
            elif name == b"content-type":
                kind = value
        if hosts != 1:
            return _HOST
        if scope["method"] == "POST" and kind != _JSON and kind.split(b";")[0].strip().lower() != _JSON:
            return _CONTENT_TYPE
        return None
