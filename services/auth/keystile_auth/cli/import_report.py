"""What an import has done so far: numbers, the rows that could not be taken over, and a line while it runs."""

import sys
import time
from dataclasses import asdict, dataclass

import typer

_EVERY_SECONDS = 0.2
_EVERY_ROWS = 10_000
_WIDTH = 30


@dataclass
class Counts:
    """How many rows ended how."""

    rows: int = 0
    created: int = 0
    updated: int = 0
    same: int = 0
    bad: int = 0
    without_password: int = 0

    @property
    def good(self) -> int:
        """Rows whose users are as the file says."""
        return self.created + self.updated + self.same

    def numbers(self) -> dict[str, int]:
        """All of them by name."""
        return asdict(self)

    def refuse(self, line: int, reason: str) -> None:
        """Count a row that could not be taken over, and say so; the reason holds no value of the file."""
        self.bad += 1
        typer.echo(f"line {line}: {reason}", err=True)

    def report(self, name: str, *, dry_run: bool) -> str:
        """All of it in a sentence or two."""
        would = "would be " if dry_run else ""
        text = (
            f"{self.rows} users read ({name}): {self.created} {would}created, {self.updated} {would}updated, "
            f"{self.same} there already, {self.bad} not taken over."
        )
        if self.without_password:
            text += f" {self.without_password} have no password; `keystile users password NAME` gives one."
        return text


class Progress:
    """A bar on a terminal, where the size is known; else a line now and then. Both on standard error."""

    def __init__(self, size: int | None) -> None:
        self._size = size
        self._is_terminal = sys.stderr.isatty()
        self._shown = time.monotonic()
        self._next = _EVERY_ROWS

    def show(self, counts: Counts, bytes_read: int) -> None:
        """Show how far it is, if it is time to."""
        if not self._is_terminal and counts.rows >= self._next:
            self._next = counts.rows + _EVERY_ROWS
            typer.echo(f"{counts.rows} users read, {counts.created} created", err=True)
        elif self._is_terminal and time.monotonic() - self._shown > _EVERY_SECONDS:
            self._shown = time.monotonic()
            typer.echo(f"\r{self._bar(bytes_read)}{counts.rows} users read, {counts.bad} bad ", err=True, nl=False)

    def end(self) -> None:
        """Leave the line of the bar."""
        if self._is_terminal:
            typer.echo("", err=True)

    def _bar(self, bytes_read: int) -> str:
        if not self._size:
            return ""
        done = min(_WIDTH, _WIDTH * bytes_read // self._size)
        return f"[{'#' * done}{'.' * (_WIDTH - done)}] "
