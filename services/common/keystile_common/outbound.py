"""HTTP to addresses that a client chose: public ones only, and exactly the one that was checked.

A Client ID Metadata Document or a `jwks_uri` is a URL that a stranger names. The name is resolved once,
every address it resolves to must be public, and the connection goes to a checked address, so neither an
internal address nor a name that changes between check and use gets through. Hosts on site, which an operator
names with their networks, may have an address in those networks too; no other host may.
"""

import asyncio
import ipaddress
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from keystile_common.certificates import TrustedAuthorities

if TYPE_CHECKING:
    from keystile_common.outbound_clients import OutboundClients

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
class Reach:
    """Which addresses one host may have: public ones, and those of its networks."""

    allow_loopback: bool
    networks: tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...] = ()

    def allows(self, address: str) -> bool:
        """Whether `address` (IPv4 or IPv6 text) may be connected to."""
        if is_public_address(address, allow_loopback=self.allow_loopback):
            return True
        ip = ipaddress.ip_address(address.split("%", 1)[0])
        return any(ip in network for network in self.networks)


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
        self._reach = Reach(allow_loopback)
        self._private = {
            host: Reach(allow_loopback, tuple(map(ipaddress.ip_network, networks)))
            for host, networks in (private_hosts or {}).items()
        }
        self._timeout_seconds = timeout_seconds
        # Public hosts need the system's authorities, whatever a site has of its own.
        self._authorities = (
            TrustedAuthorities(ca_file, "metadata_documents.ca_file", beside_system=True) if ca_file else None
        )
        self._clients: OutboundClients | None = None
        self._opening = asyncio.Lock()
        self._open = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Begin.

        Raises:
            CertificateError: the authorities cannot be read.
        """
        if self._authorities is not None:
            self._authorities.context()
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
        document = await (await self._opened()).get(url, parts.hostname, max_bytes)
        if len(document.body) > max_bytes:
            raise OutboundError(f"the document at {parts.hostname} is larger than {max_bytes} bytes")
        return document

    async def _opened(self) -> "OutboundClients":
        async with self._opening:
            if self._clients is None:
                # Not before something is fetched, which many servers never do: aiohttp takes 10 MB. In a thread, since
                # requests that come meanwhile would wait for it.
                module = await asyncio.to_thread(import_module, "keystile_common.outbound_clients")
                made: OutboundClients = module.OutboundClients(
                    self._reach, self._private, self._timeout_seconds, self._authorities
                )
                self._clients = await self._open.enter_async_context(made)
            return self._clients

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
