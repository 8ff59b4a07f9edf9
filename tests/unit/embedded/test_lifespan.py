"""An application's start and end inside of another."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.applications import Starlette

from keystile_embedded.lifespan import running


def application(happened: list[str], *, fails: str = "") -> Starlette:
    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        if fails == "start":
            raise ConnectionError("no store")
        happened.append("started")
        yield
        if fails == "stop":
            raise ConnectionError("store lost")
        happened.append("stopped")

    return Starlette(lifespan=lifespan)


async def test_it_is_started_before_the_block_and_stopped_after_it() -> None:
    happened: list[str] = []
    async with running(application(happened)):
        happened.append("block")
    assert happened == ["started", "block", "stopped"]


async def test_it_is_stopped_though_the_block_failed() -> None:
    happened: list[str] = []
    with pytest.raises(KeyError):
        async with running(application(happened)):
            raise KeyError
    assert happened == ["started", "stopped"]


async def test_what_stops_it_from_starting_is_raised() -> None:
    with pytest.raises(ConnectionError, match="no store"):
        async with running(application([], fails="start")):
            raise AssertionError("the block began")


async def test_what_goes_wrong_while_it_stops_is_raised() -> None:
    with pytest.raises(ConnectionError, match="store lost"):
        async with running(application([], fails="stop")):
            pass
