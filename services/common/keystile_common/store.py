"""The connection to Valkey or Redis: timeouts, retries, one error type, one histogram."""

import asyncio
import contextlib
import ssl
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import structlog
from opentelemetry.trace import INVALID_SPAN, NoOpTracer, Span, SpanKind, Tracer
from prometheus_client import Histogram
from redis import exceptions

from keystile_common.metrics import StoreMetrics
from keystile_common.settings import StoreSettings
from keystile_common.store_client import Client, StoreRefusedError, client_of_url, server_options, tls_options
from keystile_common.store_cluster import Cluster, client_of_cluster
from keystile_common.store_durability import Durability, DurableCommands, NotDurableError, Promise, deferred
from keystile_common.store_sentinel import client_of_sentinels

_START_INTERVAL_SECONDS = 1.0
_COMMAND_SECONDS: float = StoreSettings.model_fields["command_timeout_seconds"].default
# A demoted master, a cluster that is down or does not agree on a slot: as if nothing listened there.
_NOBODY_TAKES_IT = (
    exceptions.ReadOnlyError
    | exceptions.ClusterError  # ClusterDownError too
    | exceptions.AskError  # MovedError too
    | exceptions.TryAgainError
)

_log = structlog.stdlib.get_logger(__name__)


class StoreUnavailableError(Exception):
    """The store did not answer in time, or refused to. The caller answers 503 and has changed nothing it knows of."""


class StoreUndurableError(StoreUnavailableError):
    """The store did it, but did not confirm it as `store.durability` asks: the answer is 503, the same again is safe.

    Args:
        operation: what was done.
        problem: what is missing.
        answer: what the store answered.
    """

    def __init__(self, operation: str, problem: str, answer: Any) -> None:
        super().__init__(f"{operation}: {problem}")
        self.problem = problem
        self.answer = answer


class StoreUnsuitableError(Exception):
    """The store answers but must not be used; `str()` says what to change."""


class Store:
    """A Redis client with the names of the operations done through it.

    `redis` takes commands on one key each, so that every one of them works on a cluster. `durable` takes the same; what
    is written through it is answered once it is where `durability` wants it.

    Every use goes through `operation`, which times it, turns each failure into `StoreUnavailableError` and
    puts it into the trace.
    """

    def __init__(
        self,
        redis: Client | Cluster,
        metrics: StoreMetrics,
        tracer: Tracer,
        command_seconds: float = _COMMAND_SECONDS,
        durability: Durability = "memory",
    ) -> None:
        # redis-py types every answer as bytes or str, whatever decode_responses says; ours are str, and each
        # repository names the type of what it reads.
        self.redis: Any = redis
        self._promise = None if durability == "memory" else Promise(durability, metrics.observe_durability)
        self.durable: Any = redis if self._promise is None else DurableCommands(redis, self._promise)
        self.is_cluster = isinstance(redis, Cluster)
        # What a command may wait for something to happen, so that it ends well before it is given up.
        self.longest_wait_ms = max(1, int(command_seconds * 500))
        self._metrics = metrics
        self._tracer = None if isinstance(tracer, NoOpTracer) else tracer  # its spans would be seen by nobody
        self._durations: dict[str, Histogram] = {}

    def operation(self, name: str) -> "Operation":
        """Name what is done inside the `with` block, from a closed set such as `grant.redeem`."""
        duration = self._durations.get(name)
        if duration is None:
            duration = self._durations[name] = self._metrics.operation_duration.labels(name)
        return Operation(name, duration, self._metrics, self._tracer)

    def waiting(self, name: str) -> "Waiting":
        """As `operation`, for a command that waits for something to happen: how long it took says nothing."""
        return Waiting(name, self._metrics)

    async def wait_until_reachable(self, seconds: float, *, quietly: bool = False) -> None:
        """Wait for a store that is being started, too.

        Args:
            seconds: how long.
            quietly: leave it out of the log that somebody is waiting.

        Raises:
            StoreUnavailableError: it did not answer within `seconds`.
            StoreUnsuitableError: it refuses the login, or its certificate is refused, which waiting does not mend.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                await self.ping()
            except StoreUnavailableError as problem:
                refusal = _refusal(problem.__cause__)
                if refusal is not None:
                    raise StoreUnsuitableError(refusal) from None
                if time.monotonic() + _START_INTERVAL_SECONDS > deadline:
                    raise
                if not quietly:
                    _log.info("waiting for the store", problem=str(problem))
                await asyncio.sleep(_START_INTERVAL_SECONDS)
            else:
                return

    async def require_noeviction(self) -> None:
        """Refuse a store that may drop what it holds: a dropped tombstone would let a code be used twice.

        Raises:
            StoreUnsuitableError: `maxmemory-policy` is not `noeviction`.
            StoreUnavailableError: the store, or one of a cluster's masters, did not answer.
        """
        with self.operation("store.policy"):
            policies: dict[str, str] = await self.redis.eviction_policies()
        for server, policy in policies.items():
            if policy != "noeviction":
                where = f" on {server}" if server else ""
                raise StoreUnsuitableError(
                    f"the store's maxmemory-policy is {policy}{where}; set it to noeviction, "
                    "since an evicted key would undo a revocation or let a code be used twice"
                )

    @property
    def promises(self) -> bool:
        """Whether `durable` waits for more than the store's memory."""
        return self._promise is not None

    async def confirm(self, key: str) -> None:
        """Return once all that was written where `key` is, by whomever, is as durable as it is to be.

        Raises:
            StoreUndurableError: it is not.
        """
        if self._promise is not None:
            with self.operation("store.confirm"):
                await self.durable.confirm(key)

    async def require_durability(self) -> None:
        """Refuse a store that can never confirm what `store.durability` asks for.

        A replica that is away may come back, so that is only logged.

        Raises:
            StoreUnsuitableError: it cannot; `str()` says what to change.
            StoreUnavailableError: the store, or one of a cluster's masters, did not answer.
        """
        if self._promise is None:
            return
        with self.operation("store.durability"):
            problems = await self.redis.durability_problems(self._promise)
        for server, problem in problems.items():
            where = f" (on {server})" if server else ""
            setting = f"store.durability: {self._promise.durability}"
            if problem is not None and problem.is_lasting:
                raise StoreUnsuitableError(f"{setting} cannot be had: {problem.text}{where}")
            if problem is not None:
                _log.error(f"{setting} cannot be had now; until it can, writes are answered with 503{where}")

    async def ping(self) -> None:
        """Raise `StoreUnavailableError` unless the store answers."""
        with self.operation("store.ping"):
            await self.redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.aclose()


@contextlib.contextmanager
def every_step(name: str) -> Iterator[None]:
    """Let all steps of `name` be taken, though one is not as durable as it is to be; that is said at the end.

    A revocation of many parts must not stop at the first because a replica is away.

    Raises:
        StoreUndurableError: all of it was done, and may still be lost.
    """
    with deferred() as unconfirmed:
        yield
    if unconfirmed:
        raise StoreUndurableError(name, str(unconfirmed[0]), None) from unconfirmed[0]


class Operation:
    """One store operation under way; see `Store.operation`."""

    __slots__ = ("_duration", "_metrics", "_name", "_span", "_started", "_tracer")

    def __init__(self, name: str, duration: Histogram, metrics: StoreMetrics, tracer: Tracer | None) -> None:
        self._name = name
        self._duration = duration
        self._metrics = metrics
        self._tracer = tracer
        self._span: Span = INVALID_SPAN

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        if self._tracer is not None:
            self._span = self._tracer.start_span(
                f"store {self._name}", kind=SpanKind.CLIENT, attributes={"db.system.name": "redis"}
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._duration.observe(time.perf_counter() - self._started)
        if problem is None and self._tracer is None:
            return
        try:
            if isinstance(problem, exceptions.RedisError | OSError):
                failure = _failure(problem)
                self._metrics.errors.labels(self._name, failure).inc()
                self._span.set_attribute("error.type", failure)
                if isinstance(problem, NotDurableError):
                    raise StoreUndurableError(self._name, str(problem), problem.answer) from problem
                raise StoreUnavailableError(f"{self._name}: {failure}") from problem
        finally:
            self._span.end()


class Waiting:
    """A command under way that waits; see `Store.waiting`."""

    __slots__ = ("_metrics", "_name")

    def __init__(self, name: str, metrics: StoreMetrics) -> None:
        self._name = name
        self._metrics = metrics

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(problem, exceptions.RedisError | OSError):
            failure = _failure(problem)
            self._metrics.errors.labels(self._name, failure).inc()
            raise StoreUnavailableError(f"{self._name}: {failure}") from problem


def _refusal(problem: BaseException | None) -> str | None:
    """What to change, where the store or its certificate is refused and waiting would not help."""
    # While it connects, redis-py turns the error into a ConnectionError around it.
    while problem is not None:
        if isinstance(problem, StoreRefusedError):
            return str(problem)
        if isinstance(problem, exceptions.AuthenticationError):
            return "the store refuses the login: check store.username and store.password"
        if isinstance(problem, exceptions.NoPermissionError):
            return f"the store's user may do too little: {problem}"
        if isinstance(problem, ssl.SSLCertVerificationError):
            why = problem.verify_message
            return f"the store's certificate is refused: {why}; check store.ca_file and the host's name"
        problem = problem.__cause__ or problem.__context__
    return None


def _failure(problem: exceptions.RedisError | OSError) -> str:
    if isinstance(problem, exceptions.TimeoutError | TimeoutError):
        return "timeout"
    if isinstance(problem, exceptions.OutOfMemoryError):
        return "full"
    if isinstance(problem, NotDurableError):
        return "undurable"
    if isinstance(problem, exceptions.ConnectionError | OSError | _NOBODY_TAKES_IT):
        return "connection"
    return "error"


def connect(settings: StoreSettings, metrics: StoreMetrics, tracer: Tracer, durability: Durability = "memory") -> Store:
    """Make a store client; nothing is sent until it is used.

    Args:
        settings: which store, and how to reach it.
        metrics: where it counts.
        tracer: where its spans go.
        durability: what has to be true of a write through `Store.durable`.

    Raises:
        SettingsError: a certificate or key that the settings name cannot be used.
    """
    redis: Client | Cluster
    if settings.sentinels:
        redis = client_of_sentinels(settings)
    elif settings.cluster:
        redis = client_of_cluster(settings)
    else:
        redis = client_of_url(settings.url, server_options(settings), tls_options(settings))
    return Store(redis, metrics, tracer, settings.command_timeout_seconds, durability)
