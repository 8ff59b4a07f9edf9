from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.pair import Pair, running_pair

StartPair = Callable[..., Pair]


@pytest.fixture(scope="session")
def packages() -> Path:
    """The folder in which other people's clients and servers are installed."""
    return node.packages()


@pytest.fixture(scope="module")
def pair(store_url: str) -> Iterator[Pair]:
    """A Keystile with its reference tools, that a module's tests share."""
    with running_pair(store_url) as running:
        yield running


@pytest.fixture
def start_pair(store_url: str) -> Iterator[StartPair]:
    """Starts a Keystile with settings of the test's own."""
    with ExitStack() as stack:

        def start(**settings: Any) -> Pair:
            return stack.enter_context(running_pair(store_url, **settings))

        yield start
