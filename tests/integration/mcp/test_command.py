"""The command `keystile-mcp`, as a process."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

import httpx2
import pytest

from tests.integration.mcp.resource_server import (
    ScriptedAuthorizationServer,
    modern_headers,
    open_session,
    tool_call,
)

COMMAND = [sys.executable, "-m", "keystile_mcp"]


def free_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")}
    return kept | {f"KEYSTILE_{name}": value for name, value in variables.items()}


def usable(**variables: str) -> dict[str, str]:
    port = str(free_port())
    return environment(
        **{
            "RESOURCE": f"http://127.0.0.1:{port}/mcp",
            "AUTHORIZATION_SERVER": f"http://127.0.0.1:{free_port()}",
            "INTROSPECTION__CLIENT_ID": "rs",
            "INTROSPECTION__CLIENT_SECRET": "a-secret-of-some-length",
            "LISTEN__PORT": port,
            "METRICS__PORT": str(free_port()),
        }
        | variables
    )


def refusal(variables: dict[str, str]) -> str:
    """What the command says on standard error when it cannot begin."""
    result = subprocess.run(COMMAND, env=variables, capture_output=True, text=True, timeout=20, check=False)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    return result.stderr


@contextmanager
def serving(variables: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(COMMAND, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        for _ in range(200):
            try:
                httpx2.get(f"http://127.0.0.1:{variables['KEYSTILE_LISTEN__PORT']}/healthz").raise_for_status()
                break
            except httpx2.ConnectError:
                assert process.poll() is None
                time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def stop(process: subprocess.Popen[str], by: signal.Signals) -> str:
    """Stop the process, which must be prompt and clean; what it logged."""
    process.send_signal(by)
    _, log = process.communicate(timeout=10)
    assert process.returncode == 0
    assert "Traceback" not in log
    return log


def test_settings_that_cannot_be_used_are_said_in_sentences() -> None:
    said = refusal(environment(RESOURCE="https://tools.example.com"))
    assert "resource (the variable KEYSTILE_RESOURCE): must have a path" in said
    assert "authorization_server: is required" in said


def test_a_port_in_use_is_said_in_a_sentence() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        assert f"Port {port} on 127.0.0.1 is in use" in refusal(usable(LISTEN__PORT=port))
        assert "KEYSTILE_METRICS__PORT" in refusal(usable(METRICS__PORT=port))


def test_an_audit_file_that_cannot_be_written_is_said_in_a_sentence() -> None:
    assert "audit.file: cannot write" in refusal(usable(AUDIT__FILE="/nonexistent/audit.log"))


def test_it_serves_counts_and_stops_cleanly() -> None:
    variables = usable()
    with serving(variables) as process:
        answer = httpx2.post(variables["KEYSTILE_RESOURCE"], json={})
        assert answer.status_code == 401
        metrics = httpx2.get(f"http://127.0.0.1:{variables['KEYSTILE_METRICS__PORT']}/metrics").text
        assert 'keystile_token_validations_total{method="introspection",result="missing"} 1.0' in metrics
        log = stop(process, signal.SIGTERM)
        assert all(line.startswith("{") for line in log.splitlines())


def test_nobodys_word_is_taken_for_a_clients_address_unless_a_proxy_is_trusted() -> None:
    for trusted, address in (("[]", "127.0.0.1"), ("[127.0.0.1]", "203.0.113.9")):
        variables = usable(TRUSTED_PROXIES=trusted)
        with serving(variables) as process:
            headers = {"Authorization": "Bearer kst_at_junk", "X-Forwarded-For": "203.0.113.9"}
            assert httpx2.post(variables["KEYSTILE_RESOURCE"], headers=headers).status_code == 401
            process.send_signal(signal.SIGTERM)
            audit, _ = process.communicate(timeout=10)
            assert json.loads(audit)["actor"]["ip"] == address


def listening(token: str) -> tuple[dict[str, str], dict[str, Any] | None]:
    """Headers and body of a request whose answer is a stream without an end."""
    headers, message = modern_headers("", token), tool_call("", {})
    headers["Mcp-Method"] = message["method"] = "subscriptions/listen"
    del headers["Mcp-Name"]
    message["params"] = {"_meta": message["params"]["_meta"], "notifications": {"toolsListChanged": True}}
    return headers, message


@pytest.mark.parametrize("by", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("wire", ["session", "alone"])
async def test_a_stream_that_listens_does_not_hold_the_process_back(
    scripted: ScriptedAuthorizationServer, wire: str, by: signal.Signals
) -> None:
    variables = usable(AUTHORIZATION_SERVER=scripted.issuer)
    url = scripted.resource = variables["KEYSTILE_RESOURCE"]
    token = scripted.issue()
    with serving(variables) as process:
        async with httpx2.AsyncClient(timeout=10) as http:
            if wire == "session":
                request = http.stream("GET", url, headers=await open_session(http, url, token))
            else:
                headers, message = listening(token)
                request = http.stream("POST", url, headers=headers, json=message)
            async with request as response:
                assert response.headers["content-type"].startswith("text/event-stream")
                started = time.monotonic()
                process.send_signal(by)
                await response.aread()  # to its end, which is a proper one
        assert await asyncio.to_thread(process.wait, 10) == 0
        assert time.monotonic() - started < 3


@pytest.mark.parametrize("wire", ["session", "alone"])
async def test_a_call_under_way_is_answered_before_the_process_ends(
    scripted: ScriptedAuthorizationServer, wire: str
) -> None:
    variables = usable(AUTHORIZATION_SERVER=scripted.issuer)
    url = scripted.resource = variables["KEYSTILE_RESOURCE"]
    token = scripted.issue()
    call = tool_call("long_running", {"seconds": 1.5, "steps": 3})
    call["params"]["_meta"]["progressToken"] = "p"
    with serving(variables) as process:
        async with httpx2.AsyncClient(timeout=10) as http:
            headers = modern_headers("long_running", token)
            if wire == "session":
                headers = await open_session(http, url, token)
            calling = asyncio.create_task(http.post(url, headers=headers, json=call))
            await asyncio.sleep(0.7)
            process.send_signal(signal.SIGTERM)
            response = await calling
        assert response.status_code == 200
        assert "Done: 3 steps" in response.text
        assert await asyncio.to_thread(process.wait, 10) == 0


def test_it_says_its_version() -> None:
    result = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("keystile-mcp ")
