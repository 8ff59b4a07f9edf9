"""The TypeScript SDK's client, which most MCP clients are made with, from the first 401 to a refreshed token."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.clients.conftest import StartPair

pytestmark = pytest.mark.node

CALLBACK = "http://127.0.0.1:49155/callback"
ACCESS_TOKEN_SECONDS = 2


class Script:
    """The script `oauth.mjs` under way."""

    def __init__(self, packages: Path, *arguments: str) -> None:
        program = node.node()
        assert program is not None
        source = (node.CLIENTS / "oauth.mjs").read_text()
        self.process = subprocess.Popen(
            [program, "--input-type=module", "--eval", source, *arguments],
            cwd=packages,
            env=node.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read(self) -> dict[str, Any]:
        """The next line that it prints."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(self.process.communicate(timeout=30)[1])
        return dict(json.loads(line))

    def write(self, line: str) -> None:
        """Give it a line."""
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """See it end well; stop it if it does not."""
        try:
            _, said = self.process.communicate(timeout=30)
            assert self.process.returncode == 0, said
        finally:
            self.process.kill()
            self.process.communicate()


@pytest.mark.parametrize("package", ["sdk", "client"])
def test_it_registers_signs_in_calls_tools_and_refreshes(start_pair: StartPair, packages: Path, package: str) -> None:
    pair = start_pair(auth={"tokens": {"access_token_seconds": ACCESS_TOKEN_SECONDS}})
    script = Script(packages, package, pair.resource, CALLBACK, str(ACCESS_TOKEN_SECONDS + 1))
    try:
        url = script.read()["open"]
        assert "code_challenge_method=S256" in url
        callback = pair.auth.person().allow(url)
        assert callback.startswith(CALLBACK + "?")
        script.write(callback)
        assert {"echo", "add"} <= set(script.read()["tools"])
        assert script.read() == {"answer": "first"}
        assert script.read() == {"answer": "second"}
        kept = script.read()
        assert kept["refreshes"] >= 1
        assert kept["scope"] == "mcp:basic"
    finally:
        script.end()
    assert pair.calls() == [("echo", "success"), ("echo", "success")]
    [registered] = pair.auth.events("client.registered")
    assert registered["actor"]["client_id"] == kept["client"]
