"""The chart's own Valkey over TLS: its scripts as rendered, in the image that the chart names."""

import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest

from tests.chart.release import program, render, variant
from tests.integration.mcp.test_command import free_port
from tests.integration.test_tls import COMMANDS, Site, Traffic, running
from tests.tls import Authority, MountedSecret, shown_serial

pytestmark = pytest.mark.docker

PASSWORD = "p" * 40


class Valkey:
    """The pod's container."""

    def __init__(self, name: str, port: int) -> None:
        self._name = name
        self.port = port

    def docker(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [program("docker"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    def probe(self, kind: str) -> bool:
        """What the kubelet would do."""
        return self.docker("exec", self._name, "sh", "/etc/valkey/ping.sh", kind).returncode == 0

    def log(self) -> str:
        answer = self.docker("logs", self._name)
        return answer.stdout + answer.stderr

    def config(self) -> str:
        """What the server says of its ports, over plain TCP if it could."""
        return self.docker("exec", self._name, "valkey-cli", "-h", "127.0.0.1", "ping").stdout


@contextmanager
def valkey(folder: Path, secret: MountedSecret) -> Iterator[Valkey]:
    release = render(*variant("tls-values.yaml"))
    settings = folder / "settings"
    settings.mkdir()
    for name, content in release.get("ConfigMap", "keystile-valkey")["data"].items():
        (settings / name).write_text(content)
    (folder / "password").mkdir()
    (folder / "password" / "password").write_text(PASSWORD)
    (container,) = release.get("StatefulSet", "keystile-valkey")["spec"]["template"]["spec"]["containers"]
    running = Valkey(f"keystile-tls-{free_port()}", free_port())
    answer = running.docker(
        "run", "--detach", "--name", running._name, "--publish", f"127.0.0.1:{running.port}:6379",
        "--user", "10001:10001", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/data:uid=10001,gid=10001",
        "--volume", f"{settings}:/etc/valkey:ro", "--volume", f"{folder / 'password'}:/var/run/secrets/valkey:ro",
        "--volume", f"{secret.folder}:/var/run/secrets/valkey-tls:ro",
        "--entrypoint", container["command"][0], container["image"], *container["command"][1:],
    )  # fmt: skip
    try:
        assert answer.returncode == 0, answer.stderr
        deadline = time.monotonic() + 30
        while not running.probe("ready"):
            assert time.monotonic() < deadline, running.log()
            time.sleep(0.2)
        yield running
    finally:
        running.docker("rm", "--force", running._name)


def test_a_tool_call_is_over_tls_on_each_way_and_valkey_takes_up_a_renewed_certificate(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    authority, secret = Authority(), MountedSecret(tmp_path / "valkey-tls")
    first = authority.renew(secret, "localhost")
    ca_file = tmp_path / "ca.pem"
    ca_file.write_bytes(authority.pem)
    with valkey(tmp_path, secret) as store:
        assert "PONG" not in store.config()
        assert store.probe("live")
        url = {"url": f"rediss://localhost:{store.port}/0", "password": PASSWORD, "ca_file": str(ca_file)}
        folder = tmp_path / "site"
        folder.mkdir()
        with running(Site(folder, authority, url)) as site, Traffic(site) as traffic:
            assert shown_serial(store.port, authority) == first
            renewed = authority.renew(secret, "localhost")
            assert store.probe("ready")
            assert shown_serial(store.port, authority) == renewed
            certificate, _ = authority.pair("localhost")
            _, key = authority.pair("localhost")
            secret.write(tls_crt=certificate, tls_key=key)
            for _ in range(2):
                assert store.probe("ready")
            assert shown_serial(store.port, authority) == renewed
            time.sleep(1)
        assert traffic.failed == []
        assert traffic.served > 10
        said = [line for line in store.log().splitlines() if line.startswith("renewed certificate: ")]
        assert said[0] == "renewed certificate: OK"
        assert len(said) == 2
        assert said[1].startswith("renewed certificate: ERR")
        assert PASSWORD not in store.log()
        assert {json.loads(line)["level"] for name in COMMANDS for line in site.log(name).splitlines()} <= {"info"}


def test_an_expired_certificate_does_not_hold_its_successor_up(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    authority, secret = Authority(), MountedSecret(tmp_path / "valkey-tls")
    authority.renew(secret, "localhost", ends_in=timedelta(seconds=-5))
    with valkey(tmp_path, secret) as store:
        serial = authority.renew(secret, "localhost")
        assert store.probe("ready")
        assert shown_serial(store.port, authority) == serial
