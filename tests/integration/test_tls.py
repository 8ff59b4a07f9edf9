"""Both services behind TLS of their own, as processes: clients, introspection, and certificates that are renewed."""

import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from keystile_common.certificates import REREAD_SECONDS
from tests.auth_server import MASTER_KEY, RESOURCE_SECRET, SCOPES
from tests.integration.mcp.resource_server import modern_headers, tool_call
from tests.integration.mcp.test_command import free_port
from tests.tls import Authority, MountedSecret, shown_serial

SECRET = "machine-secret-" + "m" * 32
COMMANDS = {"auth": ["keystile_auth", "serve"], "mcp": ["keystile_mcp"]}


@dataclass
class Site:
    """An authorization server and an MCP server on loopback, each with a certificate in a folder of its own."""

    folder: Path
    authority: Authority
    store: dict[str, Any]
    auth_port: int = field(default_factory=free_port)
    mcp_port: int = field(default_factory=free_port)
    metrics_ports: dict[str, int] = field(default_factory=lambda: {"auth": free_port(), "mcp": free_port()})
    processes: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)

    @property
    def issuer(self) -> str:
        return f"https://localhost:{self.auth_port}"

    @property
    def resource(self) -> str:
        return f"https://localhost:{self.mcp_port}/mcp"

    def secret(self, name: str) -> MountedSecret:
        return MountedSecret(self.folder / f"{name}-tls")

    def renew(self, name: str) -> int:
        """A new certificate for a service; its serial number."""
        return self.authority.renew(self.secret(name), "localhost", "127.0.0.1", ends_in=timedelta(days=2))

    def settings(self, name: str, **more: Any) -> dict[str, Any]:
        secret = self.secret(name)
        tls = {"certificate_file": str(secret.certificate_file), "key_file": str(secret.key_file)}
        shared = {
            "listen": {"port": self.auth_port if name == "auth" else self.mcp_port, "tls": tls},
            "metrics": {"port": self.metrics_ports[name]},
        }
        resource = {"uri": self.resource, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}
        machine = {"title": "Job", "resources": [self.resource], "scopes": list(SCOPES), "secret": SECRET}
        own: dict[str, dict[str, Any]] = {
            "auth": {
                "issuer": self.issuer,
                "master_key": MASTER_KEY,
                "store": self.store,
                "resources": {"mcp": resource},
                "clients": {"job": machine},
                # Other tests have come from the same address to the same store.
                "registration": {"per_hour_and_address": 100_000},
            },
            "mcp": {
                "resource": self.resource,
                "authorization_server": self.issuer,
                "scopes": SCOPES,
                "introspection": {
                    "url": f"https://127.0.0.1:{self.auth_port}/introspect",
                    "client_id": "mcp",
                    "client_secret": RESOURCE_SECRET,
                    "ca_file": str(secret.folder / "ca.crt"),
                    "cache_seconds": 0,
                    "negative_cache_seconds": 0,
                },
            },
        }
        return {**shared, **own[name], **more}

    def command(self, name: str, **more: Any) -> tuple[list[str], dict[str, str]]:
        path = self.folder / f"{name}.yaml"
        path.write_text(yaml.safe_dump(self.settings(name, **more)))
        return [sys.executable, "-m", *COMMANDS[name]], {"KEYSTILE_CONFIG": str(path), "PATH": ""}

    def start(self, name: str) -> None:
        command, environment = self.command(name)
        with (self.folder / f"{name}.log").open("wb") as log, (self.folder / f"{name}.audit").open("wb") as audit:
            self.processes[name] = subprocess.Popen(command, env=environment, stdout=audit, stderr=log)
        origin = self.issuer if name == "auth" else self.resource.removesuffix("/mcp")
        deadline = time.monotonic() + 30
        while True:
            try:
                if self.get(f"{origin}/healthz").status_code == 200:
                    return
            except httpx2.TransportError:
                pass
            assert self.processes[name].poll() is None, self.log(name)
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self, name: str) -> None:
        process = self.processes.pop(name)
        process.terminate()
        try:
            assert process.wait(timeout=20) == 0, self.log(name)
        finally:
            process.kill()

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def client(self) -> httpx2.Client:
        return httpx2.Client(verify=self.authority.trusting, timeout=10)

    def get(self, url: str) -> httpx2.Response:
        with self.client() as http:
            return http.get(url)

    def token(self) -> str:
        with self.client() as http:
            form = {"grant_type": "client_credentials", "resource": self.resource, "scope": "mcp:basic"}
            answer = http.post(f"{self.issuer}/token", data=form, auth=("job", SECRET))
            assert answer.status_code == 200, answer.text
            return str(answer.json()["access_token"])

    def call(self, http: httpx2.Client, token: str) -> httpx2.Response:
        return http.post(self.resource, headers=modern_headers("echo", token), json=tool_call("echo", {"text": "hi"}))

    def metric(self, name: str, metric: str) -> float:
        text = httpx2.get(f"http://127.0.0.1:{self.metrics_ports[name]}/metrics").text
        (value,) = re.findall(rf"^{re.escape(metric)} (\S+)$", text, re.MULTILINE)
        return float(value)


@contextmanager
def running(site: Site) -> Iterator[Site]:
    for name in COMMANDS:
        site.renew(name)
    try:
        for name in COMMANDS:
            site.start(name)
        yield site
    finally:
        with ExitStack() as stack:
            for name in list(site.processes):
                stack.callback(site.stop, name)


@pytest.fixture(scope="module")
def site(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(Site(tmp_path_factory.mktemp("site"), Authority(), {"url": store_url})) as site:
        yield site


def test_a_tool_is_called_over_tls_from_the_client_to_the_authorization_server(site: Site) -> None:
    with site.client() as http:
        answer = site.call(http, site.token())
    assert (answer.status_code, "hi" in answer.text) == (200, True)
    assert site.get(f"{site.resource.removesuffix('/mcp')}/readyz").json()["status"] == "ok"


def test_the_end_of_each_certificate_is_a_metric(site: Site) -> None:
    for name in COMMANDS:
        told = site.metric(name, 'keystile_certificate_not_after_timestamp_seconds{setting="listen.tls"}')
        assert told - time.time() == pytest.approx(2 * 86400, abs=300)


def test_a_client_that_trusts_another_authority_is_not_served(site: Site) -> None:
    with (
        httpx2.Client(verify=Authority().trusting) as http,
        pytest.raises(httpx2.ConnectError, match="certificate verify failed"),
    ):
        http.get(site.issuer)


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_not_tls_gets_no_answer_and_leaves_no_trace(site: Site, name: str) -> None:
    port = site.auth_port if name == "auth" else site.mcp_port
    before = site.log(name)
    for sent in (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\x40\x00\x01" + b"\0" * 500, b"\0"):
        with closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            heard = b""
            try:
                while part := connection.recv(1000):
                    heard += part
            except ConnectionError:
                pass
            assert b"HTTP" not in heard
    assert site.get(f"https://localhost:{port}/healthz").status_code == 200
    assert site.log(name) == before


@pytest.mark.parametrize("name", COMMANDS)
def test_tls_1_1_is_refused(site: Site, name: str) -> None:
    port = site.auth_port if name == "auth" else site.mcp_port
    context = site.authority.trusting
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with (
        closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as plain,
        # By the server: a client that could not speak it would say NO_PROTOCOLS_AVAILABLE.
        pytest.raises(OSError, match=r"PROTOCOL_VERSION|EOF occurred|reset by peer"),
    ):
        context.wrap_socket(plain, server_hostname="localhost")


class Traffic:
    """Tool calls without a pause, by one client that keeps its connection and one that makes a new one each time."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._token = site.token()
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(keeps,)) for keeps in (True, False)]
        self.served = 0
        self.failed: list[str] = []

    def __enter__(self) -> "Traffic":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=15)

    def _run(self, keeps: bool) -> None:
        while not self._stop.is_set():
            with self._site.client() as http:
                self._call(http)
                while keeps and not self._stop.is_set():
                    self._call(http)

    def _call(self, http: httpx2.Client) -> None:
        try:
            answer = self._site.call(http, self._token)
        except httpx2.HTTPError as problem:
            self.failed.append(repr(problem))
            return
        if answer.status_code == 200:
            self.served += 1
        else:
            self.failed.append(answer.text)


def test_certificates_are_renewed_under_traffic_without_a_failed_request(site: Site) -> None:
    ports = {"auth": site.auth_port, "mcp": site.mcp_port}
    with Traffic(site) as traffic:
        renewed = {name: site.renew(name) for name in COMMANDS}
        deadline = time.monotonic() + REREAD_SECONDS + 5
        while {name: shown_serial(port, site.authority) for name, port in ports.items()} != renewed:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        time.sleep(1)
    assert traffic.failed == []
    assert traffic.served > 20
    assert all("the certificate was renewed" in site.log(name) for name in COMMANDS)


def test_a_broken_renewal_leaves_the_old_certificate_and_one_line_in_the_log(site: Site) -> None:
    before = shown_serial(site.auth_port, site.authority)
    certificate, _ = site.authority.pair("localhost")
    _, key = site.authority.pair("localhost")
    site.secret("auth").write(tls_crt=certificate, tls_key=key, ca_crt=site.authority.pem)
    time.sleep(2 * REREAD_SECONDS + 2)
    assert shown_serial(site.auth_port, site.authority) == before
    assert site.log("auth").count("is not that of the certificate") == 1
    assert "PRIVATE KEY" not in site.log("auth")
    site.renew("auth")


def test_an_authorization_server_of_another_authority_is_503_and_the_log_says_why(
    store_url: str, tmp_path: Path
) -> None:
    with running(Site(tmp_path, Authority(), {"url": store_url})) as site:
        token = site.token()
        other = Authority()
        certificate, key = site.authority.pair("localhost", "127.0.0.1")
        # Renewed in the running service: what it trusts now did not sign what the authorization server shows.
        site.secret("mcp").write(tls_crt=certificate, tls_key=key, ca_crt=other.pem)
        deadline = time.monotonic() + REREAD_SECONDS + 5
        with site.client() as http:
            while (answer := site.call(http, token)).status_code == 200:
                assert time.monotonic() < deadline
                time.sleep(0.2)
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")
        log = site.log("mcp")
        problems = [json.loads(line).get("problem", "") for line in log.splitlines()]
        assert any(re.match(r"its certificate is not accepted \(.*certificate.*\)", each) for each in problems), log
        assert token not in log
        assert RESOURCE_SECRET not in log


@pytest.mark.parametrize("name", COMMANDS)
def test_a_service_does_not_start_with_a_pair_it_cannot_use(store_url: str, tmp_path: Path, name: str) -> None:
    site = Site(tmp_path, Authority(), {"url": store_url})

    def refusal() -> str:
        command, environment = site.command(name)
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
        assert ended.returncode == 2
        assert "Traceback" not in ended.stderr
        return ended.stderr

    assert "listen.tls.certificate_file: cannot read" in refusal()
    site.authority.renew(site.secret(name), "localhost", ends_in=timedelta(seconds=-5))
    assert "listen.tls.certificate_file: the certificate in" in refusal()


def test_an_mcp_server_does_not_start_without_the_authorities_it_shall_trust(store_url: str, tmp_path: Path) -> None:
    site = Site(tmp_path, Authority(), {"url": store_url})
    certificate, key = site.authority.pair("localhost")
    site.secret("mcp").write(tls_crt=certificate, tls_key=key)
    command, environment = site.command("mcp")
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)
    assert (ended.returncode, "introspection.ca_file: cannot read" in ended.stderr) == (2, True)
    assert "Traceback" not in ended.stderr
