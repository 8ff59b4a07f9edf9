"""What commands that look into the store share: settings, a connection, the audit log."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, TypeVar

from opentelemetry.trace import NoOpTracer

from keystile_auth.app import create_metrics
from keystile_auth.settings import AuthSettings
from keystile_common.audit import AuditLog, FileSink, StreamSink
from keystile_common.settings import CONFIG_VARIABLE, SECRETS_VARIABLE, TOPOLOGY_VARIABLE, SettingsError, load
from keystile_common.settings import is_embedded as topology_is_embedded
from keystile_common.store import Store, connect

_T = TypeVar("_T")
DATA_FOLDER = ".keystile"
_REACH_SECONDS = 5.0
"""Network policies let a new pod of a CronJob reach the store some moments after it was started."""


class CommandError(Exception):
    """A command that cannot do what it was asked; `str()` is a sentence for whoever typed it."""


@dataclass(frozen=True, slots=True)
class Session:
    """An operator's look into the store."""

    settings: AuthSettings
    store: Store
    audit: AuditLog


def run(work: Coroutine[Any, Any, _T]) -> _T:
    """Run a command's coroutine."""
    return asyncio.run(work)


def load_settings() -> AuthSettings:
    """The settings of the server: as the environment says, else of the development server in this folder."""
    environ = dict(os.environ)
    folder = Path(environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER))
    if is_embedded(environ):
        return _load_embedded(environ)
    if CONFIG_VARIABLE not in environ and "KEYSTILE_ISSUER" not in environ and (folder / "auth.yaml").exists():
        environ[CONFIG_VARIABLE] = str(folder / "auth.yaml")
        environ.setdefault(SECRETS_VARIABLE, str(folder / "secrets" / "auth"))
    elif CONFIG_VARIABLE not in environ and "KEYSTILE_ISSUER" not in environ:
        raise CommandError(
            f"No settings: name the server's YAML file in {CONFIG_VARIABLE} (and its secrets folder in "
            f"{SECRETS_VARIABLE}), or run this where `make run` keeps its {DATA_FOLDER} folder."
        )
    return load(AuthSettings, environ)


def is_embedded(environ: Mapping[str, str]) -> bool:
    """Whether the server that `environ` speaks of, or else the one in this folder, is of the embedded topology."""
    if TOPOLOGY_VARIABLE in environ or CONFIG_VARIABLE in environ or "KEYSTILE_ISSUER" in environ:
        return topology_is_embedded(environ)
    return (Path(environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER)) / "embedded.yaml").exists()


def _load_embedded(environ: Mapping[str, str]) -> AuthSettings:
    # By its name only: that package knows both services, and neither of them may know it.
    for each in entry_points(group="keystile_auth.settings", name="embedded"):
        found: AuthSettings = each.load()(environ)
        return found
    raise CommandError("This server is of the embedded topology, but the package keystile-embedded is not installed.")


@contextlib.asynccontextmanager
async def open_session(settings: AuthSettings | None = None) -> AsyncIterator[Session]:
    """Connect with `settings`, or the server's own.

    Events go to the server's audit file where it has one, else to standard error.
    """
    settings = settings or load_settings()
    metrics = create_metrics()
    audit = AuditLog([_sink(settings.audit.file)], metrics.audit)
    store = connect(settings.store, metrics.store, NoOpTracer(), settings.store.durability)
    try:
        await store.wait_until_reachable(_REACH_SECONDS, quietly=True)
        yield Session(settings, store, audit)
    finally:
        audit.close()
        await store.close()


def _sink(file: Path | None) -> FileSink | StreamSink:
    if file is None:
        return StreamSink("stderr", sys.stderr)
    try:
        return FileSink(file)
    except OSError as problem:
        raise SettingsError(f"audit.file: cannot write {file}: {problem.strerror}") from None
