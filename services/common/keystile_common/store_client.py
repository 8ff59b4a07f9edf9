"""A client of one Valkey or Redis server: its connections, its timeouts, and the end of every wait."""

import asyncio
import ssl
from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from redis import exceptions
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import Connection, SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from keystile_common.settings import SettingsError, StoreSettings
from keystile_common.store_batch import Batch, Command
from keystile_common.store_durability import Durable, Problem, Promise
from keystile_common.store_script import Script
from keystile_common.store_together import Together

# In a burst a request waits its turn; with one try of a command behind it this stays under two seconds.
POOL_WAIT_SECONDS = 1.0
LONGEST_SECONDS = 1.6
"""What a command may take with all its waiting, connecting, asking for the master and being sent elsewhere."""


class StoreRefusedError(exceptions.ConnectionError):
    """A refusal that waiting does not mend; `str()` says what to change."""


_TOGETHER = frozenset({"EVALSHA", "GET", "HGETALL", "SET"})
"""Commands that are short, never wait in the server, and come often."""


class Client(Redis):
    """A client of one server, or of whichever server its pool leads to; a command ends in `LONGEST_SECONDS`."""

    _sending: Together | None = None
    _durable: Durable | None = None

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command; a `TimeoutError` after `LONGEST_SECONDS`."""
        name = args[0]
        if name not in _TOGETHER:
            async with asyncio.timeout(LONGEST_SECONDS):
                return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return self._understood(name, await self._together.send(*args), options)

    async def execute_durably(self, promise: Promise, *args: Any, is_asking: bool = False, **options: Any) -> Any:
        """As `execute_command`; what was written is confirmed as `promise` has it, which is always the same.

        Raises:
            NotDurableError: it was done, but not confirmed.
        """
        if self._durable is None:
            self._durable = Durable(self.connection_pool, promise, self._answer_seconds, LONGEST_SECONDS)
        async with asyncio.timeout(LONGEST_SECONDS):
            answer = await self._durable.send(*args, is_asking=is_asking)
        return self._understood(args[0], answer, options)

    def _understood(self, name: str, answer: Any, options: dict[str, Any]) -> Any:
        options.pop("keys", None)  # as redis-py's parse_response does
        callback = self.response_callbacks.get(name)
        return answer if callback is None else callback(answer, **options)

    def get(self, name: bytes | str | memoryview) -> Awaitable[Any]:
        """The value of a key, or None; by the shortest way, since nothing is asked more often."""
        return self._together.send("GET", name)

    def register_script(self, script: str) -> Script:  # type: ignore[override] # redis-py's asks for pipelines too
        """A script, which is sent by its digest and with others of the same turn."""
        return Script(self._run, script)

    def _run(self, *words: Any) -> Awaitable[Any]:
        # What a script answers is nothing that redis-py would have to understand first.
        return self._together.send(*words)

    @property
    def _together(self) -> Together:
        if self._sending is None:
            self._sending = Together(self.connection_pool, self._answer_seconds, LONGEST_SECONDS)
        return self._sending

    @property
    def _answer_seconds(self) -> float | None:
        seconds: float | None = self.connection_pool.connection_kwargs.get("socket_timeout")
        return seconds

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """End what is under way, and close every connection."""
        for each in (self._sending, self._durable):
            if each is not None:
                await each.close()
        await super().aclose(close_connection_pool)

    def batch(self) -> Batch:
        """Commands that are sent together; they too end in `LONGEST_SECONDS`."""
        return Batch(self.execute_commands)

    async def execute_commands(self, commands: list[Command]) -> list[Any]:
        """Send several commands at once; what each was answered, errors too."""
        async with asyncio.timeout(LONGEST_SECONDS):
            pipeline = self.pipeline(transaction=False)
            for args, options in commands:
                pipeline.execute_command(*args, **options)
            # Were it to raise an error, that would have the command's arguments in its text.
            return await pipeline.execute(raise_on_error=False)

    async def eviction_policies(self) -> dict[str, str]:
        """Each server's `maxmemory-policy` by its name, which is empty where there is one server."""
        return {"": (await self.info("memory")).get("maxmemory_policy", "unknown")}

    async def durability_problems(self, promise: Promise) -> dict[str, Problem | None]:
        """What keeps each server from confirming writes, by its name, which is empty where there is one server."""
        answers = await self.execute_commands([(question, {}) for question in promise.probe])
        for answer in answers:
            # A server that is away, or that is still reading its file, says nothing of what it can do.
            if isinstance(answer, exceptions.ConnectionError | exceptions.TimeoutError):
                raise answer
        return {"": promise.problem_of(answers)}


def server_options(settings: StoreSettings) -> dict[str, Any]:
    """How to connect to a server that holds data, whichever way it is found.

    A command whose connection broke before its answer came is sent once more: every script of Keystile knows its own
    attempt, so a lost answer never reads as a second use. One that got no answer in time is not: a store that stands
    still would only stand still for longer, and the caller has two seconds.
    """
    return {
        **_common_options(settings),
        "username": settings.username,
        "password": settings.password.get_secret_value() if settings.password else None,
        "max_connections": settings.max_connections,
    }


def sentinel_options(settings: StoreSettings) -> dict[str, Any]:
    """How to connect to a sentinel: a login of its own, and a few connections."""
    password = settings.sentinel_password
    return {
        **_common_options(settings),
        "username": settings.sentinel_username,
        "password": password.get_secret_value() if password else None,
        "max_connections": 4,
    }


def _common_options(settings: StoreSettings) -> dict[str, Any]:
    return {
        "timeout": POOL_WAIT_SECONDS,
        "socket_timeout": settings.command_timeout_seconds,
        "socket_connect_timeout": settings.connect_timeout_seconds,
        "retry": Retry(ConstantBackoff(0.02), 1, supported_errors=(exceptions.ConnectionError,)),
        "health_check_interval": 0,
        "decode_responses": True,
    }


def tls_options(settings: StoreSettings) -> dict[str, Any]:
    """What TLS adds to the options above; nothing without TLS.

    Raises:
        SettingsError: a file of certificates or keys cannot be used.
    """
    if not settings.uses_tls:
        return {}
    _try_certificates(settings.ca_file, settings.certificate_file, settings.key_file)
    return {
        "ssl_ca_certs": _text(settings.ca_file),
        "ssl_certfile": _text(settings.certificate_file),
        "ssl_keyfile": _text(settings.key_file),
        "ssl_check_hostname": True,
        "ssl_min_version": ssl.TLSVersion.TLSv1_2,
    }


def _text(path: Path | None) -> str | None:
    return str(path) if path else None


def _try_certificates(ca: Path | None, certificate: Path | None, key: Path | None) -> None:
    """Read them once now: at each connection it would look as if the store were away."""
    context = ssl.create_default_context()
    name, path = "ca_file", ca
    try:
        if ca is not None:
            context.load_verify_locations(ca)
        name, path = "certificate_file", certificate
        if certificate is not None:
            certificate.read_bytes()
            name, path = "key_file", key
            context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as problem:
        # An SSLError is an OSError; its text may be of more than one line and tells a person nothing.
        reason = "not a usable PEM file" if isinstance(problem, ssl.SSLError | ValueError) else problem.strerror
        raise SettingsError(f"store.{name}: cannot use {path}: {reason}") from None


def _no_password() -> str:
    raise ValueError("an encrypted key would make the start wait for somebody to type")


def address(node: str) -> tuple[str, int]:
    """Host and port of `host:port`, as the settings have it."""
    host, _, port = node.rpartition(":")
    return host.strip("[]"), int(port)


def client_of(host: str, port: int, options: dict[str, Any], tls: dict[str, Any]) -> Client:
    """A client of the server at this address; nothing is sent until it is used."""
    kind = SSLConnection if tls else Connection
    return client_of_pool(BlockingConnectionPool(connection_class=kind, host=host, port=port, **options, **tls))


def client_of_url(url: str, options: dict[str, Any], tls: dict[str, Any]) -> Client:
    """The same for `redis://`, `rediss://` and `unix://`."""
    return client_of_pool(BlockingConnectionPool.from_url(url, **options, **tls))


def client_of_pool(pool: BlockingConnectionPool) -> Client:
    """A client that closes its pool when it is closed."""
    client = Client.from_pool(pool)
    assert isinstance(client, Client)  # noqa: S101 (redis-py types it as the class above)
    return client
