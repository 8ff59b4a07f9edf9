"""A connection that is kept, and bytes on it as they are."""

import re
import socket
from typing import NamedTuple, Self
from urllib.parse import urlsplit

_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)\r\n")


class Answer(NamedTuple):
    """What came back: the status, the headers' lines but for the date, in the alphabet's order, and the body."""

    status: int
    headers: list[bytes]
    body: bytes


class KeptConnection:
    """A connection to a server.

    Args:
        url: where the server is; its path counts for nothing.
    """

    def __init__(self, url: str) -> None:
        at = urlsplit(url)
        self._socket = socket.create_connection((at.hostname or "", at.port or 80), timeout=20)
        self._rest = b""
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        """Send this, in one piece if it is not large."""
        self._socket.sendall(data)

    def read(self) -> Answer:
        """The next answer."""
        data, self._rest = self._rest, b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        found = _LENGTH.search(head.lower() + b"\r\n")
        length = int(found[1]) if found else 0
        while len(body) < length:
            body += self._more()
        body, self._rest = body[:length], body[length:]
        status, *lines = head.split(b"\r\n")
        headers = sorted(line for line in lines if not line.lower().startswith(b"date:"))
        return Answer(int(status.split()[1]), headers, body)

    def ask(self, data: bytes) -> Answer:
        """Send a request, and wait for its answer."""
        self.send(data)
        return self.read()

    def _more(self) -> bytes:
        data = self._socket.recv(65536)
        assert data, "the server has closed the connection"
        return data


def post(path: str, body: str, **headers: str) -> bytes:
    """A request with a form; of two with bodies of one length, the heads are the same."""
    lines = {"Host": "x", "Content-Type": "application/x-www-form-urlencoded", **headers}
    head = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in lines.items())
    return f"POST {path} HTTP/1.1\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()
