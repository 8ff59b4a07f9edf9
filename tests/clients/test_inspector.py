"""MCP Inspector's command line with a bearer token, as developers try a server."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import node
from tests.pair import Pair

pytestmark = pytest.mark.node


def inspect(
    packages: Path, folder: Path, pair: Pair, token: str, *arguments: str
) -> "subprocess.CompletedProcess[str]":
    command = [str(packages / "node_modules/.bin/mcp-inspector"), "--cli", pair.resource, "--transport", "http"]
    return subprocess.run(
        [*command, "--header", f"Authorization: Bearer {token}", *arguments],
        env=node.environment() | {"MCP_CATALOG_PATH": str(folder / "mcp.json"), "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def answer(done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def test_it_lists_and_calls_tools(pair: Pair, packages: Path, tmp_path: Path) -> None:
    token = pair.access_token()
    listed = answer(inspect(packages, tmp_path, pair, token, "--method", "tools/list"))
    assert {"echo", "add"} <= {tool["name"] for tool in listed["tools"]}
    call = ["--method", "tools/call", "--tool-name", "echo", "--tool-arg", "text=hello"]
    called = answer(inspect(packages, tmp_path, pair, token, *call))
    assert called["structuredContent"] == {"result": "hello"}


def test_a_token_that_is_refused_makes_it_ask_for_a_sign_in(pair: Pair, packages: Path, tmp_path: Path) -> None:
    done = inspect(packages, tmp_path, pair, "kst_at_junk", "--method", "tools/list")
    assert done.returncode != 0
    assert json.loads(done.stderr)["error"]["code"] == "auth_required"
