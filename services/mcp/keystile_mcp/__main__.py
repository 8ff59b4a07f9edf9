"""The command `keystile-mcp`: serve the MCP resource server until told to stop."""

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points

from prometheus_client import CollectorRegistry

from keystile_common import audit, certificates, logs, server, settings, traces
from keystile_common.metrics import McpMetrics
from keystile_common.server import ListenError
from keystile_common.settings import SettingsError
from keystile_mcp import __version__, transport
from keystile_mcp.app import create_app
from keystile_mcp.backend import BackendError
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams

EXIT_UNUSABLE = 2


def main() -> None:
    """Serve; exit with code 2 and a sentence on standard error if that cannot begin."""
    parser = argparse.ArgumentParser(
        prog="keystile-mcp",
        description="Serve Keystile's MCP resource server. Settings come from the YAML file that "
        "KEYSTILE_CONFIG names, and from KEYSTILE_… environment variables.",
    )
    parser.add_argument("--version", action="version", version=f"keystile-mcp {__version__}")
    parser.add_argument(
        "--app",
        metavar="MODULE:NAME",
        help="serve your own MCP server instead of the reference server: the SDK's MCPServer or Server, or an ASGI "
        "application that serves MCP at the path of `resource` (KEYSTILE_APP)",
    )
    parser.add_argument(
        "--upstream",
        metavar="URL",
        help="serve an MCP server that runs elsewhere, in any language, by its Streamable HTTP endpoint; it never gets "
        "the client's token (KEYSTILE_UPSTREAM__URL)",
    )
    parser.add_argument(
        "--embedded",
        action="store_true",
        help="serve the authorization server in this process too, and a store of its own unless store.url is set; "
        "without settings, for this machine alone and with a user to sign in as",
    )
    chosen = parser.parse_args()
    given = {"KEYSTILE_APP": chosen.app, "KEYSTILE_UPSTREAM__URL": chosen.upstream}
    environ = {**os.environ, **{name: value for name, value in given.items() if value is not None}}
    try:
        if chosen.embedded or settings.is_embedded(environ):
            _embedded()(environ)
        else:
            serve(settings.load(McpSettings, environ))
    except SettingsError as problem:
        _say(f"These settings cannot be used:\n{problem}")
        raise SystemExit(EXIT_UNUSABLE) from None
    except (ListenError, BackendError) as problem:
        _say(str(problem))
        raise SystemExit(EXIT_UNUSABLE) from None


def _embedded() -> Callable[[Mapping[str, str]], None]:
    # By its name only: that package knows the authorization server, and nothing here may know that one.
    for each in entry_points(group="keystile_mcp.topologies", name="embedded"):
        found: Callable[[Mapping[str, str]], None] = each.load()
        return found
    _say(
        "The embedded topology is not in this installation: run the image keystile-embedded, "
        "or install the package keystile-embedded beside this one."
    )
    raise SystemExit(EXIT_UNUSABLE)


def _say(sentence: str) -> None:
    print(sentence, file=sys.stderr)  # noqa: T201 (before there is a log)


def serve(chosen: McpSettings) -> None:
    """Serve until SIGTERM or SIGINT.

    Raises:
        ListenError: an address cannot be listened on.
        BackendError: what shall serve MCP cannot be had.
        SettingsError: a file that the settings name cannot be used.
    """
    logs.configure(chosen.log)
    transport.prepare(chosen.log)
    registry = CollectorRegistry()
    metrics = McpMetrics(registry, __version__)
    certificate = certificates.load(chosen.listen.tls, metrics.certificate_not_after)
    with (
        server.bind(chosen.listen, "KEYSTILE_LISTEN__PORT") as listener,
        server.serve_metrics(registry, chosen.metrics, "KEYSTILE_METRICS__PORT"),
    ):
        audit_log = audit.configure(chosen.audit, metrics.audit)
        tracing = traces.configure(chosen.traces, "keystile-mcp", __version__)
        try:
            streams = OpenStreams()
            app = create_app(chosen, metrics, audit_log, tracing, streams=streams)
            server.run(
                app,
                listener,
                trusted_proxies=chosen.trusted_proxies,
                drain_seconds=chosen.drain_seconds,
                on_stop=streams.end_listening,
                certificate=certificate,
            )
        finally:
            tracing.close()
            audit_log.close()


if __name__ == "__main__":
    main()
