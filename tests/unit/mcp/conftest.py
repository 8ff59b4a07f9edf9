import pytest
from prometheus_client import CollectorRegistry

from keystile_common.metrics import McpMetrics
from tests.unit.mcp.samples import FrozenClock


@pytest.fixture
def clock() -> FrozenClock:
    return FrozenClock()


@pytest.fixture
def metrics() -> McpMetrics:
    return McpMetrics(CollectorRegistry(), "test")
