"""The servers that the suite is run against, and each run of it once."""

import os
import secrets
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.auth_server import AuthServer, RegisteredClient, running_auth_server
from tests.conformance import suite
from tests.made_run import free_ports

ROOT = Path(__file__).parents[2]
APP = "tests.conformance.fixture_server:server"


@contextmanager
def process(*arguments: str, answers: str, **environ: str) -> Iterator[None]:
    """Run a Python module while the block runs, from the moment that anything answers at the URL `answers`."""
    with subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, env={**os.environ, **environ}) as running:
        try:
            deadline = time.monotonic() + 30
            while True:
                assert running.poll() is None, "the server stopped while it started"
                assert time.monotonic() < deadline, "the server did not start in time"
                try:
                    httpx2.get(answers, timeout=2)
                    break
                except httpx2.TransportError:
                    time.sleep(0.05)
            yield
        finally:
            running.terminate()
            running.wait(30)


class Protected:
    """An authorization server, and MCP servers of `keystile-mcp` that ask it.

    Attributes:
        auth: the authorization server.
        ports: of the MCP servers, by name; each is a resource.
    """

    def __init__(self, auth: AuthServer, ports: dict[str, int], secret: str) -> None:
        self.auth = auth
        self.ports = ports
        self._secret = secret
        self._client = auth.register()

    def url(self, name: str) -> str:
        """The MCP endpoint, which is the resource's identifier."""
        return resource_url(self.ports[name])

    def token(self, name: str) -> str:
        """An access token for it, that a person has consented to."""
        tokens = self.auth.tokens(self._client.id, resource=self.url(name), scope="mcp:basic")
        return str(tokens["access_token"])

    @contextmanager
    def serving(self, name: str, *arguments: str) -> Iterator[str]:
        """Run `keystile-mcp` while the block runs; its endpoint."""
        environ = {
            "KEYSTILE_RESOURCE": self.url(name),
            "KEYSTILE_AUTHORIZATION_SERVER": self.auth.issuer,
            "KEYSTILE_INTROSPECTION__CLIENT_ID": name,
            "KEYSTILE_INTROSPECTION__CLIENT_SECRET": self._secret,
            "KEYSTILE_LISTEN__HOST": "127.0.0.1",
            "KEYSTILE_LISTEN__PORT": str(self.ports[name]),
            "KEYSTILE_METRICS__PORT": "0",
            "KEYSTILE_SCOPES": '{"mcp:basic": "Use the tools"}',
            "KEYSTILE_POLICY": "{}",
            "KEYSTILE_AUDIT__STDOUT": "false",
            "KEYSTILE_LOG__LEVEL": "warning",
        }
        ready = self.url(name).removesuffix("/mcp") + "/healthz"
        with process("keystile_mcp", *arguments, answers=ready, **environ):
            yield self.url(name)


def resource_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/mcp"


@pytest.fixture(scope="session")
def protected(store_url: str) -> Iterator[Protected]:
    names = ("direct", "proxy")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    secret = secrets.token_hex(32)
    resources = {
        name: {"uri": resource_url(port), "title": name, "scopes": {"mcp:basic": "Use the tools"}, "secret": secret}
        for name, port in ports.items()
    }
    with running_auth_server(store_url, resources=resources) as auth:
        yield Protected(auth, ports, secret)


@pytest.fixture(scope="session")
def endpoints(protected: Protected) -> Iterator[dict[str, str]]:
    """The fixture server behind the bearer, in the same process (`direct`) and elsewhere (`proxy`)."""
    (bare,) = free_ports(1)
    upstream = resource_url(bare)
    with (
        process("tests.conformance.bare_server", str(bare), answers=upstream),
        protected.serving("direct", "--app", APP) as direct,
        protected.serving("proxy", "--upstream", upstream) as proxy,
    ):
        yield {"direct": direct, "proxy": proxy}


Run = Callable[..., suite.Results]


@pytest.fixture(scope="session")
def run(protected: Protected, endpoints: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs the suite against one of the endpoints, each choice of scenarios once."""
    done: dict[tuple[str, ...], suite.Results] = {}

    def run_once(name: str, *options: str) -> suite.Results:
        key = (name, *options)
        if key not in done:
            folder = tmp_path_factory.mktemp(name)
            done[key] = suite.run_server(endpoints[name], folder, *options, token=protected.token(name))
        return done[key]

    return run_once


@pytest.fixture(scope="session")
def authorization(protected: Protected, tmp_path_factory: pytest.TempPathFactory) -> suite.Results:
    """Every scenario for authorization servers, with a person who signs in and consents."""
    (port,) = free_ports(1)
    callback = f"http://127.0.0.1:{port}/callback"
    client = protected.auth.register(redirect_uris=[callback])
    return _authorize(protected, client, port, tmp_path_factory.mktemp("authorization"))


def _authorize(protected: Protected, client: RegisteredClient, port: int, folder: Path) -> suite.Results:
    line = suite.arguments(
        "authorization", "--url", protected.auth.issuer, "--client-id", client.id, "-p", str(port),
        "--resource", protected.url("direct"), "-o", str(folder),
    )  # fmt: skip
    person, said = protected.auth.person(), []
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as running:
        assert running.stdout is not None
        # It waits five minutes for a callback that does not come.
        limit = threading.Timer(60, running.kill)
        limit.start()
        try:
            for output in running.stdout:
                said.append(output)
                if output.startswith(f"{protected.auth.issuer}/authorize?"):
                    answer = person.allow(output.strip())
                    assert urlsplit(answer).port == port
                    httpx2.get(answer, timeout=10)
        finally:
            limit.cancel()
            running.kill()
    (folder / "output.txt").write_text("".join(said))
    return suite.read_results(folder)
