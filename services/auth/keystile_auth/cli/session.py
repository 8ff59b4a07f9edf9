"""What commands that look into the store share: settings, a connection, the audit log."""

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from opentelemetry.trace import NoOpTracer

from keystile_auth.app import create_metrics
from keystile_auth.settings import AuthSettings
from keystile_common.audit import AuditLog, FileSink, StreamSink
from keystile_common.settings import CONFIG_VARIABLE, SECRETS_VARIABLE, SettingsError, load
from keystile_common.store import Store, connect

_T = TypeVar("_T")
DATA_FOLDER = ".keystile"


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
    """The settings of the server: as the environment says, else of the `keystile dev` in this folder."""
    environ = dict(os.environ)
    folder = Path(environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER))
    if CONFIG_VARIABLE not in environ and "KEYSTILE_ISSUER" not in environ and (folder / "auth.yaml").exists():
        environ[CONFIG_VARIABLE] = str(folder / "auth.yaml")
        environ.setdefault(SECRETS_VARIABLE, str(folder / "secrets" / "auth"))
    elif CONFIG_VARIABLE not in environ and "KEYSTILE_ISSUER" not in environ:
        raise CommandError(
            f"No settings: name the server's YAML file in {CONFIG_VARIABLE} (and its secrets folder in "
            f"{SECRETS_VARIABLE}), or run this where `keystile dev` keeps its {DATA_FOLDER} folder."
        )
    return load(AuthSettings, environ)


@contextlib.asynccontextmanager
async def open_session(environ: Mapping[str, str] | None = None) -> AsyncIterator[Session]:
    """Connect with the server's own settings, or those that `environ` names.

    Events go to the server's audit file where it has one, else to standard error.
    """
    settings = load_settings() if environ is None else load(AuthSettings, environ)
    metrics = create_metrics()
    audit = AuditLog([_sink(settings.audit.file)], metrics.audit)
    store = connect(settings.store, metrics.store, NoOpTracer())
    try:
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
