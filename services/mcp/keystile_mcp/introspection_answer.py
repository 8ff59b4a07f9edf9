"""What an introspection answer says of a token (RFC 7662 section 2.2)."""

import json
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from starlette.authentication import AuthCredentials

from keystile_common import opaque
from keystile_common.audit import Actor

LATEST_TIME = 253_402_300_799
"""The end of the year 9999 in Unix time; a later `exp` is a mistake."""


class IntrospectionError(Exception):
    """Nothing was learned about the token. `str()` says why, for the operator, and holds no secret."""


@dataclass(frozen=True)
class ActiveToken:
    """What the authorization server says of a token that it calls active; not yet compared with anything.

    Attributes:
        issuer: who issued it.
        resource: this resource, if the token is meant for it, else None.
        client_id: the client it was issued to; empty if the answer names only a subject.
        subject: the resource owner, or None.
        scopes: in the order of the answer.
        not_before: Unix time before which it must not be accepted, or None.
        expires_at: Unix time at which it ends.
        username: a name for people, or None.
        grantable_scopes: what a token of the same user and client could have at most, or None if nobody said.
        jti: its name, which is not the token, or None.
        session: the id of the grant that it belongs to, or None.
        issued_at: Unix time at which it was issued, or None if nobody said.
    """

    issuer: str
    resource: str | None
    client_id: str
    subject: str | None
    scopes: tuple[str, ...]
    not_before: float | None
    expires_at: float
    username: str | None = None
    grantable_scopes: tuple[str, ...] | None = None
    jti: str | None = None
    session: str | None = None
    issued_at: float | None = None

    @property
    def actor(self) -> Actor:
        """Whom an audit event names."""
        return Actor(sub=self.subject, client_id=self.client_id)

    def of_session(self, session: str | None) -> "ActiveToken":
        """The same token, known to belong to a grant unless that was known already."""
        return self if session is None or self.session is not None else replace(self, session=session)

    def ending(self, until: float) -> "ActiveToken":
        """The same token, good until `until` (Unix time) at most."""
        return replace(self, expires_at=min(self.expires_at, until))

    @cached_property
    def user(self) -> AuthenticatedUser:
        """The MCP SDK's view of it, made once for as long as the answer is kept.

        It holds no token: whatever runs behind the bearer check has no use for one, and must not pass one on.
        """
        optional = {"username": self.username, "grantable_scopes": self.grantable_scopes}
        claims = {"iss": self.issuer} | {name: value for name, value in optional.items() if value is not None}
        return AuthenticatedUser(
            AccessToken(
                token="",
                client_id=self.client_id,
                scopes=list(self.scopes),
                expires_at=int(self.expires_at),
                resource=self.resource,
                subject=self.subject,
                claims=claims,
            )
        )

    @cached_property
    def credentials(self) -> AuthCredentials:
        """Starlette's view of it: the scopes."""
        return AuthCredentials(self.scopes)


def canonical(resource: str) -> str:
    """`resource` as two spellings of it compare: lower-case scheme and host, no slash at the end."""
    try:
        url = urlsplit(resource)
    except ValueError:  # no URL, so no other spelling either
        return resource
    return urlunsplit((url.scheme, url.netloc.lower(), url.path.removesuffix("/"), url.query, url.fragment))


def read_active(body: bytes) -> dict[str, Any] | None:
    """An introspection answer with `active` true, or None if it says false (RFC 7662 section 2.2).

    Raises:
        IntrospectionError: it says neither.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        raise IntrospectionError("the answer is not JSON") from None
    active = answer.get("active") if isinstance(answer, dict) else None
    if active is False:
        return None
    if active is not True:
        raise IntrospectionError("the answer does not say true or false for active")
    return dict(answer)


def read_answer(body: bytes, issuer: str, resource: str, audiences: Collection[str] = ()) -> ActiveToken | None:
    """Read an introspection answer of Keystile (RFC 7662 section 2.2).

    `exp` is optional there and required here: without it a stream could not be ended in time. `iss` may be
    absent: the answer comes from the issuer's own endpoint, so it is the issuer's word either way.

    Args:
        body: the JSON text of an answer with status 200.
        issuer: whose endpoint answered.
        resource: this resource's identifier.
        audiences: what it is called in `aud`; by its identifier where none is given.

    `grantable_scope` is ours (RFC 7662 section 2.2 allows for members that are not registered).

    Returns:
        The token, or None if it is not active.

    Raises:
        IntrospectionError: the answer is not what RFC 7662 says.
    """
    answer = read_active(body)
    if answer is None:
        return None
    client_id, subject = _text(answer, "client_id"), _text(answer, "sub")
    if not client_id and not subject:
        raise IntrospectionError("the answer names neither client_id nor sub")
    expires_at = _time(answer, "exp")
    if expires_at is None:
        raise IntrospectionError("the answer has no exp")
    grantable, jti = _text(answer, "grantable_scope"), _text(answer, "jti")
    return ActiveToken(
        issuer=_text(answer, "iss") or issuer,
        resource=resource if _is_meant_for(answer.get("aud"), audiences or (resource,)) else None,
        client_id=client_id or "",
        subject=subject,
        scopes=tuple((_text(answer, "scope") or "").split()),
        not_before=_time(answer, "nbf"),
        expires_at=expires_at,
        username=_text(answer, "username"),
        grantable_scopes=None if grantable is None else tuple(grantable.split()),
        jti=jti,
        session=opaque.grant_of_jti(jti or ""),
    )


def _text(answer: dict[str, Any], name: str) -> str | None:
    value = answer.get(name)
    if value is not None and not isinstance(value, str):
        raise IntrospectionError(f"{name} in the answer is not a string")
    return value


def _time(answer: dict[str, Any], name: str) -> float | None:
    value = answer.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LATEST_TIME:
        raise IntrospectionError(f"{name} in the answer is not a time")
    return float(value)


def _is_meant_for(audience: object, names: Collection[str]) -> bool:
    values = audience if isinstance(audience, list) else [audience]
    ours = {canonical(name) for name in names}
    return any(isinstance(value, str) and canonical(value) in ours for value in values)
