"""Connections of our own account, kept and used again."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

from keystile_auth.identity.ldap.connection import AwayError, Connection, Deadline, RefusedError, Server

_T = TypeVar("_T")
# Servers and firewalls end what is silent for long, some of them without a word.
_IDLE_SECONDS = 60.0
# Asked with a wrong password again and again, a directory may lock the account.
_REFUSED_SECONDS = 30.0


class Pool:
    """As many connections as there are threads that ask; safe to use from all of them.

    Args:
        servers: of one directory, the first that answers is used.
        dn: of our account.
        password: its password.
    """

    def __init__(self, servers: list[Server], dn: str, password: str) -> None:
        self._servers = servers
        self._dn = dn
        self._password = password
        self._idle: list[tuple[Connection, float]] = []
        self._lock = threading.Lock()
        self._is_closed = False
        self._refused_until = float("-inf")

    def ask(self, question: Callable[[Connection], _T], deadline: Deadline) -> _T:
        """Ask on a connection that is bound; one that was kept and is cut is replaced, once.

        Raises:
            AwayError: no server answers.
            RefusedError: our account is refused.
        """
        kept = self._take()
        if kept is not None:
            try:
                return self._use(kept, question)
            except AwayError:
                self._drop_idle()
        return self._use(self._own(deadline), question)

    def bind(self, dn: str, password: str, deadline: Deadline) -> Connection:
        """A connection of its own that is bound as `dn`; the caller closes it.

        Raises:
            AwayError: no server answers; says of each why.
            RefusedError: the first that answers refuses.
        """
        problems = []
        for server in list(self._servers):
            try:
                connection = _bound(server, dn, password, deadline)
            except AwayError as problem:
                problems.append(f"{server.url}: {problem}")
                continue
            self._prefer(server)
            return connection
        raise AwayError("; ".join(problems))

    def close(self) -> None:
        """End every connection."""
        self._is_closed = True
        self._drop_idle()

    def _own(self, deadline: Deadline) -> Connection:
        if time.monotonic() < self._refused_until:
            raise RefusedError("refused a moment ago")
        try:
            return self.bind(self._dn, self._password, deadline)
        except RefusedError:
            self._refused_until = time.monotonic() + _REFUSED_SECONDS
            raise

    def _use(self, connection: Connection, question: Callable[[Connection], _T]) -> _T:
        try:
            answer = question(connection)
        except BaseException:
            connection.close()
            raise
        with self._lock:
            if not self._is_closed:
                self._idle.append((connection, time.monotonic()))
                return answer
        connection.close()
        return answer

    def _take(self) -> Connection | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                connection, since = self._idle.pop()
            if time.monotonic() - since < _IDLE_SECONDS:
                return connection
            connection.close()

    def _drop_idle(self) -> None:
        with self._lock:
            idle, self._idle = self._idle, []
        for connection, _ in idle:
            connection.close()

    def _prefer(self, server: Server) -> None:
        with self._lock:
            if self._servers[0] is not server:
                self._servers = [server, *(each for each in self._servers if each is not server)]


def _bound(server: Server, dn: str, password: str, deadline: Deadline) -> Connection:
    connection = Connection(server, deadline)
    try:
        connection.bind(dn, password, deadline)
    except BaseException:
        connection.close()
        raise
    return connection
