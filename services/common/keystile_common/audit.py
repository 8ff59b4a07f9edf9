"""The audit log: what happened to whom, one JSON line an event, chained by hashes.

Each line carries the SHA-256 of the line before it, so that a line taken out, added or changed shows;
`keystile audit verify` checks a file of them. An event never holds a token, code, secret or password.
"""

import fcntl
import hashlib
import json
import os
import secrets
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple

from prometheus_client import Counter

from keystile_common.compact_json import to_json
from keystile_common.metrics import AuditMetrics
from keystile_common.settings import AuditSettings, SettingsError
from keystile_common.traces import trace_id

FIRST = "0" * 64
"""What stands for the previous hash in the first event of a chain."""


_REMEMBERED = 1024
"""So many texts and actors are kept as the JSON they become: the same few come again and again."""


class EventType(StrEnum):
    """Every type of audit event, named by the protocol's nouns."""

    CLIENT_REGISTERED = "client.registered"
    CLIENT_UPDATED = "client.updated"
    CLIENT_DELETED = "client.deleted"
    CLIENT_AUTHENTICATION = "client.authentication"
    USER_LOGIN = "user.login"
    USER_LOGOUT = "user.logout"
    USER_CREATED = "user.created"
    USER_UPDATED = "user.updated"
    USER_DELETED = "user.deleted"
    USERS_IMPORTED = "users.imported"
    USERS_EXPORTED = "users.exported"
    CONSENT = "consent"
    CODE_ISSUED = "code.issued"
    CODE_REUSE_DETECTED = "code.reuse_detected"
    TOKEN_ISSUED = "token.issued"
    TOKEN_REFRESHED = "token.refreshed"
    TOKEN_REVOKED = "token.revoked"
    REFRESH_TOKEN_REUSE_DETECTED = "refresh_token.reuse_detected"
    REFRESH_TOKEN_GENERATION_LOST = "refresh_token.generation_lost"
    GRANT_ENDED = "grant.ended"
    ACCESS_DENIED = "access.denied"
    TOOL_CALLED = "tool.called"
    KEY_CREATED = "key.created"
    KEY_ROTATED = "key.rotated"


class Actor(NamedTuple):
    """Who did it, as far as that is known: subject, client, network address."""

    sub: str | None = None
    client_id: str | None = None
    ip: str | None = None


class StreamSink:
    """Writes events to a stream, one chain a process."""

    def __init__(self, name: str, stream: IO[str]) -> None:
        self.name = name
        self._stream = stream
        self._chain = (0, FIRST)

    def write(self, event: str) -> None:
        """Append one event; raises OSError or ValueError when the stream does not take it.

        Args:
            event: its JSON but for the brace at its end, where its place in the chain goes.
        """
        line, self._chain = _chained(event, self._chain)
        self._stream.write(line + "\n")
        self._stream.flush()

    def close(self) -> None:
        """The stream is not ours to close."""


class FileSink:
    """Appends events to a file, one chain a file, which several processes may go on with (`keystile users …`)."""

    name = "file"

    def __init__(self, path: Path) -> None:
        self._path = path
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        self._file = os.fdopen(descriptor, "ab", buffering=0)
        self._chain, self._size = (0, FIRST), 0

    def write(self, event: str) -> None:
        """Append one event, as `StreamSink.write`; raises OSError or ValueError when the file does not take it."""
        fcntl.flock(self._file, fcntl.LOCK_EX)
        try:
            size = os.fstat(self._file.fileno()).st_size
            torn = False
            if size != self._size:  # another process wrote, or this is our first event
                self._chain, torn = _last(self._path), _ends_torn(self._path)
            line, chain = _chained(event, self._chain)
            data = (("\n" if torn else "") + line + "\n").encode()
            self._size = -1
            if self._file.write(data) != len(data):
                raise OSError("only a part of the event was written")
            self._chain, self._size = chain, size + len(data)
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class AuditLog:
    """Writes audit events to its sinks.

    A sink that fails is counted and the request goes on: an attacker must not be able to stop the service
    by filling a disk, and the alert on the counter tells the operator.
    """

    def __init__(self, sinks: Sequence[StreamSink | FileSink], metrics: AuditMetrics) -> None:
        self._sinks = sinks
        self._metrics = metrics
        for sink in sinks:  # there from the beginning, so that an alert sees the first failure as a rise
            metrics.write_failures.labels(sink.name)
        self._counters: dict[tuple[EventType, str], Counter] = {}

    def record(
        self,
        kind: EventType,
        outcome: str,
        actor: Actor,
        *,
        reason: str | None = None,
        target: dict[str, str] | None = None,
    ) -> str:
        """Record one event.

        Args:
            kind: its type.
            outcome: `success`, `failure` or `denied`.
            actor: who did it.
            reason: why, from a closed set or a short sentence; never a secret.
            target: what it was done to, such as `{"resource": "https://…", "grant": "…"}`.

        Returns:
            The event's id, which may be shown to a person as a reference.
        """
        identifier = secrets.token_hex(16)
        counter = self._counters.get((kind, outcome))
        if counter is None:  # types and outcomes are closed sets, so this stays small
            counter = self._counters[kind, outcome] = self._metrics.events.labels(kind, outcome)
        counter.inc()
        # Put together from parts that are known as JSON: this runs with every tool call.
        event = (
            f'{{"audit":true,"time":"{_now()}","type":"{kind}","id":"{identifier}","outcome":{_text(outcome)},'
            f'"reason":{_text(reason)},"actor":{_actor(actor)},"target":{_target(target or {})},'
            f'"trace_id":{_text(trace_id())}'
        )
        for sink in self._sinks:
            try:
                sink.write(event)
            except (OSError, ValueError):  # ValueError: the stream was closed
                self._metrics.write_failures.labels(sink.name).inc()
        return identifier

    def close(self) -> None:
        """Close what is ours."""
        for sink in self._sinks:
            sink.close()


def configure(settings: AuditSettings, metrics: AuditMetrics) -> AuditLog:
    """The audit log of a service.

    Raises:
        SettingsError: the file cannot be written.
    """
    sinks: list[StreamSink | FileSink] = [StreamSink("stdout", sys.stdout)] if settings.stdout else []
    if settings.file:
        try:
            sinks.append(FileSink(settings.file))
        except OSError as problem:
            raise SettingsError(f"audit.file: cannot write {settings.file}: {problem.strerror}") from None
    return AuditLog(sinks, metrics)


@lru_cache(_REMEMBERED)
def _text(value: str | None) -> str:
    return to_json(value)


@lru_cache(_REMEMBERED)
def _actor(actor: Actor) -> str:
    return to_json({"sub": actor.sub, "client_id": actor.client_id, "ip": actor.ip})


def _now() -> str:
    """The time as RFC 3339 writes it, in milliseconds."""
    seconds, rest = divmod(time.time_ns(), 1_000_000_000)
    return f"{_second(seconds)}.{rest // 1_000_000:03}Z"


@lru_cache(4)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _target(target: dict[str, str]) -> str:
    # Piece by piece, since most are a new grant at a resource that is known.
    return f"{{{','.join([f'{_text(name)}:{to_json(value)}' for name, value in target.items()])}}}"


def _chained(event: str, chain: tuple[int, str]) -> tuple[str, tuple[int, str]]:
    sequence, previous = chain
    line = f'{event},"sequence":{sequence + 1},"previous":"{previous}"}}'
    return line, (sequence + 1, _hash(line))


@dataclass(frozen=True, slots=True)
class Break:
    """A place where the chain does not hold: line number (from 1) and a sentence."""

    line: int
    problem: str


def verify(lines: Iterable[str]) -> tuple[int, list[Break]]:
    """Check the chain of audit lines; other log lines between them are passed over.

    An event with sequence 1 begins a new chain (a process that writes to standard output only).

    Returns:
        The number of events seen, and every break.
    """
    seen, breaks = 0, []
    sequence, previous = 0, FIRST
    for number, raw in enumerate(lines, start=1):
        line = raw.rstrip("\r\n")
        event = _event(line)
        if event is None:
            continue
        seen += 1
        if event.get("sequence") == 1 and event.get("previous") == FIRST:
            pass
        elif event.get("sequence") != sequence + 1:
            breaks.append(Break(number, f"event {event.get('sequence')} follows event {sequence}: events are missing"))
        elif event.get("previous") != previous:
            breaks.append(Break(number, f"event {sequence} was changed after event {sequence + 1} was written"))
        sequence, previous = _sequence(event), _hash(line)
    return seen, breaks


def _sequence(event: dict[str, Any]) -> int:
    number = event.get("sequence")
    return number if isinstance(number, int) else 0


def _event(line: str) -> dict[str, Any] | None:
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) and event.get("audit") is True else None


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()


def _ends_torn(path: Path) -> bool:
    """Whether the last line has no end: its writer was killed, or the disk was full."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read() not in {b"", b"\n"}


def _last(path: Path) -> tuple[int, str]:
    """The sequence and hash to go on from, of the file's last event."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - 65536))
            tail = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return 0, FIRST
    for line in reversed(tail):
        event = _event(line)
        if event is not None:
            return _sequence(event), _hash(line)
    return 0, FIRST
