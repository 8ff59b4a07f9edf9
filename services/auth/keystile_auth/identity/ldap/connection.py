"""One connection to a directory: TLS before anything else, and a deadline for everything."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import ldap
from ldap.controls import DecodeControlTuples
from ldap.controls.ppolicy import PasswordPolicyControl
from pyasn1.error import PyAsn1Error

from keystile_auth.identity.ldap import account
from keystile_auth.identity.ldap.entry import Entry

_PORTS = {"ldap": 389, "ldaps": 636}
# A machine that is gone without a word is noticed by what the system asks it now and then.
_KEEPALIVE_SECONDS = 10
_LEAST_SECONDS = 0.05
_MAX_REASON_CHARACTERS = 200
# The answer says that name or password are wrong, or that the account may not be bound to.
_REFUSED = (
    ldap.INVALID_CREDENTIALS,
    ldap.INAPPROPRIATE_AUTH,
    ldap.INVALID_DN_SYNTAX,
    ldap.NO_SUCH_OBJECT,
    ldap.UNWILLING_TO_PERFORM,
    ldap.INSUFFICIENT_ACCESS,
    ldap.CONSTRAINT_VIOLATION,
)


class AwayError(Exception):
    """No answer, or none that can be used; `str()` says why in words that hold no secret."""


class TooManyError(Exception):
    """More entries than were asked for."""


class NoSuchBaseError(Exception):
    """The entry to search below is not there, or is not shown."""


class BadFilterError(Exception):
    """A filter that is none."""


class RefusedError(Exception):
    """The directory refused a bind.

    Args:
        reason: a few words of our own.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Deadline:
    """When an answer is no longer waited for.

    Args:
        seconds: from now.
    """

    def __init__(self, seconds: float) -> None:
        self._ends = time.monotonic() + seconds

    def within(self, seconds: float) -> float:
        """How long one step may take, `seconds` at most.

        Raises:
            AwayError: there is no time left.
        """
        left = self._ends - time.monotonic()
        if left < _LEAST_SECONDS:
            raise AwayError("did not answer in time")
        return min(seconds, left)


@dataclass(frozen=True, slots=True)
class Server:
    """How a directory is reached.

    Args:
        url: one of its servers.
        start_tls: whether TLS begins after the connection.
        ca_file: the only authorities to trust; the system's by default.
        connect_seconds: for a connection.
        operation_seconds: for an answer.
    """

    url: str
    start_tls: bool
    ca_file: Path | None
    connect_seconds: float
    operation_seconds: float

    @property
    def has_tls(self) -> bool:
        """Whether passwords are encrypted; without, it is on this machine."""
        return self.start_tls or self.url.startswith("ldaps://")


class Connection:
    """One connection, which is not shared by threads. Nothing is sent before TLS.

    Args:
        server: where to.
        deadline: for the connection.

    Raises:
        AwayError: there is none, or it is not the server that the certificate speaks of.
    """

    def __init__(self, server: Server, deadline: Deadline) -> None:
        self._server = server
        self._ldap: Any
        with _problems():
            self._ldap, own = _opened(server, deadline)
            self._ldap.protocol_version = ldap.VERSION3
            self._ldap.set_option(ldap.OPT_REFERRALS, ldap.OPT_OFF)
            self._ldap.set_option(ldap.OPT_DEREF, ldap.DEREF_NEVER)
            self._ldap.set_option(ldap.OPT_NETWORK_TIMEOUT, deadline.within(server.connect_seconds))
            self._ldap.set_option(ldap.OPT_TIMEOUT, deadline.within(server.operation_seconds))
            self._ldap.set_option(ldap.OPT_X_KEEPALIVE_IDLE, _KEEPALIVE_SECONDS)
            self._ldap.set_option(ldap.OPT_X_KEEPALIVE_PROBES, 3)
            self._ldap.set_option(ldap.OPT_X_KEEPALIVE_INTERVAL, _KEEPALIVE_SECONDS)
            if server.has_tls:
                self._require_tls()
        if own is not None:
            self._start_tls(own, deadline)

    def _start_tls(self, own: socket.socket, deadline: Deadline) -> None:
        try:
            with own, _problems(), _cut_after(own, deadline.within(self._server.connect_seconds)):
                if self._server.start_tls:
                    self._ldap.start_tls_s()
        except AwayError:
            self.close()
            raise

    def _require_tls(self) -> None:
        self._ldap.set_option(ldap.OPT_X_TLS_REQUIRE_CERT, ldap.OPT_X_TLS_DEMAND)
        self._ldap.set_option(ldap.OPT_X_TLS_PROTOCOL_MIN, ldap.OPT_X_TLS_PROTOCOL_TLS1_2)
        if self._server.ca_file is not None:
            self._ldap.set_option(ldap.OPT_X_TLS_CACERTFILE, str(self._server.ca_file))
        else:
            system = ssl.get_default_verify_paths()
            if system.cafile:
                self._ldap.set_option(ldap.OPT_X_TLS_CACERTFILE, system.cafile)
            elif system.capath:
                self._ldap.set_option(ldap.OPT_X_TLS_CACERTDIR, system.capath)
        # What was said above counts for the next context, which this makes.
        self._ldap.set_option(ldap.OPT_X_TLS_NEWCTX, 0)

    def bind(self, dn: str, password: str, deadline: Deadline) -> None:
        """Authenticate; the password policy is asked what it says (draft-behera-ldap-password-policy-10).

        Raises:
            RefusedError: the directory did not accept it, or accepts it for a change of the password alone.
            AwayError: it did not answer.
            ValueError: without a password it would be no authentication at all (RFC 4513 section 5.1.2).
        """
        if not dn or not password:
            raise ValueError("a bind without a name or a password says nothing")
        with _problems("bind"):
            message = self._ldap.simple_bind(dn, password, serverctrls=[PasswordPolicyControl()])
            wait = deadline.within(self._server.operation_seconds)
            _, _, _, controls = self._ldap.result3(message, timeout=wait)
        reason = _policy_reason(controls)
        if reason is not None:
            raise RefusedError(reason)

    def search(
        self, base: str, filter_: str, attributes: tuple[str, ...], deadline: Deadline, *, most: int
    ) -> list[Entry]:
        """The entries below `base` that a filter finds; referrals to other servers are left aside.

        Args:
            base: a DN.
            filter_: RFC 4515.
            attributes: those that are wanted.
            deadline: for the answer.
            most: how many may be found.

        Raises:
            TooManyError: more are.
            NoSuchBaseError: there is no `base`.
            AwayError: it did not answer, or not the question.
        """
        with _problems("search"):
            found = self._ldap.search_ext_s(
                base,
                ldap.SCOPE_SUBTREE,
                filter_,
                list(attributes),
                timeout=deadline.within(self._server.operation_seconds),
                sizelimit=most,
            )
        entries = [Entry(dn, {name.lower(): tuple(values) for name, values in has.items()}) for dn, has in found if dn]
        if len(entries) > most:
            raise TooManyError
        return entries

    def close(self) -> None:
        """End it, whatever state it is in."""
        with suppress(ldap.LDAPError):
            self._ldap.unbind_ext_s()


def _opened(server: Server, deadline: Deadline) -> tuple[Any, socket.socket | None]:
    """The library's connection, and a hold of ours on its socket where it takes one.

    The library waits for a TLS handshake without end. Where it takes a socket, ours can be shut. For ldaps it takes
    none: there a handshake of our own, on which nothing is sent, shows first that the server is awake.
    """
    opened = _socket(server, deadline)
    if not server.url.startswith("ldaps:"):
        opened.settimeout(None)
        own = opened.dup()
        connection = ldap.initialize(server.url, fileno=opened.fileno())
        opened.detach()  # it is the library's now, which closes it
        return connection, own
    with opened:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        opened.settimeout(deadline.within(server.connect_seconds))
        context.wrap_socket(opened).close()
    return ldap.initialize(server.url), None


@contextmanager
def _cut_after(own: socket.socket, seconds: float) -> Iterator[None]:
    """Shut a socket unless the block ends before."""

    def shut() -> None:
        with suppress(OSError):
            own.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _socket(server: Server, deadline: Deadline) -> socket.socket:
    url = urlsplit(server.url)
    port = url.port or _PORTS[url.scheme]
    return socket.create_connection((url.hostname or "", port), timeout=deadline.within(server.connect_seconds))


@contextmanager
def _problems(step: Literal["connect", "bind", "search"] = "connect") -> Iterator[None]:
    """Give the library's errors the meaning that they have at this step."""
    try:
        yield
    except ldap.LDAPError as problem:
        if step == "bind" and isinstance(problem, _REFUSED):
            raise RefusedError(_refusal(problem)) from None
        if step == "search" and isinstance(problem, ldap.SIZELIMIT_EXCEEDED):
            raise TooManyError from None
        if step == "search" and isinstance(problem, ldap.NO_SUCH_OBJECT):
            raise NoSuchBaseError from None
        if step == "search" and isinstance(problem, ldap.FILTER_ERROR):
            raise BadFilterError from None
        raise AwayError(_words(problem)) from None
    except OSError as problem:
        raise AwayError(f"cannot be connected to ({problem.strerror or type(problem).__name__})") from None
    except (PyAsn1Error, ValueError):
        raise AwayError("answered what is no LDAP") from None


def _details(problem: Any) -> dict[str, Any]:
    return problem.args[0] if problem.args and isinstance(problem.args[0], dict) else {}


def _refusal(problem: Any) -> str:
    details = _details(problem)
    try:
        controls = DecodeControlTuples([(*each[:2], each[2] or b"") for each in details.get("ctrls") or ()])
    except (PyAsn1Error, ValueError):
        controls = []
    return _policy_reason(controls) or account.of_diagnostics(str(details.get("info", "")))


def _policy_reason(controls: Any) -> str | None:
    for control in controls or ():
        if isinstance(control, PasswordPolicyControl) and control.error is not None:
            return account.of_policy(control.error)
    return None


def _words(problem: Any) -> str:
    details = _details(problem)
    words = f"{details.get('desc') or type(problem).__name__} {details.get('info') or ''}".strip()
    return "".join(filter(str.isprintable, words))[:_MAX_REASON_CHARACTERS]
