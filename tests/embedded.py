"""`keystile-mcp --embedded` with settings of its own, as an operator starts it: a process, a folder, two ports."""

import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import yaml

from keystile_auth.app import create_metrics
from keystile_common.settings import load
from keystile_embedded.settings import EmbeddedSettings
from tests.auth_server import MASTER_KEY, AuthServer
from tests.made_run import free_ports

COMMAND = [sys.executable, "-m", "keystile_mcp", "--embedded"]
_READY_SECONDS = 30


@dataclass
class Embedded:
    """A running process; `server` is its authorization server, as a client and an operator see it."""

    process: "subprocess.Popen[str]"
    folder: Path
    environment: dict[str, str]
    settings: EmbeddedSettings
    server: AuthServer

    @property
    def resource(self) -> str:
        return self.settings.own_resource

    @property
    def metrics_url(self) -> str:
        return f"http://127.0.0.1:{self.settings.metrics.port}/metrics"

    @property
    def audit_file(self) -> Path:
        return self.folder / "stdout"

    def events(self, kind: str) -> list[dict[str, Any]]:
        events = map(json.loads, self.audit_file.read_text().splitlines())
        return [event for event in events if event["type"] == kind]

    def log(self) -> str:
        return (self.folder / "stderr").read_text()

    def operate(self, *arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
        """Run `keystile` as somebody does who has a shell where the process runs."""
        command = [sys.executable, "-m", "keystile_auth", *arguments]
        environment = {**self.environment, "KEYSTILE_TOPOLOGY": "embedded"}
        return subprocess.run(
            command, env=environment, cwd=self.folder, input=typed, capture_output=True, text=True, check=False
        )

    def access_token(self, **parameters: Any) -> str:
        """An access token that somebody allowed a client."""
        values = {"resource": self.resource, **parameters}
        return str(self.server.tokens(self.server.register().id, **values)["access_token"])


def environment_of(folder: Path, **settings: Any) -> dict[str, str]:
    """The variables of a process whose settings file holds `settings`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "keystile.yaml").write_text(yaml.safe_dump(settings))
    (folder / "secrets").mkdir(exist_ok=True)
    (folder / "secrets" / "master_key").write_text(MASTER_KEY)
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")}
    return kept | {
        "KEYSTILE_CONFIG": str(folder / "keystile.yaml"),
        "KEYSTILE_SECRETS_DIR": str(folder / "secrets"),
        "KEYSTILE_DATA_DIR": str(folder / "data"),
    }


@contextmanager
def running_embedded(
    folder: Path, *, path: str = "", port: int | None = None, command: list[str] | None = None, **settings: Any
) -> Iterator[Embedded]:
    """Run it while the block runs; its issuer has `path`."""
    port, metrics_port = port or free_ports(1)[0], free_ports(1)[0]
    values = {
        "issuer": f"http://127.0.0.1:{port}{path}",
        "listen": {"port": port},
        "metrics": {"port": metrics_port},
        **settings,
    }
    environment = environment_of(folder, **values)
    with (folder / "stdout").open("w") as out, (folder / "stderr").open("w") as problems:
        process = subprocess.Popen(
            command or COMMAND, env=environment, cwd=folder, stdout=out, stderr=problems, text=True
        )
    loaded = load(EmbeddedSettings, environment)
    try:
        _wait_until_ready(process, f"http://127.0.0.1:{port}/readyz", folder)
        if loaded.has_own_store:
            loaded = loaded.with_store_at(f"unix://{(loaded.store_folder / 'socket').read_text()}?db=0")
        with httpx2.Client(timeout=10) as http:
            server = AuthServer(loaded.issuer, loaded, create_metrics(), io.StringIO(), http)
            yield Embedded(process, folder, environment, loaded, server)
            for person in server.people:
                person.browser.close()
    finally:
        process.terminate()
        # Longer than it takes until it is ended by force, which its log and so ours tells.
        process.wait(45)
        log = (folder / "stderr").read_text()
        if "still not stopped" in log:
            print(f"NOT STOPPED IN TIME, in {folder}:\n{log}", file=sys.__stderr__, flush=True)


def _wait_until_ready(process: "subprocess.Popen[str]", url: str, folder: Path) -> None:
    deadline = time.monotonic() + _READY_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "stderr").read_text()
        try:
            if httpx2.get(url, timeout=2).status_code == 200:
                return
        except httpx2.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError((folder / "stderr").read_text())
