"""HTTP to addresses that a client chose: public ones only, and exactly the one that was checked.

A Client ID Metadata Document or a `jwks_uri` is a URL that a stranger names. The name is resolved once,
every address it resolves to must be public, and the connection goes to a checked address, so neither an
internal address nor a name that changes between check and use gets through. Hosts on site, which an operator
names with their networks, may have an address in those networks too; no other host may.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from keystile_common.certificates import TrustedAuthorities
from keystile_common.http_client import HttpClient

# Prefixes that carry an IPv4 address inside an IPv6 one (RFC 6052, RFC 8215): what they reach is that address.
_TRANSLATED = (ipaddress.IPv6Network("64:ff9b::/96"), ipaddress.IPv6Network("64:ff9b:1::/48"))


class OutboundError(Exception):
    """A document could not be had; `str()` is a sentence that may be shown to whoever named its URL."""


class OutboundUnavailableError(OutboundError):
    """The host is away or in trouble: what was had from it before may still be true."""


@dataclass(frozen=True, slots=True)
class Document:
    """What was fetched: the body, and the headers that say how long it may be kept (names in lower case)."""

    body: bytes
    headers: dict[str, str]


def is_public_address(address: str, *, allow_loopback: bool = False) -> bool:
    """Whether `address` (IPv4 or IPv6 text) may be connected to on a stranger's behalf."""
    ip = ipaddress.ip_address(address.split("%", 1)[0])
    if isinstance(ip, ipaddress.IPv6Address):
        mapped = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if mapped is not None:
            return is_public_address(str(mapped), allow_loopback=allow_loopback)
        if ip.is_site_local or any(ip in network for network in _TRANSLATED):
            return False
    if ip.is_loopback:
        return allow_loopback
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


@dataclass(frozen=True, slots=True)
class _Reach:
    """Which addresses one host may have: public ones, and those of its networks."""

    allow_loopback: bool
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def allows(self, address: str) -> bool:
        if is_public_address(address, allow_loopback=self.allow_loopback):
            return True
        ip = ipaddress.ip_address(address.split("%", 1)[0])
        return any(ip in network for network in self.networks)


class _CheckedResolver(AbstractResolver):
    def __init__(self, reach: _Reach) -> None:
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

    def __init__(self, reach: _Reach, timeout_seconds: float, authorities: TrustedAuthorities | None) -> None:
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


class PublicFetcher:
    """Fetches small https documents whose URLs strangers chose, without following redirects. Used by `async with`."""

    def __init__(
        self,
        *,
        allow_loopback: bool,
        timeout_seconds: float,
        ca_file: Path | None = None,
        private_hosts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        """Prepare to fetch.

        Args:
            allow_loopback: whether every host may be on this machine.
            timeout_seconds: how long one fetch may take.
            ca_file: certificate authorities to trust beside the system's, PEM.
            private_hosts: host names in lower case to the networks that they may have an address in.
        """
        self._reach = _Reach(allow_loopback)
        # Public hosts need the system's authorities, whatever a site has of its own.
        authorities = TrustedAuthorities(ca_file, "metadata_documents.ca_file", beside_system=True) if ca_file else None
        self._others = _Client(self._reach, timeout_seconds, authorities)
        # One client a host: what a connection may lead to is decided by the name that it was asked for.
        self._private = {
            host: _Client(
                _Reach(allow_loopback, tuple(map(ipaddress.ip_network, networks))), timeout_seconds, authorities
            )
            for host, networks in (private_hosts or {}).items()
        }
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        for client in (self._others, *self._private.values()):
            await self._open.enter_async_context(client)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._open.aclose()

    async def get(self, url: str, *, max_bytes: int) -> Document:
        """Fetch `url`.

        Args:
            url: https, no user or password in it.
            max_bytes: the most the body may have.

        Raises:
            OutboundUnavailableError: not reachable, too slow, or answering 5xx.
            OutboundError: not https, not public, redirected, not 200, or too large.
        """
        # IDNA turns some characters into digits and full stops: a check of one spelling would say nothing of the other.
        if not url.isascii():
            raise OutboundError("the URL must be ASCII")
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.password:
            raise OutboundError("the URL must be https and have no user or password")
        self._refuse_literal_address(parts.hostname)
        try:
            # By the host that aiohttp reads in the URL, which is what it connects to.
            target = URL(url)
            client = self._private.get(target.host or "", self._others)
            async with client.request("GET", target) as response:
                _require_ok(response, parts.hostname)
                body = await _read(response, max_bytes + 1)
                # A header that came several times is one list (RFC 9110 section 5.2).
                headers = {
                    name.lower(): ", ".join(response.headers.getall(name)) for name in dict.fromkeys(response.headers)
                }
        except TimeoutError:
            raise OutboundUnavailableError(f"{parts.hostname} did not answer in time") from None
        except (aiohttp.ClientError, OSError, ValueError) as problem:
            if isinstance(problem.__cause__, OutboundError):
                raise problem.__cause__ from None
            raise OutboundUnavailableError(f"{parts.hostname} could not be reached") from None
        if len(body) > max_bytes:
            raise OutboundError(f"the document at {parts.hostname} is larger than {max_bytes} bytes")
        return Document(body, headers)

    def _refuse_literal_address(self, host: str) -> None:
        # aiohttp does not ask the resolver about a host that is an address already.
        try:
            ipaddress.ip_address(host)
        except ValueError:
            # 0x7f.1, 2130706433 and the like are addresses to the C library.
            if host.replace(".", "").isdigit() or host.lower().startswith("0x"):
                raise OutboundError("the URL's host must be a name") from None
            return
        if not self._reach.allows(host):
            raise OutboundError("the URL's address is not public")


def _socket(reach: _Reach, address: AddrInfoType) -> socket.socket:
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
