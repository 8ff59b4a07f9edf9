"""Security events as an issuer pushes them (RFC 8417, RFC 8935), signed with the keys of `providers`."""

import json
import secrets
import time
from typing import Any

import httpx2
from joserfc import jws

from keystile_common.security_events import SESSION_REVOKED
from tests.integration.mcp.providers import CURVE_KEY, GENERIC, LEFT_OUT, RESOURCE, ProviderIssuer, Shape
from tests.integration.mcp.resource_server import CLIENT_SECRET, ResourceServer

BEARER = "an-agreed-secret-of-the-transmitter"
MEDIA_TYPE = "application/secevent+jwt"
PATH = "/events/push/mcp"


def pushing(issuer: ProviderIssuer, shape: Shape = GENERIC, /, *, introspected: bool = False, **push: Any) -> Any:
    """Settings of an MCP server that takes events from `issuer`."""
    settings = issuer.settings(shape, revocations={"poll": False, "push": {"accept": True, **push}})
    if introspected:
        settings |= {
            "validation": "introspection",
            "introspection": {
                "client_id": "tools",
                "client_secret": CLIENT_SECRET,
                "url": f"{issuer.issuer}/introspect",
            },
        }
    return settings


def user(issuer: ProviderIssuer, subject: str = "alice") -> dict[str, Any]:
    """The subject of an event about a person."""
    return {"format": "iss_sub", "iss": issuer.issuer, "sub": subject}


def event(
    issuer: ProviderIssuer,
    subject: Any,
    kind: str = SESSION_REVOKED,
    /,
    header: dict[str, Any] | None = None,
    key: Any = CURVE_KEY,
    **claims: Any,
) -> str:
    """A security event token; LEFT_OUT leaves a claim out."""
    now = time.time()
    values = {
        "iss": issuer.issuer,
        "aud": RESOURCE,
        "iat": int(now),
        "toe": now,
        "jti": secrets.token_hex(8),
        "sub_id": subject,
        "events": {kind: {}},
    } | claims
    protected = {"alg": "ES256", "typ": "secevent+jwt", "kid": CURVE_KEY.kid} | (header or {})
    protected = {name: value for name, value in protected.items() if value is not LEFT_OUT}
    text = json.dumps({name: value for name, value in values.items() if value is not LEFT_OUT})
    return jws.serialize_compact(protected, text, key, algorithms=["ES256", "RS256", "HS256"])


async def push(server: ResourceServer, text: str | bytes, **headers: str) -> httpx2.Response:
    """Push an event at a server, as Shared Signals has it."""
    sent = {"Content-Type": MEDIA_TYPE, "Accept": "application/json", "Authorization": f"Bearer {BEARER}"}
    sent |= {name.replace("_", "-"): value for name, value in headers.items()}
    sent = {name: value for name, value in sent.items() if value}
    return await server.http.post(f"{server.origin}{PATH}", headers=sent, content=text)


def pushed(server: ResourceServer, result: str) -> float:
    """How many events had this result."""
    return server.metric("keystile_pushed_security_events_total", result=result)
