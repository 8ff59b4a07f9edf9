"""What a failure of the store becomes: one error, one metric, nothing else swallowed."""

from typing import Any

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from redis import exceptions

from keystile_common.metrics import StoreMetrics
from keystile_common.settings import StoreSettings
from keystile_common.store import StoreUnavailableError, StoreUnsuitableError, connect


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        (exceptions.TimeoutError("secret"), "timeout"),
        (TimeoutError("secret"), "timeout"),
        (exceptions.OutOfMemoryError("secret"), "full"),
        (exceptions.ConnectionError("secret"), "connection"),
        (exceptions.AuthenticationError("secret"), "connection"),
        (ConnectionResetError("secret"), "connection"),
        (exceptions.ReadOnlyError("secret"), "connection"),
        (exceptions.ClusterDownError("secret"), "connection"),
        (exceptions.ClusterError("secret"), "connection"),
        (exceptions.MovedError("1 secret:1"), "connection"),
        (exceptions.TryAgainError("secret"), "connection"),
        (exceptions.ResponseError("secret"), "error"),
    ],
)
async def test_a_failure_is_counted_by_its_kind_and_keeps_its_text_to_itself(problem: Exception, kind: str) -> None:
    registry = CollectorRegistry()
    store = connect(StoreSettings(), StoreMetrics(registry), NoOpTracer())
    with pytest.raises(StoreUnavailableError) as raised, store.operation("grant.find"):
        raise problem
    assert str(raised.value) == f"grant.find: {kind}"
    labels = {"operation": "grant.find", "kind": kind}
    assert registry.get_sample_value("keystile_store_errors_total", labels) == 1
    await store.close()


async def test_a_mistake_of_ours_is_not_taken_for_an_outage() -> None:
    store = connect(StoreSettings(), StoreMetrics(CollectorRegistry()), NoOpTracer())
    with pytest.raises(KeyError), store.operation("grant.find"):
        raise KeyError("x")
    await store.close()


async def test_a_store_that_may_evict_is_unsuitable(store_url: str) -> None:
    store = connect(StoreSettings(url=store_url), StoreMetrics(CollectorRegistry()), NoOpTracer())
    redis: Any = store.redis
    try:
        await store.require_noeviction()
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(StoreUnsuitableError, match="maxmemory-policy is allkeys-lru; set it to noeviction"):
            await store.require_noeviction()
    finally:
        await redis.config_set("maxmemory-policy", "noeviction")
        await store.close()
