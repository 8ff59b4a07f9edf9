"""A whole Keystile in the test's process: an authorization server and an MCP server, over real HTTP."""

import io
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry

from keystile_common import traces
from keystile_common.audit import AuditLog, StreamSink
from keystile_common.metrics import McpMetrics
from keystile_common.server import bind
from keystile_common.settings import Listen, TraceSettings
from keystile_mcp.app import create_app
from keystile_mcp.settings import McpSettings
from keystile_mcp.streams import OpenStreams
from tests.auth_server import RESOURCE_SECRET, SCOPES, AuthServer, running_auth_server, serving


@dataclass
class Pair:
    """Both servers.

    Attributes:
        auth: the authorization server.
        resource: the URL of the MCP endpoint.
        audit_lines: what the MCP server recorded.
    """

    auth: AuthServer
    resource: str
    audit_lines: io.StringIO

    @property
    def origin(self) -> str:
        """Where the MCP server is."""
        return self.resource.removesuffix(urlsplit(self.resource).path)

    def access_token(self, scope: str | None = None) -> str:
        """An access token that a new person let a new client have, by the whole of OAuth; for all scopes or `scope`."""
        client = self.auth.register()
        return str(self.auth.tokens(client.id, resource=self.resource, scope=scope)["access_token"])

    def calls(self) -> list[tuple[str, str]]:
        """The tool calls on record: tool and outcome."""
        events = [json.loads(line) for line in self.audit_lines.getvalue().splitlines()]
        return [(each["target"]["tool"], each["outcome"]) for each in events if each["type"] == "tool.called"]


@contextmanager
def running_pair(store_url: str, *, auth: dict[str, Any] | None = None, **settings: Any) -> Iterator[Pair]:
    """Run both while the block runs; `auth` goes over the settings of one, all else over those of the other."""
    listener = bind(Listen(host="127.0.0.1", port=0), "-")
    resource = f"http://127.0.0.1:{listener.getsockname()[1]}/mcp"
    scopes = settings.get("scopes", SCOPES)
    resources = {"mcp": {"uri": resource, "title": "Team tools", "scopes": scopes, "secret": RESOURCE_SECRET}}
    with running_auth_server(store_url, **{"resources": resources, **(auth or {})}) as server:
        chosen = McpSettings.model_validate(
            {
                "resource": resource,
                "authorization_server": server.issuer,
                "scopes": scopes,
                **settings,
                "introspection": {"client_id": "mcp", "client_secret": RESOURCE_SECRET, "cache_seconds": 1},
            }
        )
        metrics, lines = McpMetrics(CollectorRegistry(), "test"), io.StringIO()
        app = create_app(
            chosen,
            metrics,
            AuditLog([StreamSink("stdout", lines)], metrics.audit),
            traces.configure(TraceSettings(), "keystile-mcp", "test"),
            streams=OpenStreams(),
            clock=time.time,
        )
        with serving(app, listener):
            yield Pair(server, resource, lines)
