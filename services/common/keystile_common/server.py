"""Running an ASGI app under uvicorn, with its metrics on a port of their own."""

import asyncio
import contextlib
import errno
import gc
import signal
import socket
from collections.abc import Awaitable, Callable, Iterator

import uvicorn
from prometheus_client import CollectorRegistry, start_http_server
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keystile_common import stopping
from keystile_common.certificates import ServerCertificate
from keystile_common.recurring_protocol import HttpProtocol
from keystile_common.settings import Listen

_GARBAGE_THRESHOLDS = (20_000, 20, 50)
"""Allocations before the youngest objects are looked through for cycles, and how often the older ones are with them."""


class ListenError(Exception):
    """An address cannot be listened on; `str()` says what to do."""


def bind(listen: Listen, setting: str) -> socket.socket:
    """Bind before anything else starts, so that a port in use is said in one sentence.

    Args:
        listen: host and port.
        setting: the environment variable that changes the port, for the sentence.

    Raises:
        ListenError: the address is in use, not ours, or needs rights we do not have.
    """
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it, answers may wait 40 ms.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((listen.host, listen.port))
        # Bound is not enough: two sockets may bind one port, only one of them may listen.
        listener.listen(2048)
    except OSError as problem:
        listener.close()
        raise ListenError(_sentence(problem, listen, setting)) from None
    listener.set_inheritable(True)
    return listener


def _sentence(problem: OSError, listen: Listen, setting: str) -> str:
    if problem.errno == errno.EADDRINUSE:
        return (
            f"Port {listen.port} on {listen.host} is in use: stop what listens there, or choose another with {setting}."
        )
    if problem.errno == errno.EACCES:
        return f"Port {listen.port} needs rights this user does not have: choose one above 1023 with {setting}."
    return f"Cannot listen on {listen.host}:{listen.port} ({problem.strerror}): change it with {setting}."


@contextlib.contextmanager
def serve_metrics(registry: CollectorRegistry, listen: Listen, setting: str) -> Iterator[None]:
    """Answer Prometheus on `listen` while the block runs.

    Raises:
        ListenError: as `bind`.
    """
    try:
        server, thread = start_http_server(listen.port, listen.host, registry)
    except OSError as problem:
        raise ListenError(_sentence(problem, listen, setting)) from None
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join(timeout=2)


class Server(uvicorn.Server):
    """Renews its certificate, and tells the application that it is about to stop while connections are still open.

    Args:
        config: how to serve.
        on_stop: as `run` has it.
        certificate: as `run` has it.
    """

    def __init__(
        self,
        config: uvicorn.Config,
        on_stop: Callable[[], Awaitable[None]] | None,
        certificate: ServerCertificate | None,
    ) -> None:
        super().__init__(config)
        self._drain_seconds = config.timeout_graceful_shutdown or 0
        self._on_stop = on_stop
        self._certificate = certificate

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, with what the process has until then out of the garbage collector's way."""
        await super().startup(sockets)
        # What is there now stays. To look through all of it for garbage again and again, and through what requests are
        # made of every few of them, takes a quarter of the time of a request; docs/performance.md has the figures.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_GARBAGE_THRESHOLDS)

    async def main_loop(self) -> None:
        """Serve until told to stop."""
        if self._certificate is None:
            await super().main_loop()
            return
        watching = asyncio.create_task(self._certificate.watch(self._let_go_of_clients_with_certificates))
        try:
            await super().main_loop()
        finally:
            watching.cancel()

    def _let_go_of_clients_with_certificates(self) -> None:
        """Their authorities are others now: each finishes what it is at, and shows its certificate anew."""
        for connection in list(self.server_state.connections):
            if isinstance(connection, HttpProtocol) and connection.client_certificate is not None:
                connection.shutdown()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let the application end what would not end by itself, then wait for the rest."""
        stopping.begin(self._drain_seconds)
        if self._on_stop is not None:
            await self._on_stop()
        await super().shutdown(sockets)


def run(
    app: ASGIApp,
    listener: socket.socket,
    *,
    trusted_proxies: list[str],
    drain_seconds: int,
    on_stop: Callable[[], Awaitable[None]] | None = None,
    certificate: ServerCertificate | None = None,
) -> None:
    """Serve `app` until SIGTERM or SIGINT, then finish what is in flight for at most `drain_seconds`.

    An application that does not stop is ended by force soon after, as `stopping` says.

    Args:
        app: the application.
        listener: from `bind`.
        trusted_proxies: addresses or networks whose X-Forwarded-For names the client; nobody's by default.
        drain_seconds: how long open requests may go on after the signal.
        on_stop: called after the signal, before waiting; ends what would never end by itself.
        certificate: to serve TLS with, plain HTTP without.

    Raises:
        Exception: what stopped the application from starting.
    """
    startup = _Startup(app)
    config = uvicorn.Config(
        startup,
        http=HttpProtocol,
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=bool(trusted_proxies),
        forwarded_allow_ips=trusted_proxies,
        timeout_graceful_shutdown=drain_seconds,
        lifespan="on",
        ws="none",
        ssl_context_factory=(lambda *_: certificate.context) if certificate else None,
    )
    try:
        with _signalled_once():
            Server(config, on_stop, certificate).run(sockets=[listener])
    finally:
        stopping.finish()
        if startup.problem is not None:
            raise startup.problem from None


class _Startup:
    """Keeps what stopped an application from starting, of which uvicorn would only log the traceback."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.problem: Exception | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return

        async def without_traceback(message: Message) -> None:
            await send({**message, "message": ""} if message["type"].endswith(".failed") else message)

        try:
            await self._app(scope, receive, without_traceback)
        except Exception as problem:
            self.problem = problem
            raise


@contextlib.contextmanager
def _signalled_once() -> Iterator[None]:
    """Let the block's caller close what it holds after SIGTERM or SIGINT.

    uvicorn stops in good order and then raises the signal once more, which would end the process on the spot.
    """
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
