"""What is installed once a machine, from pins, outside the environment that runs."""

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def once(name: str, made_from: bytes, install: Callable[[Path], None]) -> Path:
    """A folder in the cache that holds what `install` put there when it was first asked for.

    Args:
        name: what it is, the beginning of the folder's name.
        made_from: the pins; others make another folder.
        install: fills an empty folder, which is moved into place afterwards.
    """
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "keystile" / f"{name}-{hashlib.sha256(made_from).hexdigest()[:16]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        if not folder.exists():
            with tempfile.TemporaryDirectory(dir=folder.parent) as made:
                install(Path(made))
                Path(made).rename(folder)
                Path(made).mkdir()
    return folder
