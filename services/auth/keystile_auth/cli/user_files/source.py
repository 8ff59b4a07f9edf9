"""What users are read from: a stream of bytes, of which nobody says how long it is or how long its lines are."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

MAX_LINE_BYTES = 1 << 20
_HEAD_BYTES = 1 << 16
_BOM = b"\xef\xbb\xbf"
_OTHER_BOMS = (b"\xff\xfe", b"\xfe\xff")


class UnreadableFileError(Exception):
    """A file of which nothing can be read; `str()` is a sentence."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line without its end; `problem` says why it has no text."""

    number: int
    text: str
    problem: str | None = None


class Source:
    """A stream, its beginning, and how much of it has been read.

    Raises:
        UnreadableFileError: it is UTF-16.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        head = stream.read(_HEAD_BYTES)
        if head.startswith(_OTHER_BOMS):
            raise UnreadableFileError("The file is UTF-16; save it as UTF-8.")
        self._ahead = io.BytesIO(head.removeprefix(_BOM))
        self.bytes_read = len(head)

    @property
    def head(self) -> str:
        """The beginning, for a look at what it is."""
        return self._ahead.getvalue().decode(errors="replace")

    def read(self) -> bytes:
        """Some more bytes; none at the end."""
        data = self._ahead.read()
        if not data:
            data = self._stream.read(_HEAD_BYTES)
            self.bytes_read += len(data)
        return data

    def lines(self) -> Iterator[Line]:
        """Every line, of at most `MAX_LINE_BYTES`."""
        number = 0
        while data := self._readline():
            number += 1
            if len(data) > MAX_LINE_BYTES and not data.endswith(b"\n"):
                self._skip_line()
                yield Line(number, "", "the line is longer than 1 MiB")
                continue
            try:
                yield Line(number, data.decode().rstrip("\r\n"))
            except UnicodeDecodeError:
                yield Line(number, "", "the line is not UTF-8")

    def _readline(self) -> bytes:
        data = self._ahead.readline(MAX_LINE_BYTES + 1)
        if not data.endswith(b"\n"):
            more = self._stream.readline(MAX_LINE_BYTES + 1 - len(data))
            self.bytes_read += len(more)
            data += more
        return data

    def _skip_line(self) -> None:
        while (data := self._readline()) and not data.endswith(b"\n"):
            pass
