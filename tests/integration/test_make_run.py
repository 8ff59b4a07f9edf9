"""What a newcomer does: `make run`, then a stock MCP client that signs in, calls tools, refreshes, is revoked.

And the same with `keystile dev`, whose two services are processes of their own.
"""

import signal
import stat
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import httpx2
import pytest

from tests.assistant import CALLBACK, Assistant
from tests.document_host import DocumentHost, running_document_host
from tests.made_run import MadeRun, Topology, answers, free_ports, made_run, sign_in
from tests.person import Person, forms

ACCESS_TOKEN_SECONDS = 3
CACHE_SECONDS = 1
JOBS = "long_running"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DocumentHost]:
    """Where a client's metadata document is."""
    with running_document_host(tmp_path_factory.mktemp("web")) as server:
        yield server


TOPOLOGIES: tuple[Topology, ...] = ("embedded", "separate")


@pytest.fixture(scope="module", params=TOPOLOGIES)
def run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, web: DocumentHost
) -> Iterator[MadeRun]:
    """Lifetimes short enough to see tokens expire."""
    cache = {"KEYSTILE_INTROSPECTION__CACHE_SECONDS": str(CACHE_SECONDS)} if request.param == "separate" else {}
    with made_run(
        tmp_path_factory.mktemp("run") / "data",
        request.param,
        free_ports(4),
        KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=str(ACCESS_TOKEN_SECONDS),
        KEYSTILE_METADATA_DOCUMENTS__ALLOW_LOOPBACK="true",
        KEYSTILE_METADATA_DOCUMENTS__CA_FILE=str(web.ca_file),
        **cache,
    ) as running:
        yield running


async def _revocation_to_arrive(run: MadeRun) -> None:
    """Wait as long as a revoked token may still be accepted: in one process, not at all."""
    if run.topology == "separate":
        await anyio.sleep(CACHE_SECONDS + 0.2)


@pytest.fixture
def person(run: MadeRun) -> Iterator[Person]:
    """The demo user in a new browser."""
    person = Person(run.issuer, "demo", run.password)
    yield person
    person.browser.close()


@pytest.fixture(params=["registration", "metadata document"])
def assistant(request: pytest.FixtureRequest, run: MadeRun, person: Person, web: DocumentHost) -> Assistant:
    """A client that registers (RFC 7591), and one whose id is the URL of its metadata document."""
    if request.param == "registration":
        return Assistant(run, person)
    url = web.client(
        client_name="Newcomer's assistant",
        redirect_uris=[CALLBACK],
        grant_types=["authorization_code", "refresh_token"],
        token_endpoint_auth_method="none",
    )
    return Assistant(run, person, client_metadata_url=url)


async def test_a_stock_client_goes_from_the_first_401_to_a_tool_and_is_shut_out_once_revoked(
    assistant: Assistant, run: MadeRun
) -> None:
    async with assistant.connected() as client:
        echoed = await client.call_tool("echo", {"text": "hello"})
        assert echoed.structured_content == {"result": "hello"}
        assert assistant.sign_ins == 1

        await anyio.sleep(ACCESS_TOKEN_SECONDS + 0.5)
        assert (await client.call_tool("add", {"a": 2, "b": 3})).structured_content == {"result": 5}
        assert assistant.sign_ins == 1
        assert len(assistant.storage.history) >= 2

    first, last = assistant.storage.history[0], assistant.storage.history[-1]
    assert first.refresh_token != last.refresh_token
    assert assistant.storage.client is not None
    assert (assistant.storage.client.client_id == assistant.client_metadata_url) == bool(assistant.client_metadata_url)

    async with httpx2.AsyncClient(timeout=10) as http:
        metadata = (await http.get(f"{run.issuer}/.well-known/oauth-authorization-server")).json()
        assert last.refresh_token is not None
        data = {"client_id": assistant.storage.client.client_id, "token": last.refresh_token}
        assert (await http.post(metadata["revocation_endpoint"], data=data)).status_code == 200
        await _revocation_to_arrive(run)
        answer = await http.post(run.resource, headers={"Authorization": f"Bearer {last.access_token}"}, json={})
        assert answer.status_code == 401
        assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_a_stock_client_steps_up_when_a_tool_needs_a_scope_it_has_not(run: MadeRun, person: Person) -> None:
    assistant = Assistant(run, person)
    async with assistant.connected() as client:
        await client.call_tool("echo", {"text": "hello"})
        assert assistant.storage.tokens is not None
        assert assistant.storage.tokens.scope == "mcp:basic"
        result = await client.call_tool(JOBS, {"seconds": 0.05, "steps": 2})
        assert not result.is_error
    assert assistant.sign_ins == 2
    assert set((assistant.storage.tokens.scope or "").split()) == {"mcp:basic", "mcp:jobs"}


async def test_ending_a_connection_on_the_account_page_shuts_its_client_out(run: MadeRun, person: Person) -> None:
    assistant = Assistant(run, person)
    async with assistant.connected() as client:
        await client.call_tool("echo", {"text": "hello"})
    tokens = assistant.storage.tokens
    assert tokens is not None
    page = person.get(f"{run.issuer}/account")
    assert "Newcomer&#39;s assistant" in page.text
    for each in forms(page):
        if each.action.endswith("/account/end-connection"):
            person.submit(each)
    await _revocation_to_arrive(run)
    async with httpx2.AsyncClient(timeout=10) as http:
        answer = await http.post(run.resource, headers={"Authorization": f"Bearer {tokens.access_token}"}, json={})
        assert answer.status_code == 401
        data = {"grant_type": "refresh_token", "refresh_token": tokens.refresh_token or ""}
        assert assistant.storage.client is not None
        data["client_id"] = assistant.storage.client.client_id or ""
        assert (await http.post(f"{run.issuer}/token", data=data)).json()["error"] == "invalid_grant"


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_ctrl_c_stops_everything_and_a_second_start_keeps_users_clients_and_grants(
    tmp_path: Path, topology: Topology
) -> None:
    folder, ports = tmp_path / "data", free_ports(4)
    with httpx2.Client(timeout=10) as http:
        with made_run(folder, topology, ports) as first:
            password, client = first.password, sign_in(first, http)
            # make itself ends by the signal it got, as a shell expects of it; what it started stops in order before.
            assert first.interrupt() in {0, -signal.SIGINT, 128 + signal.SIGINT}
            assert first.output.read_text().rstrip().endswith("Stopped.")
            assert not answers(first.issuer)
            assert not answers(first.resource)
        with made_run(folder, topology, ports) as second:
            person = Person(second.issuer, "demo", password)
            assert "Stays" in person.sign_in(person.get(f"{second.issuer}/account")).text
            person.browser.close()
            data = {"grant_type": "refresh_token", "client_id": client.client_id, "refresh_token": client.refresh_token}
            assert http.post(f"{second.issuer}/token", data=data).status_code == 200
            headers = {"Authorization": f"Bearer {client.access_token}"}
            assert http.post(second.resource, headers=headers, json={}).status_code == 400  # let in, and no message


def test_what_it_keeps_is_for_its_user_alone(run: MadeRun) -> None:
    for path in [run.folder, *run.folder.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == 0o700 if path.is_dir() or path.is_socket() else mode == 0o600, f"{path} has mode {mode:o}"


def _refused(folder: Path, topology: Topology, ports: list[int], **environment: str) -> str:
    with pytest.raises(AssertionError), made_run(folder, topology, ports, **environment):
        pass
    return max(folder.parent.glob("*.out"), key=lambda path: path.stat().st_mtime).read_text()


def test_a_port_in_use_is_said_in_one_sentence(run: MadeRun, tmp_path: Path) -> None:
    taken = urlsplit(run.issuer).port
    assert taken is not None
    said = _refused(tmp_path / "data", run.topology, [taken, taken, *free_ports(2)])
    other = {"embedded": "KEYSTILE_LISTEN__PORT", "separate": "--auth-port"}[run.topology]
    assert f"Port {taken} on 127.0.0.1 is in use: stop what listens there, or choose another with {other}" in said
    assert "Traceback" not in said


def test_a_folder_in_use_is_said_in_one_sentence(run: MadeRun) -> None:
    said = _refused(run.folder, run.topology, free_ports(4))
    assert f"Another Keystile is using {run.folder}" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_a_folder_that_cannot_be_written_is_said_in_one_sentence(tmp_path: Path, topology: Topology) -> None:
    # Below a file, where not even root can make a folder.
    (tmp_path / "file").touch()
    said = _refused(tmp_path / "x", topology, free_ports(4), KEYSTILE_DATA_DIR=str(tmp_path / "file" / "data"))
    assert f"Cannot write to {tmp_path / 'file' / 'data'}" in said
    assert "Traceback" not in said
