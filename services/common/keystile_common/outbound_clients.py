"""The connections of `outbound`, with aiohttp; imported with the first fetch."""

import asyncio
import socket
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from http import HTTPStatus
from types import TracebackType
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient
from keystile_common.outbound import Document, OutboundError, OutboundUnavailableError, Reach


class _CheckedResolver(AbstractResolver):
    def __init__(self, reach: Reach) -> None:
        self._reach = reach

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = []
        for kind, _, protocol, _, address in found:
            ip = str(address[0])
            if not self._reach.allows(ip):
                raise OutboundError(f"{host} resolves to an address that is not public")
            results.append(
                ResolveResult(
                    hostname=host,
                    host=ip,
                    port=port,
                    family=kind,
                    proto=protocol,
                    flags=socket.AI_NUMERICHOST,
                )
            )
        return results

    async def close(self) -> None:
        """Nothing is held open."""


class _Client(HttpClient):
    """The connections to hosts of one reach."""

    def __init__(self, reach: Reach, timeout_seconds: float, authorities: TrustedAuthorities | None) -> None:
        super().__init__(
            timeout_seconds=timeout_seconds,
            authorities=authorities,
            headers={"Accept": "application/json"},
            resolver=_CheckedResolver(reach),
            socket_factory=partial(_socket, reach),
            use_dns_cache=False,
            limit=16,
            limit_per_host=2,
            force_close=True,  # each fetch is checked anew; a kept connection would outlive its check
        )


class OutboundClients:
    """A client a host that has a reach of its own, and one for all others. Used as an async context manager.

    Args:
        reach: of hosts that are not named.
        private: host names in lower case to their reach.
        timeout_seconds: how long one fetch may take.
        authorities: whom to trust; the system's by default.
    """

    def __init__(
        self,
        reach: Reach,
        private: Mapping[str, Reach],
        timeout_seconds: float,
        authorities: TrustedAuthorities | None,
    ) -> None:
        self._others = _Client(reach, timeout_seconds, authorities)
        # One client a host: what a connection may lead to is decided by the name that it was asked for.
        self._private = {host: _Client(each, timeout_seconds, authorities) for host, each in private.items()}
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for client in (self._others, *self._private.values()):
            await self._open.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def get(self, url: str, host: str, max_bytes: int) -> Document:
        """Fetch `url`, whose text has been checked; see `PublicFetcher.get`.

        Args:
            url: absolute.
            host: its host, for sentences.
            max_bytes: the most the body may have; one byte more may come.
        """
        try:
            # By the host that aiohttp reads in the URL, which is what it connects to.
            target = URL(url)
            client = self._private.get(target.host or "", self._others)
            async with client.request("GET", target) as response:
                _require_ok(response, host)
                body = await _read(response, max_bytes + 1)
                # A header that came several times is one list (RFC 9110 section 5.2).
                headers = {
                    name.lower(): ", ".join(response.headers.getall(name)) for name in dict.fromkeys(response.headers)
                }
        except TimeoutError:
            raise OutboundUnavailableError(f"{host} did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            if isinstance(problem.__cause__, OutboundError):
                raise problem.__cause__ from None
            raise OutboundUnavailableError(f"{host} could not be reached") from None
        return Document(body, headers)


def _socket(reach: Reach, address: AddrInfoType) -> socket.socket:
    # The last look, at the very address that is about to be connected to, whatever spelled it.
    family, kind, protocol, _, target = address
    if not reach.allows(str(target[0])):
        raise OutboundError("the URL's address is not public")
    return socket.socket(family, kind, protocol)


def _require_ok(response: aiohttp.ClientResponse, host: str) -> None:
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise OutboundUnavailableError(f"{host} answered {response.status}")
    if response.status != HTTPStatus.OK:
        raise OutboundError(f"{host} answered {response.status}; it must be 200, no redirect")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes:
    body = b""
    while len(body) < most and not response.content.at_eof():
        body += await response.content.read(most - len(body))
    return body
