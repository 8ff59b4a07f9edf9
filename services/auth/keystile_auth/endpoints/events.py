"""Polling for security events (RFC 8936): a resource server learns which of its tokens were revoked."""

import contextlib
import re
import secrets
from typing import Any, NamedTuple

import structlog
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from keystile_auth.clients.authentication import ResourceAuthenticator
from keystile_auth.endpoints.answers import no_store
from keystile_auth.endpoints.parameters import authorization_of, ip_of, json_object, presented_credentials
from keystile_auth.errors import OAuthError, RateLimitedError
from keystile_auth.store.revocation_feed import Batch, Place, RevocationFeed, TooManyWaitingError
from keystile_auth.store.revocations import EntryId, RevocationStore
from keystile_auth.tokens.resources import Resource
from keystile_auth.tokens.security_events import SecurityEvents
from keystile_common.audit import Actor, AuditLog, EventType
from keystile_common.metrics import AuthMetrics
from keystile_common.store import StoreUnavailableError

MOST_EVENTS = 200
LONGEST_WAIT_SECONDS = 30

_USUAL_WAIT_SECONDS = 20
_MOST_ACKNOWLEDGED = 1_000
_RETRY_AFTER_SECONDS = 2
_CREDENTIALS = ("client_id", "client_secret", "client_assertion_type", "client_assertion")
_EVENT = re.compile(r"([0-9]{1,15}-[0-9]{1,15})(\.beginning\.[A-Za-z0-9_-]{1,32})?")
_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?([0-9]{1,6})\"?\s*(?:$|[,;])", re.IGNORECASE)  # RFC 7240 section 4.3

_log = structlog.stdlib.get_logger(__name__)


class PollRequest(NamedTuple):
    """What a poll asks for (RFC 8936 section 2.2), read and checked.

    `acknowledged` has the place behind the last event that was acknowledged, or refused: either way it has arrived.
    None where nothing is acknowledged.
    """

    acknowledged: Place | None
    errors: dict[str, Any]
    most: int
    seconds: float


class EventsEndpoint:
    """Answers `POST /events/poll`. A resource learns of what is for itself and of nothing else.

    The events of a stream are in the order of time, so whoever acknowledges one has all before it. What a poll
    acknowledges is where it goes on: each replica of a resource server has its own place that way, and none is kept
    for it here. For a receiver that polls without acknowledging anything, the last place of its resource is kept.
    """

    def __init__(
        self,
        authenticator: ResourceAuthenticator,
        feed: RevocationFeed,
        store: RevocationStore,
        events: SecurityEvents,
        audit: AuditLog,
        metrics: AuthMetrics,
    ) -> None:
        self._authenticator = authenticator
        self._feed = feed
        self._store = store
        self._events = events
        self._audit = audit
        self._failures = metrics.client_auth_failures
        self._count = {
            result: metrics.event_polls.labels(result)
            for result in ("events", "empty", "beginning", "unauthorized", "invalid", "error")
        }
        metrics.event_polls_waiting.set_function(lambda: feed.waiting)
        self._kept: dict[str, Place] = {}

    def routes(self, prefix: str) -> list[Route]:
        """The endpoint's route below the issuer's path."""
        return [Route(f"{prefix}/events/poll", self.post, methods=["POST"])]

    async def post(self, request: Request) -> Response:
        """One poll."""
        result = "error"
        try:
            body = await json_object(request, "invalid_request")
            resource = await self._authenticate(request, body)
            batch, sets = await self._answer(_read(body, request.headers.get("prefer", "")), resource)
            result = "beginning" if batch.beginning else "events" if sets else "empty"
        except OAuthError as problem:
            result = "unauthorized" if problem.code == "invalid_client" else "invalid"
            raise
        except StoreUnavailableError:
            result = "error"
            raise
        finally:
            self._count[result].inc()
        answer = no_store({"sets": sets, **({"moreAvailable": True} if batch.has_more else {})})
        if self._feed.is_stopping:
            answer.headers["Connection"] = "close"  # the next poll is another process's
        return answer

    async def _authenticate(self, request: Request, body: dict[str, Any]) -> Resource:
        given = {name: body[name] for name in _CREDENTIALS if name in body}
        if not all(isinstance(value, str) for value in given.values()):
            raise OAuthError("invalid_request", f"{', '.join(_CREDENTIALS)} must be strings")
        presented = presented_credentials(authorization_of(request), given)
        try:
            return (await self._authenticator.authenticate(presented)).resource
        except OAuthError as problem:
            self._failures.labels(presented.method).inc()
            actor = Actor(client_id=presented.client_id[:200], ip=ip_of(request))
            self._audit.record(EventType.CLIENT_AUTHENTICATION, "failure", actor, reason=problem.description)
            raise

    async def _answer(self, asked: PollRequest, resource: Resource) -> tuple[Batch, dict[str, str]]:
        if asked.errors:
            codes = sorted({str(each.get("err"))[:40] for each in asked.errors.values()})
            _log.warning("a resource refuses security events", resource=resource.name, errors=codes[:5])
        place = await self._place(asked.acknowledged, resource)
        if asked.most == 0:
            return Batch(None, (), has_more=False), {}
        try:
            batch = await self._feed.poll(resource.uri, place, asked.most, asked.seconds)
        except TooManyWaitingError:
            raise RateLimitedError("events", _RETRY_AFTER_SECONDS) from None
        sets = {}
        if batch.beginning is not None:
            jti = f"{batch.beginning}.beginning.{secrets.token_urlsafe(6)}"
            sets[jti] = await self._events.verification(jti, resource.uri, resource.name)
        for each in batch.revocations:
            sets[str(each.id)] = await self._events.revoked(each)
        return batch, sets

    async def _place(self, acknowledged: Place | None, resource: Resource) -> Place | None:
        if acknowledged is None:
            kept = await self._store.acknowledged(resource.name)
            return _place(kept) if kept else None
        # For a receiver that sends it once; one that always does costs a write only when it moves on.
        if acknowledged.id.milliseconds and self._kept.get(resource.name) != acknowledged:
            suffix = "" if acknowledged.is_behind else ".beginning.kept"
            # Not at the cost of the poll: a full store takes revocations, but not this.
            with contextlib.suppress(StoreUnavailableError):
                await self._store.acknowledge(resource.name, f"{acknowledged.id}{suffix}")
                self._kept[resource.name] = acknowledged
        return acknowledged


def _read(body: dict[str, Any], prefer: str) -> PollRequest:
    acks, errors = body.get("ack", []), body.get("setErrs", {})
    most, at_once = body.get("maxEvents", MOST_EVENTS), body.get("returnImmediately", False)
    if not isinstance(acks, list) or not all(isinstance(each, str) for each in acks):
        raise OAuthError("invalid_request", "ack must be a list of strings")
    if not isinstance(errors, dict) or not all(isinstance(each, dict) for each in errors.values()):
        raise OAuthError("invalid_request", "setErrs must be an object of objects")
    if len(acks) + len(errors) > _MOST_ACKNOWLEDGED:
        raise OAuthError("invalid_request", f"at most {_MOST_ACKNOWLEDGED} events can be acknowledged at once")
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise OAuthError("invalid_request", "maxEvents must be a number of events")
    if not isinstance(at_once, bool):
        raise OAuthError("invalid_request", "returnImmediately must be true or false")
    wait = _WAIT.search(prefer)
    seconds = min(int(wait[1]), LONGEST_WAIT_SECONDS) if wait else _USUAL_WAIT_SECONDS
    places = [place for each in (*acks, *errors) if (place := _place(each)) is not None]
    return PollRequest(
        acknowledged=max(places, default=None, key=lambda place: (place.id, place.is_behind)),
        errors=errors,
        most=min(most, MOST_EVENTS),
        seconds=0 if at_once else seconds,
    )


def _place(event: str) -> Place | None:
    """Where whoever has this event is, by its `jti`; None for one that is not ours."""
    match = _EVENT.fullmatch(event)
    found = EntryId.read(match[1]) if match else None
    return Place(found, is_behind=match[2] is None) if match and found else None
