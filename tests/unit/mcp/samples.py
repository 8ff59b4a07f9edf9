"""What several unit tests of the resource server need."""

from dataclasses import dataclass
from typing import Any

from keystile_mcp.introspection_answer import ActiveToken
from keystile_mcp.settings import McpSettings

NOW = 1_800_000_000.0
ISSUER = "https://auth.example.com"
RESOURCE = "https://tools.example.com/mcp"


@dataclass
class FrozenClock:
    """Unix time that goes on only when told to."""

    now: float = NOW

    def __call__(self) -> float:
        return self.now


def make_settings(**values: Any) -> McpSettings:
    introspection = {"client_id": "rs", "client_secret": "secret"} | values.pop("introspection", {})
    required = {"resource": RESOURCE, "authorization_server": ISSUER, "introspection": introspection}
    return McpSettings.model_validate(required | values)


def active_token(**values: Any) -> ActiveToken:
    usual: dict[str, Any] = {
        "issuer": ISSUER,
        "resource": RESOURCE,
        "client_id": "client-1",
        "subject": "alice",
        "scopes": ("mcp:basic",),
        "not_before": None,
        "expires_at": NOW + 600,
    }
    return ActiveToken(**(usual | values))
