"""What serves MCP behind the bearer check and the policy."""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from starlette.types import ASGIApp


class BackendError(Exception):
    """What shall serve MCP cannot; `str()` is a sentence for whoever starts it."""


class Backend(Protocol):
    """An MCP server, wherever it runs.

    Attributes:
        app: serves the MCP endpoint. It finds the caller in `scope["user"]` and never the access token.
        reads_elsewhere: whether something else than this process's own JSON parser reads the messages, which
            then must not be readable in two ways.
    """

    @property
    def app(self) -> ASGIApp: ...  # noqa: D102
    @property
    def reads_elsewhere(self) -> bool: ...  # noqa: D102

    def running(self) -> AbstractAsyncContextManager[None]:
        """The time in which it serves."""

    async def tools(self) -> frozenset[str]:
        """The tools that it is known to have before anyone asked; more are learned from its lists."""
