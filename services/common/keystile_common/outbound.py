"""HTTP to addresses that a client chose: public ones only, and exactly the one that was checked.

A Client ID Metadata Document or a `jwks_uri` is a URL that a stranger names. The name is resolved once,
every address it resolves to must be public, and the connection goes to a checked address, so neither an
internal address nor a name that changes between check and use gets through.
"""

import asyncio
import ipaddress
import socket
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType

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


class _CheckedResolver(AbstractResolver):
    def __init__(self, *, allow_loopback: bool) -> None:
        self._allow_loopback = allow_loopback

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM, family=family)
        results = []
        for kind, _, protocol, _, address in found:
            ip = str(address[0])
            if not is_public_address(ip, allow_loopback=self._allow_loopback):
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


class PublicFetcher(HttpClient):
    """Fetches small https documents whose URLs strangers chose, without following redirects."""

    def __init__(self, *, allow_loopback: bool, timeout_seconds: float, ca_file: Path | None = None) -> None:
        super().__init__(
            timeout_seconds=timeout_seconds,
            ca_file=ca_file,
            headers={"Accept": "application/json"},
            resolver=_CheckedResolver(allow_loopback=allow_loopback),
            socket_factory=self._socket,
            use_dns_cache=False,
            limit=16,
            limit_per_host=2,
            force_close=True,  # each fetch is checked anew; a kept connection would outlive its check
        )
        self._allow_loopback = allow_loopback

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
            async with self.session.get(url, allow_redirects=False) as response:
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

    def _socket(self, address: AddrInfoType) -> socket.socket:
        # The last look, at the very address that is about to be connected to, whatever spelled it.
        family, kind, protocol, _, target = address
        if not is_public_address(str(target[0]), allow_loopback=self._allow_loopback):
            raise OutboundError("the URL's address is not public")
        return socket.socket(family, kind, protocol)

    def _refuse_literal_address(self, host: str) -> None:
        # aiohttp does not ask the resolver about a host that is an address already.
        try:
            ipaddress.ip_address(host)
        except ValueError:
            # 0x7f.1, 2130706433 and the like are addresses to the C library.
            if host.replace(".", "").isdigit() or host.lower().startswith("0x"):
                raise OutboundError("the URL's host must be a name") from None
            return
        if not is_public_address(host, allow_loopback=self._allow_loopback):
            raise OutboundError("the URL's address is not public")


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
