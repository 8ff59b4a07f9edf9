"""A service that is started before its store waits for it, within bounds."""

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.trace import NoOpTracer
from prometheus_client import CollectorRegistry
from redis import Redis

from keystile_auth.store import embedded
from keystile_common.metrics import StoreMetrics
from keystile_common.settings import StoreSettings
from keystile_common.store import Store, StoreUnavailableError, StoreUnsuitableError, connect


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short path: a unix socket's name has a hundred characters at most."""
    with tempfile.TemporaryDirectory(prefix="ks-") as short:
        yield Path(short)


@pytest.fixture
def store(folder: Path) -> Store:
    """A client of a store in that folder, whether one runs there or not."""
    settings = StoreSettings(url=f"unix://{folder}/valkey.sock")
    return connect(settings, StoreMetrics(CollectorRegistry()), NoOpTracer())


async def test_a_store_that_comes_up_meanwhile_is_reached(folder: Path, store: Store) -> None:
    waiting = asyncio.create_task(store.wait_until_reachable(20))
    await asyncio.sleep(0)
    with embedded.run(folder):
        await waiting
        await store.close()


async def test_a_store_that_stays_away_is_waited_for_as_long_as_was_said(store: Store) -> None:
    with pytest.raises(StoreUnavailableError):
        await store.wait_until_reachable(0)
    await store.close()


async def test_a_store_that_refuses_the_password_is_not_waited_for(folder: Path, store: Store) -> None:
    with embedded.run(folder) as url, Redis.from_url(url) as operator:
        operator.config_set("requirepass", "another one")
        with pytest.raises(StoreUnsuitableError, match=r"store\.password"):
            await store.wait_until_reachable(20)
        await store.close()
