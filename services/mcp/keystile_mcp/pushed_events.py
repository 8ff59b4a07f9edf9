"""Where issuers push security events (RFC 8935): what they say of their own tokens holds here at once."""

import hmac
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from http import HTTPStatus
from types import TracebackType
from typing import Self

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from keystile_common.health import RETRY_AFTER_SECONDS
from keystile_common.jws import Key
from keystile_common.metrics import McpMetrics
from keystile_common.security_events import TYPE
from keystile_common.store import StoreUnavailableError
from keystile_mcp.event_delivery import Delivery, Holders
from keystile_mcp.issuers import Issuer
from keystile_mcp.jwks import IssuerKeys, KeysUnavailableError
from keystile_mcp.security_events import SecurityEvent, SecurityEventError, check_addresses, read, unverified

MAX_BODY_BYTES = 8 * 1024
"""As much as a signed JWT may have."""
PATH = "/events/push"

_log = structlog.stdlib.get_logger(__name__)


def push_path(resource_path: str) -> str:
    """Where events for the resource at `resource_path` are pushed; before its path, as its metadata are."""
    return PATH + resource_path


class Transmitter:
    """An issuer whose events are accepted.

    Args:
        issuer: whose tokens they are about.
        keys: those that its events are signed with.
    """

    def __init__(self, issuer: Issuer, keys: IssuerKeys) -> None:
        self.issuer = issuer
        self.keys = keys
        bearer = issuer.revocations.push.bearer
        self._bearer = None if bearer is None else bearer.get_secret_value().encode()
        self.max_age_seconds = issuer.revocations.push.max_age_seconds

    def is_proved_by(self, authorization: Sequence[str]) -> bool:
        """Whether these `Authorization` headers are what it sends, where it was given a secret to send."""
        if self._bearer is None:
            return True
        scheme, _, secret = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        # Compared also where the scheme is another: how long that takes must not depend on the secret.
        return hmac.compare_digest(secret.encode(), self._bearer) and scheme.lower() == "bearer"


class PushedEvents:
    """Takes `POST /events/push/…`. While it is entered, what is pushed holds at every replica.

    Args:
        transmitters: who may push.
        delivery: how it reaches those who hold tokens.
        holders: those of this replica.
        metrics: what it counts in.
        clock: Unix time in seconds.
    """

    def __init__(
        self,
        transmitters: Sequence[Transmitter],
        delivery: Delivery,
        holders: Holders,
        metrics: McpMetrics,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._transmitters = {each.issuer.pushes_as: each for each in transmitters}
        self._delivery = delivery
        self._open = AsyncExitStack()
        self.holders = holders
        self._count = metrics.pushed_events.labels
        self._clock = clock

    async def __aenter__(self) -> Self:
        for each in self._transmitters.values():
            await self._open.enter_async_context(each.keys)
        await self._open.enter_async_context(self._delivery)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    def routes(self, resource_path: str) -> list[Route]:
        """Its route."""
        return [Route(push_path(resource_path), self.post, methods=["POST"])]

    async def post(self, request: Request) -> Response:
        """One event (RFC 8935 section 2)."""
        try:
            result = await self._receive(request)
        except SecurityEventError as problem:
            self._count(problem.code).inc()
            # Section 2.3
            return JSONResponse(
                {"err": problem.code, "description": str(problem)},
                status_code=HTTPStatus.BAD_REQUEST,
                headers={"Cache-Control": "no-store", "Content-Language": "en"},
            )
        except (KeysUnavailableError, StoreUnavailableError):
            self._count("unavailable").inc()
            headers = {"Cache-Control": "no-store", "Retry-After": str(RETRY_AFTER_SECONDS)}
            return Response(status_code=HTTPStatus.SERVICE_UNAVAILABLE, headers=headers)
        self._count(result).inc()
        return Response(status_code=HTTPStatus.ACCEPTED, headers={"Cache-Control": "no-store"})

    async def _receive(self, request: Request) -> str:
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type != f"application/{TYPE}":
            raise SecurityEventError("invalid_request", f"the Content-Type must be application/{TYPE}")
        try:
            text = (await request.body()).decode("ascii")
        except (UnicodeDecodeError, ClientDisconnect):
            raise SecurityEventError("invalid_request", "the event is not a signed JWT") from None
        transmitter, event = await self._read(text, request.headers.getlist("authorization"))
        issuer, seconds = transmitter.issuer.identifier, transmitter.max_age_seconds
        # Beyond what may be asked for, so that clocks that are apart do not forget it too early.
        if not await self._delivery.deliver(issuer, event, int(seconds) + 120):
            return "replayed"  # and not logged: whoever has seen an event can send it as often as they like
        result = _result(event)
        _log.info("an issuer has pushed a security event", issuer=issuer, jti=event.jti, result=result)
        return result

    async def _read(self, text: str, authorization: Sequence[str]) -> tuple[Transmitter, SecurityEvent]:
        # Nothing that a stranger can make up gets beyond this, to the issuer's keys.
        algorithms = {name for each in self._transmitters.values() for name in each.issuer.algorithms}
        name = unverified(text, sorted(algorithms)).claims.get("iss")
        transmitter = self._transmitters.get(name) if isinstance(name, str) else None
        if transmitter is None:
            raise SecurityEventError("invalid_issuer", "the event is of an issuer whose events are not accepted")
        if not transmitter.is_proved_by(authorization):
            raise SecurityEventError("authentication_failed", "the Authorization header is not what was agreed upon")
        issuer = transmitter.issuer
        token = unverified(text, issuer.algorithms)
        check_addresses(token.claims, issuer.pushes_as, issuer.pushed_audiences)
        now = self._clock()
        event = read(
            token,
            await _keys_of(transmitter.keys, token.kid),
            issuer=issuer.pushes_as,
            audiences=issuer.pushed_audiences,
            now=now,
            tokens_of=issuer.identifier,
        )
        if event.issued < now - transmitter.max_age_seconds:
            raise SecurityEventError("invalid_request", "the event is too old")
        return transmitter, event


async def _keys_of(keys: IssuerKeys, kid: str | None) -> Sequence[Key]:
    before = keys.fetched_at
    found = await keys.find(kid)
    if not found and keys.fetched_at == before:
        # It may be a new one: they were fetched too short a time ago to be fetched again. The issuer tries again.
        raise KeysUnavailableError("the key is not known yet")
    return found


def _result(event: SecurityEvent) -> str:
    if event.revoked:
        return "applied"
    if event.names_nobody:
        return "unknown_subject"
    return "verification" if event.begins else "unknown_event"
