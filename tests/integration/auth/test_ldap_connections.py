"""How a directory is reached: TLS or not at all, a pool, servers that are away, cut, mute or not themselves."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from keystile_auth.identity import Identity, ldap
from keystile_auth.identity.answer import IdentityUnavailableError, SignInRefusedError
from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError
from tests.auth_server import MASTER_KEY, AuthServer
from tests.openldap import (
    GROUPS,
    PASSWORD,
    PEOPLE,
    SERVICE,
    SERVICE_PASSWORD,
    SUFFIX,
    TEAMS,
    OpenLdap,
    running_openldap,
)
from tests.operator import RESOURCES
from tests.person import Person
from tests.stores import settings_of
from tests.tcp_proxy import tcp_proxy
from tests.tls import Authority

pytestmark = [pytest.mark.docker, pytest.mark.ldap]

START_TLS = b"1.3.6.1.4.1.1466.20037"
# Extended responses of message 1: success, and protocolError.
_SUCCESS = bytes.fromhex("300c02010178070a010004000400")
_NO_TLS = bytes.fromhex("300c02010178070a010204000400")


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenLdap]:
    """One container for the tests of this file."""
    with running_openldap(tmp_path_factory.mktemp("directory")) as server:
        yield server


@pytest.fixture(scope="module")
def ada(directory: OpenLdap) -> str:
    return directory.person()


@contextmanager
def identity(settings: dict[str, Any]) -> Iterator[Any]:
    """The directory as the server has it."""
    made = ldap.directory("corp", IdentitySettings.model_validate(settings))
    try:
        yield made
    finally:
        made.close()


def sign_in(settings: dict[str, Any], name: str, password: str = PASSWORD) -> Identity | None:
    """Start, and one sign-in."""

    async def work(corp: Any) -> Identity | None:
        await corp.start()
        found: Identity | None = await corp.authenticate(name, password)
        return found

    with identity(settings) as corp:
        return asyncio.run(work(corp))


def by_start_tls(directory: OpenLdap, port: int, **changes: Any) -> dict[str, Any]:
    """With StartTLS a connection is one; with ldaps there is one before it, which shows that the server is awake."""
    return directory.settings(urls=[f"ldap://127.0.0.1:{port}"], start_tls=True, **changes)


@contextmanager
def listener(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on loopback that does `answer` with each connection; gives its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.settimeout(20)
                    answer(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(server.getsockname()[1])
        server.shutdown(socket.SHUT_RDWR)
    thread.join(timeout=5)


def test_starttls_is_done_before_a_password_is_sent(directory: OpenLdap, ada: str) -> None:
    with tcp_proxy(directory.port) as proxy:
        settings = directory.settings(urls=[f"ldap://127.0.0.1:{proxy.port}"], start_tls=True)
        assert sign_in(settings, ada)
        seen = bytes(proxy.seen)
    assert START_TLS in seen
    for secret in (PASSWORD, SERVICE_PASSWORD, SERVICE, ada):
        assert secret.encode() not in seen


def test_without_tls_only_this_machine_is_asked(directory: OpenLdap, ada: str) -> None:
    assert sign_in(directory.settings(urls=[f"ldap://127.0.0.1:{directory.port}"], ca_file=None), ada)


@pytest.mark.parametrize("answer", [_NO_TLS, _SUCCESS, b"\x15\x03\x03\x00\x02\x02\x28", b""], ids=repr)
def test_a_server_that_refuses_starttls_or_only_says_yes_hears_no_password(directory: OpenLdap, answer: bytes) -> None:
    heard = bytearray()

    def downgrade(connection: socket.socket) -> None:
        heard.extend(connection.recv(65536))
        connection.sendall(answer)
        connection.settimeout(0.5)
        try:
            heard.extend(connection.recv(65536))
        except OSError:
            return

    with listener(downgrade) as port:
        settings = directory.settings(urls=[f"ldap://127.0.0.1:{port}"], start_tls=True, connect_timeout_seconds=1)
        with pytest.raises(IdentityUnavailableError):
            sign_in(settings, "ada")
    assert START_TLS in heard
    assert SERVICE_PASSWORD.encode() not in heard
    assert SERVICE.encode() not in heard


@pytest.mark.parametrize("start_tls", [False, True])
def test_a_certificate_of_another_authority_or_another_host_is_refused(
    directory: OpenLdap, tmp_path: Path, capfd: pytest.CaptureFixture[str], *, start_tls: bool
) -> None:
    other = tmp_path / "other.crt"
    other.write_bytes(Authority().pem)
    scheme, port = ("ldap", directory.port) if start_tls else ("ldaps", directory.tls_port)
    # The same server by another address, which is not in its certificate.
    changes: list[dict[str, Any]] = [
        {"ca_file": str(other)},
        {"ca_file": None},
        {"urls": [f"{scheme}://127.0.0.2:{port}"]},
    ]
    for change in changes:
        settings = {"urls": [f"{scheme}://127.0.0.1:{port}"], "start_tls": start_tls, **change}
        with pytest.raises(IdentityUnavailableError):
            sign_in(directory.settings(**settings), "ada")
    assert SERVICE_PASSWORD not in "".join(capfd.readouterr())


def test_what_a_machine_says_of_certificates_elsewhere_does_not_count(
    directory: OpenLdap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "other.crt").write_bytes(Authority().pem)
    (tmp_path / "ldaprc").write_text("TLS_REQCERT never\n")
    program = (
        "import asyncio, json, sys; from keystile_auth.identity import ldap; "
        "from keystile_auth.identity.settings import IdentitySettings; "
        "made = ldap.directory('corp', IdentitySettings.model_validate(json.loads(sys.argv[1]))); "
        "asyncio.run(made.authenticate('ada', 'x'))"
    )
    settings = json.dumps(directory.settings(ca_file=str(tmp_path / "other.crt")))
    answer = subprocess.run(
        [sys.executable, "-c", program, settings],
        cwd=tmp_path, env={**os.environ, "LDAPTLS_REQCERT": "never"}, capture_output=True, text=True, check=False,
        timeout=60,
    )  # fmt: skip
    assert "IdentityUnavailableError" in answer.stderr


def test_a_wrong_bind_password_stops_the_start_with_the_dn_and_without_the_password(
    directory: OpenLdap, store_url: str, free_port: int
) -> None:
    values = directory.settings(bind_password="not the password of it")
    answer = subprocess.run(
        [sys.executable, "-m", "keystile_auth", "serve"],
        env={
            **os.environ,
            "KEYSTILE_ISSUER": f"http://127.0.0.1:{free_port}",
            "KEYSTILE_MASTER_KEY": MASTER_KEY,
            "KEYSTILE_STORE": json.dumps(settings_of(store_url)),
            "KEYSTILE_RESOURCES": json.dumps(RESOURCES),
            "KEYSTILE_LISTEN__PORT": str(free_port),
            "KEYSTILE_METRICS__PORT": "0",
            "KEYSTILE_IDENTITY": json.dumps({"corp": values}),
        },
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert answer.returncode == 2, answer.stderr
    assert f"identity.corp.bind_password: the directory refuses to bind {SERVICE}" in answer.stderr
    assert "not the password of it" not in answer.stdout + answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"user_base": f"ou=nowhere,{SUFFIX}"}, "identity.corp.user_base: the directory has no ou=nowhere"),
        ({"user_base": f"ou=hidden,{SUFFIX}"}, "identity.corp.user_base: .* or does not show it to cn=keystile"),
        ({"group_base": f"ou=nowhere,{SUFFIX}"}, "identity.corp.group_base: the directory has no"),
        ({"user_filter": "(&(uid={username})(x=\\zz))"}, "identity.corp.user_filter: is no filter"),
        ({"bind_dn": f"cn=nobody,{SUFFIX}"}, "identity.corp.bind_password: the directory refuses to bind cn=nobody"),
        ({"bind_dn": "no dn"}, "identity.corp.bind_password: the directory refuses to bind no dn"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_the_directory_cannot_do_with_the_settings_stops_the_start(
    directory: OpenLdap, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(SettingsError, match=sentence):
        sign_in(directory.settings(**changes), "ada")


def test_a_directory_that_is_away_at_the_start_is_named_by_the_page_and_works_once_it_is_there(
    start_auth_server: Callable[..., AuthServer], directory: OpenLdap, ada: str, free_port: int
) -> None:
    server = start_auth_server(identity={"corp": directory.settings(urls=[f"ldaps://127.0.0.1:{free_port}"])})
    person = Person(server.issuer, ada, PASSWORD)
    server.people.append(person)
    page = person.sign_in(person.get(f"{server.issuer}/account"))
    assert page.status_code == 503
    assert "Corp does not answer at the moment. Try again in a minute." in page.text
    with tcp_proxy(directory.tls_port, free_port):
        assert person.sign_in(page).status_code == 200
    reasons = [event["reason"] for event in server.events("user.login")]
    assert reasons == ["corp unavailable", "corp success"]


def test_a_refresh_waits_for_a_directory_that_is_away(
    start_auth_server: Callable[..., AuthServer], directory: OpenLdap, ada: str
) -> None:
    now = [time.time()]
    with tcp_proxy(directory.tls_port) as proxy:
        settings = directory.settings(urls=[f"ldaps://127.0.0.1:{proxy.port}"])
        server = start_auth_server(identity={"corp": settings}, clock=lambda: now[0])
        client, person = server.register().id, Person(server.issuer, ada, PASSWORD)
        server.people.append(person)
        issued = server.tokens(client, person)
        port = proxy.port
    now[0] += 61
    assert server.refresh(client, issued["refresh_token"]).status_code == 503
    with tcp_proxy(directory.tls_port, port):
        assert server.refresh(client, issued["refresh_token"]).status_code == 200


def test_a_connection_that_was_cut_is_replaced_once_and_nobody_notices(directory: OpenLdap, ada: str) -> None:
    with tcp_proxy(directory.port) as proxy:

        async def work(corp: Any) -> None:
            await corp.start()
            subject = (await corp.authenticate(ada, PASSWORD)).subject
            for _ in range(3):
                proxy.cut()
                before = proxy.accepted
                assert (await corp.find(subject)).subject == subject
                assert proxy.accepted == before + 1
                assert (await corp.find(subject)).subject == subject
                assert proxy.accepted == before + 1

        with identity(by_start_tls(directory, proxy.port)) as corp:
            asyncio.run(work(corp))


def test_many_at_once_share_the_pool_and_each_bind_as_a_person_has_a_connection_that_is_closed(
    directory: OpenLdap, ada: str
) -> None:
    with tcp_proxy(directory.port) as proxy:

        async def work(corp: Any) -> None:
            await corp.start()
            most = 0
            tries = [asyncio.create_task(corp.authenticate(ada, PASSWORD)) for _ in range(40)]
            while not all(each.done() for each in tries):
                most = max(most, proxy.open)
                await asyncio.sleep(0.002)
            assert {each.result().username for each in tries} == {ada}
            # Each thread has one of ours, and one that is a person's.
            assert most <= 2 * 3 + 1
            await asyncio.sleep(0.2)
            assert proxy.open <= 3

        settings = by_start_tls(directory, proxy.port, pool_size=3)
        with identity(settings) as corp:
            asyncio.run(work(corp))
        time.sleep(0.2)
        assert proxy.open == 0


def test_a_server_that_says_nothing_more_is_given_up_in_time(directory: OpenLdap, ada: str) -> None:
    with tcp_proxy(directory.tls_port) as proxy:
        settings = directory.settings(
            urls=[f"ldaps://127.0.0.1:{proxy.port}"], connect_timeout_seconds=1, operation_timeout_seconds=1
        )

        async def work(corp: Any) -> None:
            await corp.start()
            proxy.is_mute = True
            began = time.monotonic()
            with pytest.raises(IdentityUnavailableError):
                await corp.authenticate(ada, PASSWORD)
            assert time.monotonic() - began < 9
            proxy.is_mute = False
            assert await corp.authenticate(ada, PASSWORD)

        with identity(settings) as corp:
            asyncio.run(work(corp))


@pytest.mark.parametrize(
    ("scheme", "answer"), [("ldaps", b""), ("ldap", b""), ("ldap", _SUCCESS)], ids=["ldaps", "StartTLS", "in TLS"]
)
def test_a_server_that_accepts_and_is_silent_is_given_up_in_time_and_holds_no_thread(
    directory: OpenLdap, scheme: str, answer: bytes
) -> None:
    ended = threading.Event()

    def be_silent(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(answer)
        ended.wait(20)

    with listener(be_silent) as port:
        settings = directory.settings(
            urls=[f"{scheme}://127.0.0.1:{port}"], start_tls=scheme == "ldap", connect_timeout_seconds=1,
            operation_timeout_seconds=1,
        )  # fmt: skip
        began = time.monotonic()
        with identity(settings) as corp, pytest.raises(IdentityUnavailableError):
            asyncio.run(corp.authenticate("ada", PASSWORD))
        while any(each.name.startswith("ldap-corp") for each in threading.enumerate()):
            assert time.monotonic() - began < 6
            time.sleep(0.05)
        ended.set()


def test_more_than_can_be_asked_at_once_wait_no_longer_than_for_an_answer(
    directory: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystile_auth.identity.ldap.identity._ANSWER_SECONDS", 1.5)

    async def work(corp: Any) -> list[Any]:
        return await asyncio.gather(*(corp.authenticate("ada", "x") for _ in range(8)), return_exceptions=True)

    with tcp_proxy(directory.tls_port) as proxy:
        proxy.is_mute = True
        settings = directory.settings(urls=[f"ldaps://127.0.0.1:{proxy.port}"], pool_size=1)
        began = time.monotonic()
        with identity(settings) as corp:
            answers = asyncio.run(work(corp))
        assert time.monotonic() - began < 5
        assert {type(each) for each in answers} == {IdentityUnavailableError}


@pytest.mark.parametrize(
    "noise", [b"\x00" * 4096, b"\x30\x84\x7f\xff\xff\xff", b"HTTP/1.1 200 OK\r\n\r\n", b""], ids=repr
)
def test_a_server_that_speaks_something_else_is_away(directory: OpenLdap, noise: bytes) -> None:
    def answer(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(noise)

    with listener(answer) as port:
        settings = directory.settings(
            urls=[f"ldap://127.0.0.1:{port}"], ca_file=None, connect_timeout_seconds=1, operation_timeout_seconds=1
        )
        with pytest.raises(IdentityUnavailableError):
            sign_in(settings, "ada")


def test_another_server_of_the_directory_is_asked_where_one_is_away(
    directory: OpenLdap, ada: str, free_port: int
) -> None:
    urls = [f"ldaps://127.0.0.1:{free_port}", f"ldaps://127.0.0.1:{directory.tls_port}"]
    assert sign_in(directory.settings(urls=urls), ada)


def test_a_bind_password_that_no_longer_holds_is_not_tried_again_and_again(directory: OpenLdap, ada: str) -> None:
    other = directory.add(f"cn=other,{SUFFIX}", "inetOrgPerson", cn="other", sn="other", userPassword=SERVICE_PASSWORD)
    with tcp_proxy(directory.port) as proxy:

        async def work(corp: Any) -> None:
            await corp.start()
            directory.set(other, userPassword="another password now")
            proxy.cut()
            before = proxy.accepted
            for _ in range(5):
                with pytest.raises(IdentityUnavailableError):
                    await corp.authenticate(ada, PASSWORD)
            assert proxy.accepted == before + 1

        with identity(by_start_tls(directory, proxy.port, bind_dn=other)) as corp:
            asyncio.run(work(corp))


def test_referrals_lead_nowhere(directory: OpenLdap, ada: str) -> None:
    asked: list[bytes] = []
    with listener(lambda connection: asked.append(connection.recv(65536))) as port:
        ref = f"ldap://127.0.0.1:{port}/ou=elsewhere,dc=example,dc=com"
        dn = directory.add(f"ou=elsewhere,{PEOPLE}", "referral", "extensibleObject", ou="elsewhere", ref=ref)
        try:
            assert sign_in(directory.settings(), ada)
            with pytest.raises(SignInRefusedError):
                sign_in(directory.settings(), "nobody")
            with pytest.raises(IdentityUnavailableError):
                sign_in(directory.settings(user_base=f"ou=below,{dn}", connect_timeout_seconds=1), ada)
        finally:
            with directory.administrator() as connection:
                import ldap.controls.simple as controls  # noqa: PLC0415

                connection.delete_ext_s(dn, serverctrls=[controls.ManageDSAITControl()])
    assert not asked


def test_somebody_in_more_groups_than_are_read_is_told_that_the_directory_does_not_answer(
    directory: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystile_auth.identity.ldap.groups.MAX_GROUPS", 2)
    ada = directory.person()
    for number in range(3):
        directory.group(f"many-{number}-{ada}", directory.dn(ada))
    with pytest.raises(IdentityUnavailableError):
        sign_in(directory.settings(group_base=GROUPS), ada)


def test_a_name_that_countless_groups_have_costs_nobody_the_other_names(
    directory: OpenLdap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keystile_auth.identity.ldap.groups.MAX_GROUPS", 2)
    ada = directory.person()
    for name, members in (("own", [directory.dn(ada)]), ("taken", [directory.dn(ada)])):
        directory.group(f"{name}-{ada}", *members)
    for number in range(3):
        below = directory.add(f"ou=of-{number}-{ada},{TEAMS}", "organizationalUnit", ou=f"of-{number}-{ada}")
        directory.group(f"taken-{ada}", base=below)
    answer = sign_in(directory.settings(group_base=SUFFIX), ada)
    assert answer is not None
    assert answer.groups == (f"own-{ada}",)


def test_a_subject_that_several_have_or_that_nobody_can_read_is_nobody_s(directory: OpenLdap) -> None:
    one, other = directory.person(employeeNumber="7"), directory.person(employeeNumber="7")
    settings = directory.settings(subject_attribute="employeeNumber")

    async def find(corp: Any, subject: str) -> Any:
        return await corp.find(subject)

    with identity(settings) as corp, pytest.raises(IdentityUnavailableError):
        asyncio.run(find(corp, "7"))
    directory.delete(directory.dn(other))
    with identity(settings) as corp:
        assert asyncio.run(find(corp, "7")).username == one
        assert asyncio.run(find(corp, "8")) is None
    with pytest.raises(IdentityUnavailableError):
        sign_in(directory.settings(subject_attribute="title"), one)


def test_a_password_is_needed_before_a_directory_is_asked_at_all(directory: OpenLdap, free_port: int) -> None:
    with identity(directory.settings(urls=[f"ldaps://127.0.0.1:{free_port}"])) as corp:
        for name, password in (("ada", ""), ("", "x")):
            with pytest.raises(SignInRefusedError, match="no password"):
                asyncio.run(corp.authenticate(name, password))
