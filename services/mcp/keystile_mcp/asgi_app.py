"""A backend that is somebody's own code: a Python MCP server or any ASGI application, named as module:attribute."""

import asyncio
import contextlib
import importlib
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import structlog
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import MCPServer
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common.metrics import McpMetrics
from keystile_mcp.backend import Backend, BackendError
from keystile_mcp.host_and_origin import HostAndOrigin
from keystile_mcp.owned_sessions import OwnedSessions
from keystile_mcp.session_store import SessionStore
from keystile_mcp.settings import ResourceServerSettings
from keystile_mcp.transport import SdkServer

_log = structlog.stdlib.get_logger(__name__)


def load(name: str) -> Any:
    """The object that `name` (module:attribute) names. The working folder is searched first, as `python -m` does.

    Raises:
        BackendError: there is none.
    """
    module_name, _, attribute = name.partition(":")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as problem:
        # Its own module, or one of a package it is in; anything else is missing inside of it.
        if problem.name and (module_name == problem.name or module_name.startswith(f"{problem.name}.")):
            raise BackendError(
                f"app: there is no module {module_name} in {folder} or among what is installed"
            ) from None
        raise BackendError(f"app: {module_name} needs a module that is not installed: {problem.name}") from problem
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise BackendError(f"app: the module {module_name} has no {attribute}")
        found = getattr(found, part)
    return found


def backend(name: str, settings: ResourceServerSettings, metrics: McpMetrics, sessions: SessionStore | None) -> Backend:
    """What serves the object that `name` names: the SDK's `MCPServer` or low-level `Server`, or an ASGI application.

    Args:
        name: see `load`.
        settings: see `SdkServer`.
        metrics: see `SdkServer`.
        sessions: see `SdkServer`.

    Raises:
        BackendError: there is none, or it is none of these.
    """
    found = load(name)
    if isinstance(found, MCPServer | Server):
        return SdkServer(found, settings, metrics, sessions)
    if not callable(found):
        raise BackendError(
            f"app: {name} is {type(found).__name__}; it must be the SDK's MCPServer or Server, or an ASGI application"
        )
    return AsgiApp(found, settings, sessions)


class AsgiApp:
    """A backend: any ASGI application that serves MCP at the resource's path."""

    reads_elsewhere = True

    def __init__(self, app: ASGIApp, settings: ResourceServerSettings, sessions: SessionStore | None = None) -> None:
        self._app = app
        self._owned = OwnedSessions(self._serve, sessions, settings.store.start_seconds)
        self.app: ASGIApp = HostAndOrigin(AuthContextMiddleware(self._owned), settings)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Uncompressed: what it answers is read on the way.
        headers = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
        await self._app({**scope, "headers": headers}, receive, send)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """The time in which it serves."""
        async with self._owned.running(), Lifespan(self._app):
            yield

    async def tools(self) -> frozenset[str]:
        """None: they are learned from its lists."""
        return frozenset()


class Lifespan:
    """The lifespan of an ASGI application as a context manager (ASGI's lifespan protocol)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._inbox: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._run())
        await self._say("startup")

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None  # noqa: S101 (entered)
        if not self._task.done():
            await self._say("shutdown")
        await self._task

    async def _say(self, what: str) -> None:
        await self._inbox.put({"type": f"lifespan.{what}"})
        answer = await self._answers.get()
        if answer["type"] == f"lifespan.{what}.failed":
            raise BackendError(f"app: its {what} failed: {answer.get('message', '')}")

    async def _run(self) -> None:
        scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}
        try:
            await self._app(scope, self._inbox.get, self._answers.put)
        except Exception as problem:  # noqa: BLE001 (the protocol: whoever raises here has no lifespan)
            _log.debug("the application has no lifespan", problem=type(problem).__name__)
        # Whoever waits for an answer that no longer comes.
        await self._answers.put({"type": "lifespan.over"})
