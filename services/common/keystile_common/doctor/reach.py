"""Whether a host can be reached: its names, its addresses, its certificate."""

import asyncio
import errno
import socket
import ssl
import time
from dataclasses import dataclass
from urllib.parse import urlsplit

from keystile_common.doctor.finding import Checks, Verdict, ok, problem, unknown, warning
from keystile_common.doctor.probe import Probe, is_loopback

_MAX_ADDRESSES = 8
_SOON_DAYS = 14
_DAY = 86400
_FAMILIES = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
_NO_ROUTE = {errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}

_DISTRUST = {
    9: ("is not valid yet", "Look at the clock of this machine and at the certificate's beginning."),
    10: ("has expired", "Renew the certificate, and see to it that what serves it has loaded the new one."),
    18: (
        "is signed by itself",
        "Get one from an authority that clients trust, or give this command the authority with --ca-file.",
    ),
    62: ("is for another name", "Get a certificate with the host of the URL among its subject alternative names."),
    64: (
        "is for another address",
        "Get a certificate with the address in the URL among its subject alternative names.",
    ),
}
_UNKNOWN_AUTHORITY = (
    "leads to no authority that is trusted here",
    "Serve the intermediate certificates too. An authority of your own is given with --ca-file; clients need it too.",
)


@dataclass(slots=True)
class Host:
    """Where a URL leads.

    Attributes:
        url: what is looked at.
        name: its host.
        port: its port.
        addresses: what the name resolves to, with their families.
        open: the addresses that take a connection.
        certificate: what the server showed, once it is trusted.
        version: of TLS.
        distrust: what is wrong with the certificate or the handshake, and what to do.
    """

    url: str
    name: str
    port: int
    addresses: list[tuple[str, str]]
    open: dict[str, str]
    certificate: dict[str, object]
    version: str = ""
    distrust: tuple[str, str] | None = None

    @property
    def is_reached(self) -> bool:
        """Whether any address takes a connection, and its certificate is trusted."""
        return "" in self.open.values() and self.distrust is None


async def reach(url: str, probe: Probe) -> Host:
    """Resolve, connect, shake hands. `url` is http or https and has a host."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = Host(url, parts.hostname or "", port, [], {}, {})
    host.addresses = await _resolve(host, probe)
    answers = await asyncio.gather(*(_connect(address, host.port, probe) for _, address in host.addresses))
    host.open = {address: trouble for (_, address), trouble in zip(host.addresses, answers, strict=True)}
    if parts.scheme == "https" and "" in host.open.values():
        await _shake_hands(host, probe)
    return host


async def _resolve(host: Host, probe: Probe) -> list[tuple[str, str]]:
    ask = asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    try:
        found = await asyncio.wait_for(ask, probe.seconds_left())
    except (OSError, UnicodeError, TimeoutError):
        return []
    pairs = [(_FAMILIES[family], str(address[0])) for family, _, _, _, address in found if family in _FAMILIES]
    return list(dict.fromkeys(pairs))[:_MAX_ADDRESSES]


async def _connect(address: str, port: int, probe: Probe) -> str:
    """What is wrong with a connection; empty if nothing is."""
    try:
        _, writer = await asyncio.wait_for(asyncio.open_connection(address, port), probe.seconds_left())
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return "no route from here" if error.errno in _NO_ROUTE else "refused"
    writer.close()
    return ""


async def _shake_hands(host: Host, probe: Probe) -> None:
    trust = ssl.create_default_context() if probe.authorities is None else probe.authorities.context()
    connect = asyncio.open_connection(host.name, host.port, ssl=trust, server_hostname=host.name)
    try:
        _, writer = await asyncio.wait_for(connect, probe.seconds_left())
    except ssl.SSLCertVerificationError as error:
        what, advice = _DISTRUST.get(error.verify_code, _UNKNOWN_AUTHORITY)
        host.distrust = (f"The certificate of {host.name} {what}.", advice)
    except (OSError, ValueError, TimeoutError) as error:
        reason = (getattr(error, "reason", None) or "no answer").replace("_", " ").lower()
        host.distrust = (
            f"There is no TLS 1.2 or 1.3 with {host.name}:{host.port} ({reason}).",
            "Let the port of the URL speak TLS 1.2 or 1.3; an http port needs an http URL.",
        )
    else:
        secure = writer.get_extra_info("ssl_object")
        host.certificate, host.version = dict(secure.getpeercert()), secure.version()
        writer.close()


async def dns(host: Host) -> Verdict:
    """What the name resolves to."""
    if not host.addresses:
        return problem(
            f"{host.name} has no address.", "Check the host in the URL, and that its DNS record is known where you are."
        )
    if any(address == host.name for _, address in host.addresses):
        return ok(f"{host.name} is an address itself.")
    listed = ", ".join(f"{address} ({family})" for family, address in host.addresses)
    seen = f"{host.name} is {listed}."
    if not any(family == "IPv4" for family, _ in host.addresses):
        return warning(seen, "Publish an IPv4 address (an A record) too: many clients have no IPv6.")
    return ok(seen)


async def connection(host: Host) -> Verdict:
    """Whether each address takes connections."""
    if not host.open:
        return unknown("There is no address to connect to.")
    broken = {address: trouble for address, trouble in host.open.items() if trouble}
    if not broken:
        return ok(f"Port {host.port} is open at every address.")
    seen = f"Port {host.port}: " + ", ".join(f"{address} {trouble}" for address, trouble in broken.items()) + "."
    if len(broken) == len(host.open):
        return problem(seen, "Check that the server runs, that its port is the URL's, and what firewalls let through.")
    if all(trouble == "no route from here" for trouble in broken.values()) or is_loopback(host.name):
        return ok(f"{seen} The others are open.")
    return warning(seen, "Serve every address that DNS names, or take it out: clients that pick it wait or fail.")


async def tls(host: Host) -> Verdict:
    """Whether the certificate is trusted and for this name, and the version of TLS."""
    if urlsplit(host.url).scheme == "http":
        if is_loopback(host.name):
            return ok("Plain http, which is fine on this machine.")
        return problem("The URL is plain http.", "Serve it by https: tokens would travel in plain text.")
    if host.distrust is not None:
        return problem(*host.distrust)
    if not host.version:
        return unknown("There is no connection to look at.")
    return ok(f"{host.version}, and a certificate for {host.name} from an authority that is trusted here.")


async def certificate(host: Host) -> Verdict:
    """How long the certificate lasts."""
    end = host.certificate.get("notAfter")
    if not isinstance(end, str):
        if urlsplit(host.url).scheme == "http":
            return ok("Plain http has none.")
        return unknown("There is no trusted certificate to look at.")
    days = (ssl.cert_time_to_seconds(end) - time.time()) / _DAY
    seen = f"The certificate lasts for {days:.0f} more days."
    if days < _SOON_DAYS:
        return warning(seen, "Renew it, and see to it that renewal happens by itself.")
    return ok(seen)


CHECKS: Checks[Host] = {"dns": dns, "connection": connection, "tls": tls, "certificate": certificate}
