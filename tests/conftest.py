"""What every test may ask for: a real store, a real authorization server, Docker, Chromium."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from keystile_auth.store import embedded
from tests import node, stores
from tests.auth_server import AuthServer, running_auth_server
from tests.conformance import suite

# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("keystile", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("keystile")

_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
_CLUSTER_PROGRAMS = ("docker", "kind", "kubectl", "helm", "openssl")
_IN_CI = os.environ.get("CI") == "true"


@cache
def _docker_problem() -> str | None:
    docker = shutil.which("docker")
    if docker is None:
        return "no docker command on PATH"
    answer = subprocess.run([docker, "info"], capture_output=True, check=False, timeout=30)
    return None if answer.returncode == 0 else "no Docker engine answers"


@cache
def _cluster_problem() -> str | None:
    missing = [name for name in _CLUSTER_PROGRAMS if shutil.which(name) is None]
    return f"no {', no '.join(missing)} on PATH" if missing else _docker_problem()


def _ldap_problem() -> str | None:
    if importlib.util.find_spec("ldap") is not None:
        return None
    return (
        "no python-ldap in .venv (`make test` installs it where a C compiler and the headers of Python, libldap and "
        "libsasl2 are; on Debian these are gcc, libc6-dev, python3-dev, libldap-dev and libsasl2-dev)"
    )


@cache
def _chromium() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, _CHROMIUM_NAMES)), None)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out, aloud, what this machine cannot run; in CI nothing may be left out."""
    missing = None
    if item.get_closest_marker("docker"):
        missing = _docker_problem()
    elif item.get_closest_marker("cluster"):
        missing = _cluster_problem()
    elif item.get_closest_marker("conformance"):
        missing = suite.problem()
    elif item.get_closest_marker("browser") and _chromium() is None:
        missing = f"no Chromium (looked for {', '.join(_CHROMIUM_NAMES)}, or set CHROMIUM)"
    elif item.get_closest_marker("node"):
        missing = node.problem()
    if not missing and item.get_closest_marker("ldap"):
        missing = _ldap_problem()
    if missing is None and item.get_closest_marker("xmlsec1") and shutil.which("xmlsec1") is None:
        missing = "no xmlsec1 on PATH, which SAML needs ('apt-get install xmlsec1', 'brew install libxmlsec1')"
    if missing and _IN_CI:
        pytest.fail(f"CI runs every test, but: {missing}", pytrace=False)
    if missing:
        pytest.skip(missing)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say aloud how many tests were left out."""
    skipped = len(terminalreporter.stats.get("skipped", []))
    if skipped:
        terminalreporter.write_line(f"LEFT OUT: {skipped} tests that this machine cannot run; see above why.", red=True)


@pytest.fixture(scope="session")
def chromium_path() -> str:
    """The browser to drive."""
    found = _chromium()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def store_url() -> Iterator[str]:
    """A real Valkey, one a test process; with STORE_SHAPE=sentinel or cluster, a store of that shape."""
    shape = os.environ.get("STORE_SHAPE")
    # A short path: a unix socket's name has a hundred characters at most.
    with tempfile.TemporaryDirectory(prefix="ks-") as folder:
        running = stores.named(shape, Path(folder)) if shape else embedded.run(Path(folder))
        with running as url:
            yield url


StartAuthServer = Callable[..., AuthServer]


@pytest.fixture
def start_auth_server(store_url: str) -> Iterator[StartAuthServer]:
    """Starts authorization servers on the test's store, with settings of the test's own."""
    with ExitStack() as stack:

        def start(**overrides: Any) -> AuthServer:
            return stack.enter_context(running_auth_server(store_url, **overrides))

        yield start


@pytest.fixture(scope="module")
def auth_server(store_url: str) -> Iterator[AuthServer]:
    """An authorization server that a module's tests share; see `tests.auth_server` for its settings."""
    with running_auth_server(store_url) as server:
        yield server


@pytest.fixture
def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
