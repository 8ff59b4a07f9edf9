"""The data folder of a server that runs its own store: one process's alone, and its user's alone."""

import contextlib
import fcntl
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from keystile_auth.cli.session import CommandError


@contextlib.contextmanager
def owned(folder: Path) -> Iterator[None]:
    """Make `folder` where it is missing, and keep other servers out of it while the block runs.

    Raises:
        CommandError: it cannot be written, or another server runs on it.
    """
    # What this process and its children write, Valkey's append-only file too, is for this user alone.
    os.umask(0o077)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = (folder / "lock").open("a")
    except OSError as problem:
        raise CommandError(
            f"Cannot write to {folder} ({problem.strerror}): give yourself the rights, "
            "or set KEYSTILE_DATA_DIR to another folder."
        ) from None
    # A mounted volume's root belongs to somebody else, who has let us in.
    with contextlib.suppress(PermissionError):
        folder.chmod(0o700)
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise CommandError(
                f"Another Keystile is using {folder}: stop it, or set KEYSTILE_DATA_DIR to another folder."
            ) from None
        yield


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, so that what was started is stopped in order."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # SIGINT too: a shell starts what it puts in the background with SIGINT ignored.
    before = {number: signal.signal(number, interrupt) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def secret(path: Path, fresh: str) -> str:
    """The secret in `path`, a file as in a mounted Kubernetes Secret; where it is missing, `fresh` is written there."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_text().strip()
    with os.fdopen(descriptor, "w") as file:
        file.write(fresh + "\n")
    return fresh


def write_settings(folder: Path, **files: dict[str, Any]) -> None:
    """Write one settings file a keyword, and remove those that a server of another topology left."""
    for name in ("auth", "mcp", "embedded"):
        (folder / f"{name}.yaml").unlink(missing_ok=True)
    for name, settings in files.items():
        (folder / f"{name}.yaml").write_text("# Written at each start.\n" + yaml.safe_dump(settings, sort_keys=False))
