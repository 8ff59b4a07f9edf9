"""Hearing of revocations as they happen: Keystile is polled for security events (RFC 8936).

A poll that waits is open all the time. What it brings is applied at once, everywhere where a dead token could still
be believed. What it acknowledges is where the next one goes on, so nothing is missed while connections and servers
come and go. Where that cannot be shown, everything is asked anew:

- No poll has come back in time, or the first one has not yet: what is known is forgotten, and what is learned is
  believed for `DOUBT_SECONDS` only, until polls come back.
- The stream begins anew, since the server does not have our place in it any more: what is known is forgotten.
"""

import asyncio
import json
import random
import time
from collections.abc import Callable, Sequence
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self

import aiohttp
import structlog

from keystile_common import tasks
from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_common.metrics import McpMetrics
from keystile_mcp.credentials import credentials
from keystile_mcp.hearing import Hearing, Revocable
from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.issuers import Issuer
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.key_files import KeyFileError
from keystile_mcp.security_events import SecurityEvent, SecurityEventError, read, unverified

WAIT_SECONDS = 2
"""So long the server is asked to let a poll wait where there is nothing to tell."""

_TIMEOUT_SECONDS = WAIT_SECONDS + 1.5
_NOTHING_YET = "0-0"
_MAX_ANSWER_BYTES = 1024 * 1024
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 2.0
_REFUSED_PAUSE_SECONDS = 20.0

_log = structlog.stdlib.get_logger(__name__)


class PollError(Exception):
    """A poll brought nothing that can be used; `str()` says why and holds no secret."""


class PollRefusedError(PollError):
    """The server does not know us, which another try will not change soon."""


class Revocations:
    """Polls one issuer while it is entered as an async context manager, and tells what it hears to who holds tokens.

    Args:
        issuer: whom to poll.
        metrics: what it counts in.
        holders: who is told; more may be added before it is entered.
        clock: Unix time in seconds.
    """

    def __init__(
        self, issuer: Issuer, metrics: McpMetrics, holders: Sequence[Revocable], clock: Callable[[], float] = time.time
    ) -> None:
        self.holders = list(holders)
        self._issuer = issuer
        self._clock = clock
        self._poll = _Poll(issuer)
        self._keys = IssuerKeys(issuer, metrics.jwks, settings=issuer.event_keys)
        self._propagation = metrics.revocation_propagation
        self._events = metrics.revocation_events.labels
        self._hearing = Hearing(self.holders, [metrics.revocation_feed_up.labels(issuer.identifier)])
        self._acknowledged = _NOTHING_YET
        self._heard_until = 0.0
        self._is_caught_up = False
        self._trouble: str | None = None
        self._running: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        await self._poll.__aenter__()
        await self._keys.__aenter__()
        self._hearing.lose()
        self._running = asyncio.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._running is not None:
            await tasks.end(self._running)
        self._hearing.close()
        await self._keys.__aexit__(kind, problem, traceback)
        await self._poll.__aexit__(kind, problem, traceback)

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._once()
            except (PollError, IntrospectionError, SecurityEventError) as problem:
                self._note(str(problem))
                refused = isinstance(problem, PollRefusedError)
                longest = _REFUSED_PAUSE_SECONDS if refused else _LONGEST_PAUSE_SECONDS
                pause = longest if refused else min(longest, _FIRST_PAUSE_SECONDS * 2**failures)
                failures = min(failures + 1, 10)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 (not all pods at one moment)
            except Exception as problem:  # noqa: BLE001 (whatever it is, the next poll may do)
                # A mistake of ours: it must not end the polls for good, and nothing was acknowledged.
                self._note(type(problem).__name__)
                _log.exception("a poll for revocations failed", issuer=self._issuer.identifier)
                await asyncio.sleep(_LONGEST_PAUSE_SECONDS)
            else:
                failures = 0
                self._note(None)

    async def _once(self) -> None:
        # What was committed before the question was sent is in the answer, however long that took.
        asked_at = asyncio.get_running_loop().time()
        sets, has_more = await self._poll.ask(self._acknowledged)
        events = [await self._read(each) for each in sets]
        self._apply(events)
        if events:
            self._acknowledged = events[-1].jti
        if not has_more:
            self._is_caught_up = True
            self._hearing.confirm(asked_at)

    async def _read(self, text: str) -> SecurityEvent:
        try:
            token = unverified(text, self._issuer.algorithms)
            keys = await self._keys.find(token.kid)
            issuer, audiences = self._issuer.identifier, self._issuer.audiences
            event = read(token, keys, issuer=issuer, audiences=audiences, now=self._clock())
            if event.names_nobody:
                raise SecurityEventError("invalid_request", "the event has no subject that is known here")
        except SecurityEventError:
            # It is not passed over: what it would tell is not known.
            self._events("refused").inc()
            raise
        return event

    def _apply(self, events: Sequence[SecurityEvent]) -> None:
        if any(event.begins for event in events):
            self._events("beginning").inc()
            self._hearing.begin_anew()
        revoked = [each for event in events for each in event.revoked]
        if not revoked:
            return
        for holder in self.holders:
            holder.revoke(revoked)
        self._events("applied").inc(len(revoked))
        now = self._clock()
        for each in revoked:
            # A stream that begins tells old news, too.
            if self._is_caught_up and each.at > self._heard_until:
                self._propagation.observe(max(0.0, now - each.at))
        self._heard_until = max(self._heard_until, *(each.at for each in revoked))

    def _note(self, trouble: str | None) -> None:
        # A line when trouble begins, changes or ends.
        if trouble == self._trouble:
            return
        self._trouble = trouble
        if trouble is None:
            _log.info("revocations are heard of again", issuer=self._issuer.identifier)
        else:
            _log.warning("revocations are not heard of", issuer=self._issuer.identifier, problem=trouble)


class _Poll(HttpClient):
    """The requests."""

    def __init__(self, issuer: Issuer) -> None:
        self._credentials = credentials(issuer.introspection, issuer.identifier)
        ca_file = issuer.introspection.ca_file
        super().__init__(
            timeout_seconds=_TIMEOUT_SECONDS,
            authorities=TrustedAuthorities(ca_file, "introspection.ca_file") if ca_file else None,
            headers={
                "Accept": "application/json",
                "Prefer": f"wait={WAIT_SECONDS}",
                **self._credentials.headers(),
            },
            limit=2,
        )
        self._url = issuer.events_url

    async def ask(self, acknowledged: str) -> tuple[list[str], bool]:
        """The events behind the one that is acknowledged, in their order, and whether there are more.

        Raises:
            PollError: there is no usable answer.
        """
        try:
            question = {"ack": [acknowledged], **self._credentials.form()}
            async with self.request("POST", self._url, json=question) as response:
                return _sets(response.status, await _body(response))
        except KeyFileError as problem:
            raise PollError(str(problem)) from None
        except TimeoutError:
            raise PollError(f"no answer within {_TIMEOUT_SECONDS:g} s") from None
        except (aiohttp.ClientError, OSError) as problem:
            raise PollError(f"it cannot be reached ({type(problem).__name__})") from None


async def _body(response: aiohttp.ClientResponse) -> bytes:
    body = b""
    while not response.content.at_eof():
        body += await response.content.read(_MAX_ANSWER_BYTES + 1 - len(body))
        if len(body) > _MAX_ANSWER_BYTES:
            raise PollError(f"the answer is larger than {_MAX_ANSWER_BYTES} bytes")
    return body


def _sets(status: int, body: bytes) -> tuple[list[str], bool]:
    if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
        raise PollRefusedError("it refuses introspection.client_id, or what proves it")
    if status != HTTPStatus.OK:
        raise PollError(f"it answered with status {status}")
    try:
        answer: Any = json.loads(body)
    except (ValueError, RecursionError):
        raise PollError("the answer is not JSON") from None
    sets = answer.get("sets") if isinstance(answer, dict) else None
    if not isinstance(sets, dict) or not all(isinstance(each, str) for each in sets.values()):
        raise PollError("the answer has no sets")
    return list(sets.values()), answer.get("moreAvailable") is True
