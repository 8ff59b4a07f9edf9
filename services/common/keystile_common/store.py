"""The connection to Valkey or Redis: timeouts, retries, one error type, one histogram."""

import asyncio
import ssl
import time
from types import TracebackType
from typing import Any, Self

import structlog
from opentelemetry.trace import Span, SpanKind, Tracer
from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from keystile_common.metrics import StoreMetrics
from keystile_common.settings import StoreSettings

# In a burst a request waits its turn; with one try of a command behind it this stays under two seconds.
_POOL_WAIT_SECONDS = 1.0
_START_INTERVAL_SECONDS = 1.0

_log = structlog.stdlib.get_logger(__name__)


class StoreUnavailableError(Exception):
    """The store did not answer in time, or refused to. The caller answers 503 and has changed nothing it knows of."""


class StoreUnsuitableError(Exception):
    """The store answers but must not be used; `str()` says what to change."""


class Store:
    """A Redis client with the names of the operations done through it.

    Every use goes through `operation`, which times it, turns each failure into `StoreUnavailableError` and
    puts it into the trace.
    """

    def __init__(self, redis: Redis, metrics: StoreMetrics, tracer: Tracer) -> None:
        # redis-py types every answer as bytes or str, whatever decode_responses says; ours are str, and each
        # repository names the type of what it reads.
        self.redis: Any = redis
        self._metrics = metrics
        self._tracer = tracer

    def operation(self, name: str) -> "Operation":
        """Name what is done inside the `with` block, from a closed set such as `grant.redeem`."""
        return Operation(name, self._metrics, self._tracer)

    async def wait_until_reachable(self, seconds: float) -> None:
        """Wait for a store that is being started, too.

        Raises:
            StoreUnavailableError: it did not answer within `seconds`.
            StoreUnsuitableError: it refuses user or password, which waiting does not mend.
        """
        deadline = time.monotonic() + seconds
        while True:
            try:
                await self.ping()
            except StoreUnavailableError as problem:
                if _is_refused_login(problem.__cause__):
                    raise StoreUnsuitableError(
                        "the store refuses the login: check store.username and store.password"
                    ) from None
                if time.monotonic() + _START_INTERVAL_SECONDS > deadline:
                    raise
                _log.info("waiting for the store", problem=str(problem))
                await asyncio.sleep(_START_INTERVAL_SECONDS)
            else:
                return

    async def require_noeviction(self) -> None:
        """Refuse a store that may drop what it holds: a dropped tombstone would let a code be used twice.

        Raises:
            StoreUnsuitableError: `maxmemory-policy` is not `noeviction`.
            StoreUnavailableError: the store did not answer.
        """
        with self.operation("store.policy"):
            information = await self.redis.info("memory")
        policy = information.get("maxmemory_policy")
        if policy != "noeviction":
            raise StoreUnsuitableError(
                f"the store's maxmemory-policy is {policy}; set it to noeviction, "
                "since an evicted key would undo a revocation or let a code be used twice"
            )

    async def ping(self) -> None:
        """Raise `StoreUnavailableError` unless the store answers."""
        with self.operation("store.ping"):
            await self.redis.ping()

    async def close(self) -> None:
        """Close every connection."""
        await self.redis.aclose(close_connection_pool=True)


class Operation:
    """One store operation under way; see `Store.operation`."""

    __slots__ = ("_metrics", "_name", "_span", "_started", "_tracer")

    def __init__(self, name: str, metrics: StoreMetrics, tracer: Tracer) -> None:
        self._name = name
        self._metrics = metrics
        self._tracer = tracer

    def __enter__(self) -> Self:
        self._started = time.perf_counter()
        self._span: Span = self._tracer.start_span(
            f"store {self._name}", kind=SpanKind.CLIENT, attributes={"db.system.name": "redis"}
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._metrics.operation_duration.labels(self._name).observe(time.perf_counter() - self._started)
        try:
            if isinstance(problem, exceptions.RedisError | OSError):
                failure = _failure(problem)
                self._metrics.errors.labels(self._name, failure).inc()
                self._span.set_attribute("error.type", failure)
                raise StoreUnavailableError(f"{self._name}: {failure}") from problem
        finally:
            self._span.end()


def _is_refused_login(problem: BaseException | None) -> bool:
    # While it connects, redis-py turns the error into a ConnectionError around it.
    while problem is not None:
        if isinstance(problem, exceptions.AuthenticationError):
            return True
        problem = problem.__cause__ or problem.__context__
    return False


def _failure(problem: exceptions.RedisError | OSError) -> str:
    if isinstance(problem, exceptions.TimeoutError | TimeoutError):
        return "timeout"
    if isinstance(problem, exceptions.OutOfMemoryError):
        return "full"
    if isinstance(problem, exceptions.ConnectionError | OSError):
        return "connection"
    return "error"


def connect(settings: StoreSettings, metrics: StoreMetrics, tracer: Tracer) -> Store:
    """Make a store client; nothing is sent until it is used.

    A command whose connection broke before its answer came is sent once more: every script of Keystile knows its own
    attempt, so a lost answer never reads as a second use. One that got no answer in time is not: a store that stands
    still would only stand still for longer, and the caller has two seconds.
    """
    secure = settings.url.startswith("rediss://")
    pool = BlockingConnectionPool.from_url(
        settings.url,
        username=settings.username,
        password=settings.password.get_secret_value() if settings.password else None,
        max_connections=settings.max_connections,
        timeout=_POOL_WAIT_SECONDS,
        socket_timeout=settings.command_timeout_seconds,
        socket_connect_timeout=settings.connect_timeout_seconds,
        retry=Retry(ConstantBackoff(0.02), 1, supported_errors=(exceptions.ConnectionError,)),
        health_check_interval=0,
        decode_responses=True,
        **(
            {
                "ssl_ca_certs": str(settings.ca_file) if settings.ca_file else None,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
            if secure
            else {}
        ),
    )
    return Store(Redis(connection_pool=pool), metrics, tracer)
