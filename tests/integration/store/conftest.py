"""Stores of every shape, each started once, and servers on them."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.auth_server import AuthServer, running_auth_server
from tests.stores import SHAPES, Site, Stores


@contextmanager
def site() -> Iterator[Site]:
    """A folder of its own, with a short path."""
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:
        yield Site(Path(folder))


@pytest.fixture(scope="module", params=sorted(SHAPES))
def stores(request: pytest.FixtureRequest) -> Iterator[Stores]:
    """A store of each shape in turn."""
    with site() as here, SHAPES[request.param](here) as running:
        yield running


@pytest.fixture(scope="module")
def server(stores: Stores) -> Iterator[AuthServer]:
    """An authorization server on it."""
    with running_auth_server("", store=stores.settings) as running:
        yield running


@pytest.fixture(scope="module")
def cluster() -> Iterator[Stores]:
    """A cluster of three."""
    with site() as here, SHAPES["cluster"](here) as running:
        yield running
