"""`keystile-mcp --embedded`: everything in one process, until told to stop."""

import os
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TextIO

from keystile_auth.cli import problems_as_sentences
from keystile_auth.cli.folder import owned, terminated_as_interrupted
from keystile_auth.cli.session import CommandError
from keystile_common import audit, certificates, logs, server, traces
from keystile_common.settings import load
from keystile_common.store import connect
from keystile_embedded import __version__, development
from keystile_embedded.app import EmbeddedMetrics, create_app
from keystile_embedded.own_store import with_store
from keystile_embedded.settings import EmbeddedSettings, is_set_up
from keystile_mcp import transport
from keystile_mcp.backend import BackendError
from keystile_mcp.streams import OpenStreams


def main(environ: Mapping[str, str]) -> None:
    """Serve as `environ` says, or for this machine alone where it says nothing.

    What a person can mend ends in a sentence and exit code 2.
    """
    with problems_as_sentences(), terminated_as_interrupted():
        try:
            if is_set_up(environ):
                with suppress(KeyboardInterrupt):
                    serve(load(EmbeddedSettings, environ))
            else:
                serve_here(environ)
        except BackendError as problem:
            raise CommandError(str(problem)) from None


def serve_here(environ: Mapping[str, str]) -> None:
    """Serve this machine alone, and tell a newcomer how to use it."""
    folder = development.folder_of(environ)
    with owned(folder), suppress(KeyboardInterrupt):
        settings = development.prepare(folder, environ)
        with os.fdopen(development.open_log(folder), "a") as log:
            serve(settings, log=log, welcome=lambda running: development.welcome(running, folder))
    print("Stopped.", flush=True)  # noqa: T201 (to whoever started it)


def serve(
    settings: EmbeddedSettings,
    *,
    log: TextIO | None = None,
    welcome: Callable[[EmbeddedSettings], str] | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT: requests are finished first, then the store stops.

    Args:
        settings: as loaded.
        log: where the log goes; standard error by default.
        welcome: asked, once the store runs, for what is printed when everything does. The data folder is the
            caller's already where it is given.

    Raises:
        BackendError: what shall serve MCP cannot be had; it is known once the store runs.
        CommandError: the data folder cannot be had.
        EmbeddedStoreError: the store does not start, or stopped by itself.
        ListenError: an address cannot be listened on.
        SettingsError: the audit file cannot be written.
    """
    logs.configure(settings.log, log)
    transport.prepare(settings.log)
    metrics = EmbeddedMetrics()
    tls = settings.listen.tls
    certificate = certificates.load(tls, metrics.auth.certificate_not_after, tls.client_ca_file)
    with (
        server.bind(settings.listen, "KEYSTILE_LISTEN__PORT") as listener,
        server.serve_metrics(metrics.registry, settings.metrics, "KEYSTILE_METRICS__PORT"),
        with_store(settings, is_owned=welcome is not None) as running,
    ):
        greeting = welcome(running) if welcome else ""
        audit_log = audit.configure(running.audit, metrics.audit)
        tracing = traces.configure(running.traces, "keystile-embedded", __version__)
        streams = OpenStreams()
        app = create_app(
            running,
            connect(running.store, metrics.auth.store, tracing.tracer, running.store.durability),
            metrics,
            tracing,
            audit_log,
            streams=streams,
            on_ready=lambda: print(greeting, end="", file=sys.stdout, flush=True),  # noqa: T201 (nothing, or the banner)
        )
        try:
            server.run(
                app,
                listener,
                trusted_proxies=running.trusted_proxies,
                drain_seconds=running.drain_seconds,
                on_stop=streams.end_listening,
                certificate=certificate,
            )
        finally:
            tracing.close()
            audit_log.close()
