"""The embedded topology as an operator runs it: one process, both services, a store that is its child."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx2
import pytest

from tests.assistant import Assistant
from tests.auth_server import PASSWORD
from tests.embedded import COMMAND, Embedded, environment_of, running_embedded
from tests.integration.mcp.resource_server import modern_headers, open_session, tool_call
from tests.person import Person, form
from tests.stores import eventually


@pytest.fixture(scope="module", params=["", "/sign/in"])
def embedded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Embedded]:
    """With an issuer at the origin, and with one that has a path."""
    with running_embedded(tmp_path_factory.mktemp("embedded"), path=request.param) as running:
        yield running


def call(embedded: Embedded, token: str, tool: str = "echo") -> httpx2.Response:
    arguments = {"text": "hello"} if tool == "echo" else {"seconds": 0.05, "steps": 1}
    return embedded.server.http.post(
        embedded.resource, headers=modern_headers(tool, token), json=tool_call(tool, arguments)
    )


def valkey_of(embedded: Embedded) -> int:
    return int((embedded.settings.store_folder / "valkey.pid").read_text())


def runs(pid: int) -> bool:
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().split() if Path("/proc").exists() else True
    return False


@pytest.fixture
def person(embedded: Embedded) -> Person:
    return embedded.server.person()


async def test_a_stock_client_finds_its_way_and_steps_up(embedded: Embedded, person: Person) -> None:
    assistant = Assistant(embedded, person)
    async with assistant.connected() as client:
        assert (await client.call_tool("echo", {"text": "hello"})).structured_content == {"result": "hello"}
        assert not (await client.call_tool("long_running", {"seconds": 0.05, "steps": 1})).is_error
        identity = (await client.call_tool("who_am_i", {})).structured_content
    assert assistant.sign_ins == 2
    assert identity is not None
    assert identity["issuer"] == embedded.settings.issuer
    assert set(identity["scopes"]) == {"mcp:basic", "mcp:jobs"}


def test_a_revoked_token_is_refused_at_the_next_call(embedded: Embedded) -> None:
    client = embedded.server.register()
    tokens = embedded.server.tokens(client.id, resource=embedded.resource)
    assert call(embedded, tokens["access_token"]).status_code == 200
    data = {"client_id": client.id, "token": tokens["refresh_token"]}
    assert embedded.server.http.post(f"{embedded.settings.issuer}/revoke", data=data).status_code == 200
    refused = call(embedded, tokens["access_token"])
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


def test_a_refreshed_token_is_good_and_one_without_the_scope_is_told_which(embedded: Embedded) -> None:
    client = embedded.server.register()
    tokens = embedded.server.tokens(client.id, resource=embedded.resource)
    fresh = embedded.server.refresh(client.id, tokens["refresh_token"]).json()["access_token"]
    assert call(embedded, fresh).status_code == 200
    refused = call(embedded, fresh, "long_running")
    assert refused.status_code == 403
    assert 'scope="mcp:basic mcp:jobs"' in refused.headers["www-authenticate"]


async def test_a_stream_ends_when_its_token_is_revoked(embedded: Embedded) -> None:
    client = await asyncio.to_thread(embedded.server.register)
    tokens = await asyncio.to_thread(embedded.server.tokens, client.id, resource=embedded.resource)
    async with httpx2.AsyncClient(timeout=10) as http:
        headers = await open_session(http, embedded.resource, tokens["access_token"])
        async with http.stream("GET", embedded.resource, headers=headers) as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            data = {"client_id": client.id, "token": tokens["access_token"]}
            assert (await http.post(f"{embedded.settings.issuer}/revoke", data=data)).status_code == 200
            began = time.monotonic()
            await stream.aread()
            assert time.monotonic() - began < 3


def test_each_well_known_document_is_where_clients_look_and_open_to_every_page(embedded: Embedded) -> None:
    http, issuer = embedded.server.http, embedded.settings.issuer
    origin, path = embedded.resource.removesuffix("/mcp"), issuer.removeprefix(embedded.resource.removesuffix("/mcp"))
    documents = {
        f"{origin}/.well-known/oauth-protected-resource": ("resource", embedded.resource),
        f"{origin}/.well-known/oauth-protected-resource/mcp": ("resource", embedded.resource),
        f"{origin}/.well-known/oauth-authorization-server{path}": ("issuer", issuer),
        f"{issuer}/.well-known/oauth-authorization-server": ("issuer", issuer),
        f"{origin}/.well-known/openid-configuration{path}": ("issuer", issuer),
        f"{issuer}/.well-known/openid-configuration": ("issuer", issuer),
    }
    for url, (name, value) in documents.items():
        # The request names another host: what is answered comes from the settings.
        answer = http.get(url, headers={"Origin": "https://page.example", "X-Forwarded-Host": "evil.example"})
        assert (answer.status_code, answer.json()[name]) == (200, value), url
        assert answer.headers["access-control-allow-origin"] == "*", url
    preflight = {"Origin": "https://page.example", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" in http.options(f"{issuer}/token", headers=preflight).headers
    assert "access-control-allow-origin" not in http.options(f"{issuer}/authorize", headers=preflight).headers
    assert "access-control-allow-origin" not in http.options(embedded.resource, headers=preflight).headers


def test_both_services_are_counted_on_one_port(embedded: Embedded) -> None:
    call(embedded, embedded.access_token())
    metrics = httpx2.get(embedded.metrics_url).text
    for line in (
        'keystile_build_info{component="embedded"',
        'keystile_token_requests_total{error="",grant_type="authorization_code",outcome="success"}',
        'keystile_token_validations_total{method="in_process",result="valid"}',
        'keystile_mcp_tool_calls_total{outcome="success",tool="echo"}',
        "keystile_store_operation_duration_seconds_count",
        'keystile_audit_events_total{outcome="success",type="tool.called"}',
    ):
        assert line in metrics, line
    assert metrics.count("# TYPE keystile_audit_events_total ") == 1


def test_both_services_write_one_audit_chain(embedded: Embedded) -> None:
    call(embedded, embedded.access_token())
    assert embedded.events("token.issued")
    assert embedded.events("tool.called")
    verified = embedded.operate("audit", "verify", str(embedded.audit_file))
    assert verified.returncode == 0, verified.stdout + verified.stderr
    assert "0 breaks in the chain" in verified.stdout


def test_operators_use_the_same_commands(embedded: Embedded) -> None:
    added = embedded.operate("users", "add", "grace", typed=f"{PASSWORD}\n")
    assert added.returncode == 0, added.stderr
    assert "grace" in embedded.operate("users", "list").stdout
    options = ["--resource", embedded.resource, "--scope", "mcp:basic"]
    machine = embedded.operate("clients", "add", "Nightly job", *options)
    assert machine.returncode == 0, machine.stderr
    values = dict(line.split()[:2] for line in machine.stdout.splitlines() if line.startswith("client_"))
    answer = embedded.server.token(
        (values["client_id"], values["client_secret"]), grant_type="client_credentials", resource=embedded.resource
    )
    assert call(embedded, answer.json()["access_token"]).status_code == 200
    assert "`keystile-mcp --embedded` serves both" in embedded.operate("serve").stderr


def test_sigterm_lets_a_call_finish_and_stops_the_store_last_and_a_restart_keeps_everything(tmp_path: Path) -> None:
    with running_embedded(tmp_path) as first:
        person, client = first.server.person(), first.server.register()
        tokens = first.server.tokens(client.id, person, resource=first.resource, scope="mcp:basic mcp:jobs")
        valkey = valkey_of(first)

        async def call_while_it_stops() -> httpx2.Response:
            headers = modern_headers("long_running", tokens["access_token"])
            body = tool_call("long_running", {"seconds": 1.5, "steps": 3})
            async with httpx2.AsyncClient(timeout=10) as http:
                calling = asyncio.create_task(http.post(first.resource, headers=headers, json=body))
                await asyncio.sleep(0.5)
                first.process.send_signal(signal.SIGTERM)
                await asyncio.sleep(0.5)
                assert runs(valkey)
                return await calling

        answer = asyncio.run(call_while_it_stops())
        assert (answer.status_code, "Done: 3 steps" in answer.text) == (200, True)
        assert first.process.wait(15) == 0
        assert not runs(valkey)
        assert "Traceback" not in first.log()
    port = first.settings.listen.port
    with running_embedded(tmp_path, port=port) as second:
        again = Person(second.settings.issuer, person.username, PASSWORD)
        account = again.sign_in(again.get(f"{second.settings.issuer}/account"))
        assert form(account, "/account/end-connection").fields
        again.browser.close()
        assert call(second, tokens["access_token"]).status_code == 200
        assert second.server.refresh(client.id, tokens["refresh_token"]).status_code == 200


def test_a_store_that_stops_by_itself_ends_the_process_so_that_both_are_started_anew(tmp_path: Path) -> None:
    with running_embedded(tmp_path) as embedded:
        os.kill(valkey_of(embedded), signal.SIGKILL)
        assert embedded.process.wait(30) == 2
        assert "The store stopped by itself" in embedded.log()
        assert "Traceback" not in embedded.log()


def test_what_was_answered_outlives_its_store_that_was_killed_where_that_is_asked_for(tmp_path: Path) -> None:
    with running_embedded(tmp_path, store={"durability": "fsync"}) as embedded:
        server = embedded.server
        client = server.register()
        revoked, kept = (server.tokens(client.id, resource=embedded.resource) for _ in range(2))
        data = {"token": revoked["refresh_token"], "client_id": client.id}
        assert server.http.post(f"{server.issuer}/revoke", data=data).status_code == 200
        os.kill(valkey_of(embedded), signal.SIGKILL)
        embedded.process.wait(30)
    port = embedded.settings.listen.port
    with running_embedded(tmp_path, port=port, store={"durability": "fsync"}) as again:
        assert again.server.refresh(client.id, kept["refresh_token"]).status_code == 200
        assert again.server.refresh(client.id, revoked["refresh_token"]).json()["error"] == "invalid_grant"


def test_after_a_process_that_was_killed_the_next_one_goes_on_with_its_store(tmp_path: Path) -> None:
    with running_embedded(tmp_path) as killed:
        name, port, valkey = killed.server.add_user(), killed.settings.listen.port, valkey_of(killed)
        killed.process.kill()
        killed.process.wait(10)
        if sys.platform == "linux":
            eventually(lambda: not runs(valkey), "the store outlived its process")
    with running_embedded(tmp_path, port=port) as next_one:
        assert name in next_one.operate("users", "list").stdout


def test_with_a_store_elsewhere_it_starts_none_and_needs_no_folder(tmp_path: Path, store_url: str) -> None:
    # Other tests have come from the same address to the same store.
    limits = {"failures_per_5_minutes_and_address": 100_000}
    registration = {"per_hour_and_address": 100_000}
    with running_embedded(tmp_path, store={"url": store_url}, sign_in=limits, registration=registration) as embedded:
        assert call(embedded, embedded.access_token()).status_code == 200
        assert not (tmp_path / "data").exists()
        assert embedded.operate("users", "list").returncode == 0


def refusal(environment: dict[str, str], folder: Path, command: list[str] = COMMAND) -> str:
    """What it says when it cannot begin."""
    ended = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 2, ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    return ended.stderr


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "issuer: is required"),
        ({"issuer": "http://tools.example.com"}, "issuer: must be https (plain http is accepted for"),
        ({"issuer": "https://tools.example.com/"}, "issuer: must not end with a slash"),
        ({"master_key": "short"}, "must be 32 random bytes in base64"),
        ({"store": {"url": "postgres://x"}}, "store.url: must be redis://host:6379/0"),
        ({"store": {"password": "x"}}, "store.password: is for a store elsewhere, and none is named"),
        ({"store": {"durability": "replicated"}}, "store.durability: replicated needs a store with a replica"),
        ({"introspection": {"client_id": "x"}}, "introspection: no such setting"),
        ({"required_scopes": ["mcp:none"]}, "required_scopes.0: mcp:none is not among scopes"),
        ({"resource": "https://other.example.com/mcp"}, "resource must begin with https://tools.example.com"),
        ({"resource": "https://tools.example.com/token"}, "/token is a path of the authorization server"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_sentence_that_the_services_have(
    tmp_path: Path, settings: dict[str, object], sentence: str
) -> None:
    usable = {"issuer": "https://tools.example.com"} if settings else {}
    environment = environment_of(tmp_path, **{**usable, **settings})
    if "master_key" in settings:
        (tmp_path / "secrets" / "master_key").unlink()
    if not settings:
        environment["KEYSTILE_LOG__LEVEL"] = "info"
    assert sentence in refusal(environment, tmp_path)


def test_without_a_master_key_it_does_not_start(tmp_path: Path) -> None:
    environment = environment_of(tmp_path, issuer="https://tools.example.com")
    (tmp_path / "secrets" / "master_key").unlink()
    assert "master_key: is required" in refusal(environment, tmp_path)


def test_another_master_key_than_the_stores_is_refused(tmp_path: Path) -> None:
    with running_embedded(tmp_path) as embedded:
        environment = embedded.environment
    (tmp_path / "secrets" / "master_key").write_text("A" * 43 + "=")
    assert "master_key is not the one that the keys in the store" in refusal(environment, tmp_path)


def test_two_processes_do_not_share_a_folder(embedded: Embedded, tmp_path: Path) -> None:
    environment = environment_of(tmp_path, issuer="https://tools.example.com", listen={"port": 0}, metrics={"port": 0})
    environment["KEYSTILE_DATA_DIR"] = embedded.environment["KEYSTILE_DATA_DIR"]
    assert "Another Keystile is using" in refusal(environment, tmp_path)


def test_without_settings_it_serves_no_other_machine(tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")}
    for variable in ("KEYSTILE_LISTEN__HOST", "KEYSTILE_METRICS__HOST"):
        said = refusal({**environment, variable: "0.0.0.0"}, tmp_path)
        assert "Without settings this serves the machine it runs on alone" in said


def test_commands_on_a_server_that_does_not_run_say_so(tmp_path: Path) -> None:
    environment = {
        **environment_of(tmp_path, issuer="https://tools.example.com"),
        "KEYSTILE_TOPOLOGY": "embedded",
    }
    said = refusal(environment, tmp_path, [COMMAND[0], "-m", "keystile_auth", "users", "list"])
    assert "No server runs on" in said


def test_it_serves_tools_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "own_tools.py").write_text(
        "from mcp.server.mcpserver import MCPServer\n\nmcp = MCPServer('own')\n\n\n"
        "@mcp.tool()\ndef echo(text: str) -> str:\n    return text.upper()\n"
    )
    with running_embedded(tmp_path, command=[*COMMAND, "--app", "own_tools:mcp"]) as embedded:
        answer = call(embedded, embedded.access_token())
        assert (answer.status_code, "HELLO" in answer.text) == (200, True), answer.text


def test_tools_that_there_are_not_are_said_in_a_sentence(tmp_path: Path) -> None:
    environment = environment_of(tmp_path, issuer="https://tools.example.com", listen={"port": 0}, metrics={"port": 0})
    assert "app: there is no module nowhere" in refusal({**environment, "KEYSTILE_APP": "nowhere:mcp"}, tmp_path)
    assert not (tmp_path / "data" / "valkey" / "socket").exists()
