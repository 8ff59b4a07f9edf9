"""A front proxy that names people, before each process that can sign them in; and authorities that are renewed."""

import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest

from keystile_common.certificates import REREAD_SECONDS
from tests.auth_server import RESOURCE, RESOURCE_SECRET, SCOPES
from tests.embedded import COMMAND, environment_of
from tests.front_proxy import IDENTITY, PROXY_NAME, get
from tests.made_run import free_ports
from tests.tls import Authority, MountedSecret

ADA = {"X-Remote-User": "u-17", "X-Remote-Name": "Ada"}
MCP = {"uri": RESOURCE, "title": "Tools", "scopes": SCOPES, "secret": RESOURCE_SECRET}


@contextmanager
def running(name: str, folder: Path, authority: Authority, port: int, store_url: str) -> Iterator[None]:
    """Run the process of one topology behind TLS; `folder/client-ca.pem` are the proxy's authorities."""
    secret = MountedSecret(folder / "tls")
    authority.renew(secret, "localhost")
    files = {"certificate_file": secret.certificate_file, "key_file": secret.key_file}
    tls = {setting: str(path) for setting, path in (files | {"client_ca_file": folder / "client-ca.pem"}).items()}
    settings: dict[str, Any] = {
        "issuer": f"https://localhost:{port}",
        "listen": {"port": port, "tls": tls},
        "metrics": {"port": free_ports(1)[0]},
        "identity": {"portal": IDENTITY},
        "store": {"url": store_url},
    }
    command = COMMAND if name == "embedded" else [sys.executable, "-m", "keystile_auth", "serve"]
    if name != "embedded":
        settings["resources"] = {"mcp": MCP}
    environment = environment_of(folder, **settings)
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.DEVNULL, stderr=log)
    try:
        deadline = time.monotonic() + 30
        while not _answers(port, authority):
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait(30)


def _answers(port: int, authority: Authority) -> bool:
    try:
        with httpx2.Client(verify=authority.trusting) as http:
            return http.get(f"https://localhost:{port}/readyz").status_code == 200
    except httpx2.TransportError:
        return False


def account(port: int, context: ssl.SSLContext) -> httpx2.Response:
    with httpx2.Client(verify=context, headers={**ADA, "Accept": "text/html"}, follow_redirects=True) as http:
        return http.get(f"https://localhost:{port}/account")


@pytest.mark.parametrize("name", ["auth", "embedded"])
def test_the_proxy_names_people_until_its_authorities_are_others(name: str, store_url: str, tmp_path: Path) -> None:
    authority, port = Authority(), free_ports(1)[0]
    (tmp_path / "client-ca.pem").write_bytes(authority.pem)
    context = authority.showing(authority.client_pair(PROXY_NAME), tmp_path)
    with running(name, tmp_path, authority, port, store_url):
        assert "portal/Ada" in account(port, context).text
        assert account(port, authority.trusting).status_code == 403
        with (
            closing(socket.create_connection(("127.0.0.1", port), timeout=5)) as plain,
            context.wrap_socket(plain, server_hostname="localhost") as kept,
        ):
            (tmp_path / "client-ca.pem").write_bytes(Authority().pem)
            deadline = time.monotonic() + REREAD_SECONDS + 5
            while _is_served(kept):
                assert time.monotonic() < deadline, "the connection with the old certificate stays"
                time.sleep(0.2)
        with pytest.raises(httpx2.TransportError):
            account(port, context)
        assert account(port, authority.trusting).status_code == 403
    assert "the certificate was renewed" in (tmp_path / "log").read_text()


def _is_served(connection: ssl.SSLSocket) -> bool:
    try:
        connection.sendall(get("/healthz", []))
        heard = b""
        while not heard.endswith(b"}"):
            part = connection.recv(65536)
            if not part:
                return False
            heard += part
    except OSError:
        return False
    return True
