"""What `helm test` runs, on the settings that the chart writes: both services as processes, without a cluster."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.auth_server import MASTER_KEY
from tests.chart.release import CHART, Release, render
from tests.cluster import Cluster, running_cluster

SCRIPT = CHART / "files" / "release_check.py"


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@dataclass
class Running:
    """A release whose services run on loopback.

    Attributes:
        environment: what the test pod would be told, with loopback addresses.
    """

    environment: dict[str, str]

    def check(self, **replaced: str) -> subprocess.CompletedProcess[str]:
        """Run the script to its end."""
        environment = {"PATH": os.environ["PATH"], **self.environment, **replaced}
        return subprocess.run(
            [sys.executable, "-c", SCRIPT.read_text()],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@contextmanager
def _process(module: list[str], folder: Path, release: Release, name: str, **variables: str) -> Iterator[None]:
    settings = folder / f"{name}.yaml"
    settings.write_text(release.get("ConfigMap", name)["data"]["keystile.yaml"])
    kept = {key: value for key, value in os.environ.items() if not key.startswith("KEYSTILE_")}
    environment = kept | {"KEYSTILE_CONFIG": str(settings), "KEYSTILE_METRICS__PORT": "0"}
    environment |= {f"KEYSTILE_{key}": value for key, value in variables.items()}
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen([sys.executable, "-m", *module], env=environment, stdout=log, stderr=log)
        try:
            yield
        finally:
            process.terminate()
            process.wait(30)


def _pod_environment(release: Release) -> dict[str, str]:
    (container,) = release.get("Pod", "keystile-test")["spec"]["containers"]
    return {each["name"]: each["value"] for each in container["env"]}


def _token_file(folder: Path, cluster: Cluster, issuer: str, account: str) -> str:
    path = folder / f"token-{account}"
    path.write_text(cluster.token(issuer, f"demo/keystile-{account}"))
    return str(path)


@pytest.fixture(scope="module")
def running(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("release")
    auth, alpha, beta, *others = _free_ports(5)
    handover = dict(zip(("alpha", "beta"), others, strict=True))
    issuer = f"http://127.0.0.1:{auth}/tenant"
    places = {"alpha": f"http://127.0.0.1:{alpha}/alpha/mcp", "beta": f"http://127.0.0.1:{beta}/mcp"}
    values: dict[str, Any] = {"servers": {name: {"resource": uri} for name, uri in places.items()}}
    release = render("--set", f"issuer={issuer}", "--set", "existingSecret=keys", "--set-json", _as_json(values))
    with ExitStack() as stack:
        cluster = stack.enter_context(running_cluster(folder))
        services = [("keystile-auth", ["keystile_auth", "serve"], auth, {
            "MASTER_KEY": MASTER_KEY,
            "STORE__URL": store_url,
            "KUBERNETES__URL": cluster.url,
            "KUBERNETES__TOKEN_FILE": str(cluster.token_file),
        })]  # fmt: skip
        for name, port in (("alpha", alpha), ("beta", beta)):
            proof = _token_file(folder, cluster, issuer, name)
            variables = {"INTROSPECTION__URL": f"{issuer}/introspect", "INTROSPECTION__TOKEN_FILE": proof}
            # Where the chart's own Valkey and the pod's address would be.
            variables |= {"STORE__URL": store_url, "STORE__USERNAME": "", "HANDOVER__HOST": "127.0.0.1"}
            variables |= {"HANDOVER__PORT": str(handover[name]), "HANDOVER__ADDRESS": f"127.0.0.1:{handover[name]}"}
            services.append((f"keystile-{name}", ["keystile_mcp"], port, variables))
        for name, module, port, variables in services:
            stack.enter_context(_process(module, folder, release, name, LISTEN__PORT=str(port), **variables))
        told = _pod_environment(release)
        servers = json.loads(told["SERVERS"])
        for server in servers:
            server["address"] = places[server["name"]].removesuffix("/alpha/mcp").removesuffix("/mcp")
        assertion = _token_file(folder, cluster, issuer, "test")
        replaced = {"AUTH": f"http://127.0.0.1:{auth}", "SERVERS": json.dumps(servers)}
        yield Running(told | replaced | {"CLIENT_ASSERTION_FILE": assertion})


def _as_json(values: dict[str, Any]) -> str:
    return ",".join(f"{name}={json.dumps(value)}" for name, value in values.items())


def test_a_release_passes_its_own_test_up_to_a_tools_answer(running: Running) -> None:
    answer = running.check()
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = answer.stdout.splitlines()
    assert "ok      alpha answers the tool echo" in said
    assert "ok      beta answers the tool echo" in said
    assert "ok      beta refuses a token for alpha" in said
    assert "ok      alpha refuses a token for beta" in said


def test_without_the_test_client_it_says_where_it_ends(running: Running) -> None:
    environment = {key: value for key, value in running.environment.items() if not key.startswith("CLIENT_")}
    answer = Running(environment).check()
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "no token was asked for" in answer.stdout


def test_without_an_authorization_server_of_its_own_it_checks_what_needs_no_token(running: Running) -> None:
    environment = {key: value for key, value in running.environment.items() if key != "AUTH"}
    answer = Running(environment).check()
    assert answer.returncode == 0, answer.stdout + answer.stderr
    said = answer.stdout.splitlines()
    assert "ok      alpha names the authorization server" in said
    assert "ok      beta says where its metadata are" in said
    assert "no token was asked for: the authorization server is not this release's" in said


def test_a_wrong_proof_fails_it_with_what_the_server_said(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("not.a.token")
    answer = running.check(CLIENT_ASSERTION_FILE=str(tmp_path / "token"))
    assert answer.returncode == 1
    assert "FAILED  there is a token for alpha" in answer.stderr
    assert "invalid_client" in answer.stderr


def test_another_issuer_than_the_configured_one_fails_it(running: Running) -> None:
    answer = running.check(ISSUER=running.environment["ISSUER"].replace("127.0.0.1", "localhost"))
    assert answer.returncode == 1
    assert "FAILED  they have the configured issuer" in answer.stderr
