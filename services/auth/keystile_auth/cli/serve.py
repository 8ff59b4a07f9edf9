"""`keystile serve`: the authorization server in the foreground."""

import os

from keystile_auth import __version__
from keystile_auth.app import create_app, create_metrics
from keystile_auth.cli.session import CommandError, is_embedded, load_settings
from keystile_auth.store.revocation_feed import RevocationFeed
from keystile_auth.store.revocations import RevocationStore
from keystile_common import audit, certificates, logs, server, traces
from keystile_common.store import connect


def serve() -> None:
    """Run the authorization server until SIGTERM or Ctrl-C, set up by KEYSTILE_CONFIG and the environment."""
    if is_embedded(os.environ):
        raise CommandError("The embedded topology is one process: `keystile-mcp --embedded` serves both.")
    settings = load_settings()
    logs.configure(settings.log)
    metrics = create_metrics()
    tracing = traces.configure(settings.traces, "keystile-auth", __version__)
    log = audit.configure(settings.audit, metrics.audit)
    tls = settings.listen.tls
    certificate = certificates.load(tls, metrics.certificate_not_after, tls.client_ca_file)
    listener = server.bind(settings.listen, "KEYSTILE_LISTEN__PORT")
    store = connect(settings.store, metrics.store, tracing.tracer, settings.store.durability)
    feed = RevocationFeed(RevocationStore(store))
    app = create_app(settings, store, metrics, tracing.tracer, log, feed=feed)
    with server.serve_metrics(metrics.registry, settings.metrics, "KEYSTILE_METRICS__PORT"):
        server.run(
            app,
            listener,
            trusted_proxies=settings.trusted_proxies,
            drain_seconds=settings.drain_seconds,
            on_stop=feed.stop,
            certificate=certificate,
        )
    log.close()
    tracing.close()
