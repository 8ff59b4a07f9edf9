"""`keystile doctor` as it is typed: certificates, exit codes, both ways to write, and no secret in either."""

import asyncio
import json
import os
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.auth_server import RESOURCE_SECRET
from tests.integration.test_tls import SECRET, Site, running
from tests.made_run import free_ports, made_run, sign_in
from tests.tls import Authority

PROGRAMS = {
    "keystile": ["-m", "keystile_auth", "doctor"],
    "common": ["-m", "keystile_common.doctor"],
}


def doctor(*arguments: str, program: str = "keystile") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, *PROGRAMS[program], *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTILE_")}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)


def findings(*arguments: str) -> tuple[int, dict[str, dict[str, Any]]]:
    done = doctor(*arguments, "-o", "json")
    report = json.loads(done.stdout)
    return done.returncode, {each["check"]: each for each in report["findings"]}


def problems(found: dict[str, dict[str, Any]]) -> set[str]:
    return {name for name, each in found.items() if each["outcome"] == "problem"}


@contextmanager
def speaking_tls(certificate: tuple[bytes, bytes], folder: Path) -> Iterator[int]:
    """A server that shows a certificate, and has nothing else to say. Answers its port."""
    (folder / "tls.crt").write_bytes(certificate[0])
    (folder / "tls.key").write_bytes(certificate[1])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.crt", folder / "tls.key")
    (port,) = free_ports(1)
    loop, ready = asyncio.new_event_loop(), threading.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1000)
        writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()

    async def serve() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", port, ssl=context):
            ready.set()
            await asyncio.to_thread(stopped.wait)

    stopped = threading.Event()
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    loop.set_exception_handler(lambda *_: None)
    thread.start()
    assert ready.wait(5)
    try:
        yield port
    finally:
        stopped.set()
        thread.join(5)
        loop.close()


@pytest.fixture(scope="module")
def site(store_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running(Site(tmp_path_factory.mktemp("site"), Authority(), {"url": store_url})) as site:
        yield site


@pytest.fixture
def given(site: Site, tmp_path: Path) -> list[str]:
    """Everything that may be given, for the site."""
    (tmp_path / "client").write_text(SECRET + "\n")
    (tmp_path / "introspection").write_text(RESOURCE_SECRET)
    return [
        site.resource,
        f"--ca-file={site.secret('mcp').folder / 'ca.crt'}",
        "--register",
        "--client-id=job",
        f"--client-secret-file={tmp_path / 'client'}",
        "--introspect-as=mcp",
        f"--secret-file={tmp_path / 'introspection'}",
    ]


def test_behind_tls_everything_is_ok_but_certificates_that_end_soon(given: list[str]) -> None:
    code, found = findings(*given)
    told = {name: each["seen"] for name, each in found.items() if each["outcome"] not in {"ok", "unknown"}}
    assert told.keys() == {"certificate", "issuer-certificate"}, told
    assert "2 more days" in told["certificate"]
    assert {name for name, each in found.items() if each["outcome"] == "unknown"} <= {"audience", "plain-http"}
    assert code == 0


def test_the_table_is_for_people_and_shows_no_secret_nor_colour(given: list[str]) -> None:
    done = doctor(*given)
    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    starts = {line.index("ok ") for line in lines if line.split()[1:2] == ["ok"]}
    assert len(starts) == 1
    assert "2 warnings, 0 problems" in lines[-1]
    assert "\x1b" not in done.stdout
    for secret in (SECRET, RESOURCE_SECRET, "kst_"):
        assert secret not in done.stdout + done.stderr


def test_an_authority_that_is_not_trusted_is_found(site: Site) -> None:
    code, found = findings(site.resource)
    assert (code, problems(found)) == (1, {"tls"})
    assert "--ca-file" in found["tls"]["advice"]


@pytest.mark.parametrize(
    ("names", "ends_in", "seen"),
    [
        (("localhost",), timedelta(days=-1), "has expired"),
        (("elsewhere.example.com",), timedelta(days=60), "is for another name"),
    ],
)
def test_a_certificate_that_clients_refuse_is_found(
    tmp_path: Path, names: tuple[str], ends_in: timedelta, seen: str
) -> None:
    authority = Authority()
    (tmp_path / "ca.crt").write_bytes(authority.pem)
    with speaking_tls(authority.pair(*names, ends_in=ends_in), tmp_path) as port:
        code, found = findings(f"https://localhost:{port}/mcp", f"--ca-file={tmp_path / 'ca.crt'}")
    assert (code, problems(found)) == (1, {"tls"})
    assert seen in found["tls"]["seen"]
    assert found["tls"]["advice"]


def test_a_port_of_plain_http_in_an_https_url_is_found(tmp_path: Path) -> None:
    with made_run(tmp_path / "k", "embedded") as run:
        code, found = findings(run.resource.replace("http://", "https://"))
    assert (code, problems(found)) == (1, {"tls"})
    assert "http port" in found["tls"]["advice"]


@pytest.mark.parametrize("program", PROGRAMS)
def test_it_tells_people_with_a_made_run_that_all_is_well(tmp_path: Path, program: str) -> None:
    with made_run(tmp_path / "k", "embedded") as run, httpx2.Client() as http:
        token = tmp_path / "token"
        token.write_text(sign_in(run, http).access_token)
        done = doctor(run.resource, f"--token-file={token}", "--register", program=program)
    assert done.returncode == 0, done.stdout
    assert "0 warnings, 0 problems" in done.stdout
    assert token.read_text() not in done.stdout


def test_a_server_that_is_not_there_could_not_be_asked() -> None:
    code, found = findings(f"http://127.0.0.1:{free_ports(1)[0]}/mcp")
    assert (code, problems(found), found["connection"]["outcome"]) == (2, {"connection"}, "problem")


def test_a_name_that_nobody_has_could_not_be_asked() -> None:
    code, found = findings("https://keystile-doctor.invalid/mcp", "--timeout=3")
    assert (code, problems(found)) == (2, {"dns"})
    assert "DNS record" in found["dns"]["advice"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["ftp://example.com/mcp"], "URL must be"),
        (["https://"], "URL must be"),
        (["https://[::1/mcp"], "URL must be"),
        (["https://example.com/\x1b[2J"], "URL must be"),
        (["https://me:secret@example.com/mcp"], "no user"),
        (["https://example.com/mcp#x"], "no fragment"),
        (["https://example.com/mcp", "--timeout=0"], "at most 10"),
        (["https://example.com/mcp", "--timeout=soon"], "invalid"),
        (["https://example.com/mcp", "--client-id=job"], "come together"),
        (["https://example.com/mcp", "--token-file=/nowhere"], "cannot read"),
        (["https://example.com/mcp", "--ca-file=/nowhere"], "cannot read"),
        (["https://example.com/mcp", "--insecure"], "unrecognized"),
        ([], "required"),
    ],
)
def test_what_cannot_be_used_is_a_sentence_and_exit_code_2(arguments: list[str], sentence: str) -> None:
    done = doctor(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("content", ["", "two\nlines", "\u00e9", "x" * 70_000])
def test_a_file_that_holds_no_token_is_refused_by_name_and_not_shown(tmp_path: Path, content: str) -> None:
    file = tmp_path / "token"
    file.write_text(content)
    done = doctor("https://example.com/mcp", f"--token-file={file}")
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert not content or content not in done.stderr


def test_help_says_what_the_exit_codes_mean() -> None:
    done = doctor("--help")
    assert done.returncode == 0
    assert "exit code is 0" in " ".join(done.stdout.split())
