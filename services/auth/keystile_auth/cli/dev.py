"""`keystile dev`: the separate topology on this machine, each service a process."""

import asyncio
import contextlib
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

import typer

from keystile_auth.cli.banner import banner
from keystile_auth.cli.demo import DEMO_USER, HOST, ensure_demo_user, ensure_master_key
from keystile_auth.cli.folder import owned, secret, terminated_as_interrupted, write_settings
from keystile_auth.cli.session import DATA_FOLDER, CommandError
from keystile_auth.settings import AuthSettings
from keystile_auth.store import embedded
from keystile_common import server
from keystile_common.settings import CONFIG_VARIABLE, DEVELOPMENT_VARIABLES, PREFIX, SECRETS_VARIABLE, Listen, load

RESOURCE_NAME = "mcp"
SCOPES = {
    "mcp:basic": "Use the basic tools: echo, add, who am I",
    "mcp:jobs": "Start long-running jobs",
}
_CACHE_SECONDS = 5
_READY_SECONDS = 30
_STOP_SECONDS = 15
# What both services know; every other variable goes to the one that knows it.
_SHARED = {"log", "traces", "drain_seconds", "trusted_proxies"}


@dataclass(frozen=True, slots=True)
class Ports:
    """The four ports, by what listens on them."""

    auth: int
    mcp: int
    auth_metrics: int
    mcp_metrics: int

    @property
    def issuer(self) -> str:
        """The authorization server's URL."""
        return f"http://{HOST}:{self.auth}"

    @property
    def resource(self) -> str:
        """The MCP server's URL."""
        return f"http://{HOST}:{self.mcp}/mcp"


def dev(
    auth_port: Annotated[int, typer.Option(help="Port of the authorization server.")] = 3001,
    mcp_port: Annotated[int, typer.Option(help="Port of the MCP server.")] = 3232,
    auth_metrics_port: Annotated[int, typer.Option(help="Port of the authorization server's metrics.")] = 9464,
    mcp_metrics_port: Annotated[int, typer.Option(help="Port of the MCP server's metrics.")] = 9465,
) -> None:
    """Run a store, the authorization server and the reference MCP server, with a user to sign in as.

    Everything it keeps is in ./.keystile, or in KEYSTILE_DATA_DIR. KEYSTILE_DEMO_PASSWORD chooses the demo user's
    password.
    """
    ports = Ports(auth_port, mcp_port, auth_metrics_port, mcp_metrics_port)
    folder = Path(os.environ.get("KEYSTILE_DATA_DIR", DATA_FOLDER)).absolute()
    with terminated_as_interrupted(), owned(folder):
        (folder / "logs").mkdir(mode=0o700, exist_ok=True)
        _check_ports(ports)
        with contextlib.suppress(KeyboardInterrupt):
            _run(folder, ports)
        typer.echo("Stopped.")


def _run(folder: Path, ports: Ports) -> None:
    with embedded.run(folder / "valkey") as store_url:
        _write_secrets(folder)
        _write_config(folder, ports, store_url)
        typer.echo("Starting …", err=True)
        with _services(folder, ports) as services:
            settings = load(AuthSettings, _environment("auth", folder, os.environ))
            password = asyncio.run(ensure_demo_user(settings, folder))
            for name, process, url in services:
                _wait_until_ready(name, process, url, folder)
            ends = f"within {_CACHE_SECONDS} seconds"
            typer.echo(banner(ports.issuer, ports.resource, DEMO_USER, password, folder, ends))
            _watch(services, folder)


def _check_ports(ports: Ports) -> None:
    options = {
        "--auth-port": ports.auth,
        "--mcp-port": ports.mcp,
        "--auth-metrics-port": ports.auth_metrics,
        "--mcp-metrics-port": ports.mcp_metrics,
    }
    for option, port in options.items():
        server.bind(Listen(host=HOST, port=port), f"{option} (make run ARGS='{option} {port + 1000}')").close()


def _write_secrets(folder: Path) -> None:
    """Make what is missing; each secret is a file of its own, as a mounted Kubernetes Secret has them."""
    ensure_master_key(folder)
    shared = secret(folder / "secrets" / "auth" / f"resources__{RESOURCE_NAME}__secret", secrets.token_hex(32))
    secret(folder / "secrets" / "mcp" / "introspection__client_secret", shared)


def _write_config(folder: Path, ports: Ports, store_url: str) -> None:
    auth = {
        "issuer": ports.issuer,
        "listen": {"host": HOST, "port": ports.auth},
        "metrics": {"host": HOST, "port": ports.auth_metrics},
        "store": {"url": store_url},
        "audit": {"stdout": False, "file": str(folder / "audit-auth.log")},
        "resources": {RESOURCE_NAME: {"uri": ports.resource, "title": "Keystile reference server", "scopes": SCOPES}},
    }
    mcp = {
        "resource": ports.resource,
        "authorization_server": ports.issuer,
        "listen": {"host": HOST, "port": ports.mcp},
        "metrics": {"host": HOST, "port": ports.mcp_metrics},
        # Nothing tells the MCP server of a revocation yet: on a desk it should be seen soon.
        "introspection": {"client_id": RESOURCE_NAME, "cache_seconds": _CACHE_SECONDS},
        "audit": {"stdout": False, "file": str(folder / "audit-mcp.log")},
        "scopes": SCOPES,
    }
    write_settings(folder, auth=auth, mcp=mcp)


Service = tuple[str, "subprocess.Popen[bytes]", str]


@contextlib.contextmanager
def _services(folder: Path, ports: Ports) -> Iterator[list[Service]]:
    auth = [sys.executable, "-m", "keystile_auth", "serve"]
    mcp = [sys.executable, "-m", "keystile_mcp"]
    started: list[Service] = []
    try:
        for name, command, url in (
            ("auth", auth, ports.issuer),
            ("mcp", mcp, ports.resource.removesuffix("/mcp")),
        ):
            with (folder / "logs" / f"{name}.log").open("ab") as log:
                process = subprocess.Popen(  # noqa: S603 (our own interpreter and modules)
                    command,
                    env=_environment(name, folder, os.environ),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    # Ctrl-C reaches the whole group; they are to stop in our order.
                    start_new_session=True,
                )
            started.append((name, process, url))
        yield started
    finally:
        for _, process, _ in reversed(started):
            process.terminate()
        for _, process, _ in started:
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _environment(service: str, folder: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What a service inherits: of the KEYSTILE_ variables, those that are its own."""
    kept = {}
    for name, value in environ.items():
        setting = name.removeprefix(PREFIX).split("__")[0].lower()
        is_auth = setting in AuthSettings.model_fields
        if not name.startswith(PREFIX) or setting in _SHARED or is_auth == (service == "auth"):
            kept[name] = value
    for name in DEVELOPMENT_VARIABLES:
        kept.pop(name, None)
    kept[CONFIG_VARIABLE] = str(folder / f"{service}.yaml")
    kept[SECRETS_VARIABLE] = str(folder / "secrets" / service)
    return kept


def _wait_until_ready(name: str, process: "subprocess.Popen[bytes]", url: str, folder: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urlopen(f"{url}/readyz", timeout=2):  # noqa: S310 (a loopback URL of ours)
                return
        except (HTTPError, URLError, OSError):
            time.sleep(0.05)
    raise CommandError(f"The {name} service did not start. {_last_words(folder, name)}")


def _watch(services: list[Service], folder: Path) -> None:
    while True:
        for name, process, _ in services:
            if process.poll() is not None:
                raise CommandError(f"The {name} service stopped by itself. {_last_words(folder, name)}")
        time.sleep(0.3)


def _last_words(folder: Path, name: str) -> str:
    path = folder / "logs" / f"{name}.log"
    lines = path.read_text(errors="replace").strip().splitlines()[-5:]
    return f"The end of {path}:\n" + "\n".join(_plain(line) for line in lines)


def _plain(line: str) -> str:
    try:
        event = json.loads(line)
        return str(event["event"]) if isinstance(event, dict) and "event" in event else line
    except ValueError:
        return line
