"""Nobody makes this server ask an address of their choice (CVE-2026-1180, CVE-2026-4366 and their like)."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from pydantic import ValidationError

from keystile_auth.settings import MetadataDocumentSettings
from keystile_common.outbound import OutboundError, PublicFetcher
from tests.auth_server import CALLBACK, AuthServer, Pkce, running_auth_server
from tests.client_key import ClientKey, authenticate, key_set
from tests.document_host import DocumentHost

LOOPBACK_SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "127.0.0.1.",
    "127.0.0.2",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "127.0x0.0.1",
    "0177.0.0.1",
    "017700000001",
    "0",
    "0.0.0.0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:7f00:0001]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "127%2e0.0.1",
]
# Characters that IDNA turns into digits and full stops: "127。0。0。1" is 127.0.0.1 to some parsers.
UNICODE_SPELLINGS = ["127。0。0。1", "127．0．0．1", "①②⑦.0.0.1", "１２７.0.0.1"]


@contextmanager
def canary() -> Iterator[tuple[int, list[str]]]:
    """A listener on every loopback address that notes each connection; nobody should come."""
    visits: list[str] = []
    listeners: list[socket.socket] = []
    for family, host in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")):
        listener = socket.socket(family, socket.SOCK_STREAM)
        port = listeners[0].getsockname()[1] if listeners else 0
        try:
            listener.bind((host, port))
        except OSError:  # a machine without IPv6
            listener.close()
            continue
        listener.listen()
        listeners.append(listener)

    def watch(listener: socket.socket) -> None:
        while True:
            try:
                connection, address = listener.accept()
            except OSError:
                return
            visits.append(str(address))
            connection.close()

    threads = [threading.Thread(target=watch, args=(each,), daemon=True) for each in listeners]
    for thread in threads:
        thread.start()
    try:
        yield listeners[0].getsockname()[1], visits
    finally:
        for listener in listeners:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        for thread in threads:
            thread.join(timeout=5)


@pytest.fixture(scope="module")
def strict_server(store_url: str) -> Iterator[AuthServer]:
    """As in production: loopback is refused."""
    documents = {"allow_loopback": False, "fetches_per_minute_and_address": 100_000}
    with running_auth_server(store_url, metadata_documents=documents) as server:
        yield server


@pytest.fixture(scope="module")
def trusting_server(store_url: str, origin: DocumentHost) -> Iterator[AuthServer]:
    """As in development: loopback is let through, so that the stranger's web server can be reached."""
    documents = {"allow_loopback": True, "ca_file": str(origin.ca_file), "fetches_per_minute_and_address": 100_000}
    with running_auth_server(store_url, metadata_documents=documents) as server:
        yield server


def authorize(server: AuthServer, client_id: str) -> Any:
    return server.http.get(server.authorization_url(client_id, Pkce()))


def test_the_canary_sees_who_comes() -> None:
    with canary() as (port, visits):
        socket.create_connection(("127.0.0.1", port)).close()
        socket.create_connection(("127.0.0.2", port)).close()
        deadline = threading.Event()
        deadline.wait(0.1)
        assert len(visits) == 2


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS + UNICODE_SPELLINGS)
def test_cve_2026_1180_no_client_id_url_leads_to_loopback(strict_server: AuthServer, host: str) -> None:
    with canary() as (port, visits):
        for scheme in ("https", "http"):
            answer = authorize(strict_server, f"{scheme}://{host}:{port}/client.json")
            assert answer.status_code == 400
            assert "location" not in answer.headers
        assert visits == []


@pytest.mark.parametrize("host", LOOPBACK_SPELLINGS + UNICODE_SPELLINGS)
def test_cve_2026_1180_no_jwks_uri_leads_to_loopback(strict_server: AuthServer, host: str) -> None:
    keys = ClientKey.generate()
    with canary() as (port, visits):
        document = {
            "redirect_uris": [CALLBACK],
            "token_endpoint_auth_method": "private_key_jwt",
            "jwks_uri": f"https://{host}:{port}/keys",
        }
        answer = strict_server.http.post(f"{strict_server.issuer}/register", json=document)
        if answer.status_code == 201:
            client_id = answer.json()["client_id"]
            assertion = keys.assertion(client_id, strict_server.issuer)
            answer = authenticate(strict_server, client_id, assertion)
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        else:
            assert answer.status_code == 400
        assert visits == []


@pytest.mark.parametrize(
    "field",
    [
        "client_uri",
        "logo_uri",
        "tos_uri",
        "policy_uri",
        "sector_identifier_uri",
        "initiate_login_uri",
        "request_uris",
        "post_logout_redirect_uris",
        "backchannel_logout_uri",
        "redirect_uris",
    ],
)
def test_no_uri_of_a_registration_is_fetched(strict_server: AuthServer, field: str, auth_server: AuthServer) -> None:
    for server in (strict_server, auth_server):
        with canary() as (port, visits):
            uri = f"http://127.0.0.1:{port}/callback"
            is_list = field.endswith("uris")
            document = {"redirect_uris": [CALLBACK], "token_endpoint_auth_method": "none"}
            document[field] = [uri] if is_list else uri
            registered = server.http.post(f"{server.issuer}/register", json=document)
            assert registered.status_code == 201, registered.text
            redirect_uri = uri if field == "redirect_uris" else CALLBACK
            url = server.authorization_url(registered.json()["client_id"], Pkce(), redirect_uri=redirect_uri)
            assert server.http.get(url).status_code == 303
            assert visits == []


def test_cve_2026_4366_a_redirect_of_a_metadata_document_is_not_followed(
    trusting_server: AuthServer, origin: DocumentHost
) -> None:
    with canary() as (port, visits):
        target = origin.client()
        origin.serve(origin.at("/moved.json"), b"", 302, Location=f"http://127.0.0.1:{port}/client.json")
        origin.serve(origin.at("/moved-within.json"), b"", 301, Location=target)
        for path in ("/moved.json", "/moved-within.json"):
            assert authorize(trusting_server, origin.at(path)).status_code == 400
        assert visits == []
        assert origin.fetched(target) == 0


def test_cve_2026_4366_a_redirect_of_a_jwks_uri_is_not_followed(
    trusting_server: AuthServer, origin: DocumentHost
) -> None:
    keys = ClientKey.generate()
    origin.serve(origin.at("/real-keys"), key_set(keys))
    origin.serve(origin.at("/moved-keys"), b"", 307, Location=origin.at("/real-keys"))
    client = trusting_server.register(token_endpoint_auth_method="private_key_jwt", jwks_uri=origin.at("/moved-keys"))
    assertion = keys.assertion(client.id, trusting_server.issuer)
    assert authenticate(trusting_server, client.id, assertion).status_code == 401
    assert origin.fetched(origin.at("/real-keys")) == 0


def test_a_metadata_document_of_more_than_5_kib_is_refused_however_long_it_says_it_is(
    trusting_server: AuthServer, origin: DocumentHost
) -> None:
    url = origin.client(client_name="x" * 100, padding="y" * 5 * 1024)
    assert authorize(trusting_server, url).status_code == 400


def test_what_is_cached_as_a_key_set_is_never_read_as_a_client(
    trusting_server: AuthServer, origin: DocumentHost
) -> None:
    """Whoever may put any JSON into the cache of key sets could otherwise write clients of their own."""
    victim = trusting_server.register(client_name="Victim")
    forged = {
        "id": victim.id, "name": "Forged", "source": "operator", "redirect_uris": ["javascript:alert(1)"],
        "auth_methods": ["none"], "grant_types": ["authorization_code", "client_credentials"], "client_uri": None,
        "jwks": None, "jwks_uri": None, "scopes": ["mcp:basic"], "resources": None, "secret_hash": None,
        "registration_token_hash": None, "issued": 0, "keys": [],
    }  # fmt: skip
    url = origin.serve(origin.at("/forged.json"), forged)
    client = trusting_server.register(token_endpoint_auth_method="private_key_jwt", jwks_uri=url)
    assertion = ClientKey.generate().assertion(client.id, trusting_server.issuer)
    assert authenticate(trusting_server, client.id, assertion).status_code == 401
    assert origin.fetched(url) > 0
    answer = trusting_server.http.get(
        trusting_server.authorization_url(url, Pkce(), redirect_uri="javascript:alert(1)")
    )
    assert answer.status_code == 400
    assert "location" not in answer.headers


def test_a_client_whose_keys_cannot_be_had_does_not_make_us_ask_for_them_without_end(
    trusting_server: AuthServer, origin: DocumentHost
) -> None:
    client = trusting_server.register(token_endpoint_auth_method="private_key_jwt", jwks_uri=origin.at("/no-keys-here"))
    for _ in range(40):
        assertion = ClientKey.generate().assertion(client.id, trusting_server.issuer)
        assert authenticate(trusting_server, client.id, assertion).status_code == 401
    assert origin.fetched(origin.at("/no-keys-here")) <= 11


async def fetch(
    url: str,
    *,
    allow_loopback: bool = False,
    origin: DocumentHost | None = None,
    private_hosts: dict[str, list[str]] | None = None,
) -> bytes:
    ca_file = origin.ca_file if origin else None
    async with PublicFetcher(
        allow_loopback=allow_loopback, timeout_seconds=2, ca_file=ca_file, private_hosts=private_hosts
    ) as fetcher:
        return (await fetcher.get(url, max_bytes=1024)).body


Answers = Callable[[list[list[str]]], list[str]]


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """A name server in a stranger's hands: each look-up of a name gets the next list of addresses."""

    def script(answers: list[list[str]]) -> list[str]:
        asked: list[str] = []

        def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
            asked.append(host)
            return [
                (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, port))
                for address in answers[min(len(asked), len(answers)) - 1]
            ]

        monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
        return asked

    return script


@pytest.mark.parametrize("addresses", [["127.0.0.1"], ["0.0.0.0"], ["8.8.8.8", "127.0.0.1"], ["169.254.169.254"]])
async def test_a_name_that_resolves_to_any_internal_address_is_refused(resolver: Answers, addresses: list[str]) -> None:
    asked = resolver([addresses])
    with canary() as (port, visits):
        with pytest.raises(OutboundError, match="not public"):
            await fetch(f"https://rebinding.example:{port}/x")
        assert asked == ["rebinding.example"]
        assert visits == []


async def test_the_connection_goes_to_the_address_that_was_checked_though_the_name_changes_its_answer(
    resolver: Answers, origin: DocumentHost
) -> None:
    """DNS rebinding: were the name looked up again for the connection, it would lead to 0.0.0.0."""
    origin.serve(origin.at("/x"), b"{}")
    asked = resolver([["127.0.0.1"], ["0.0.0.0"]])
    assert await fetch(origin.at("/x"), allow_loopback=True, origin=origin) == b"{}"
    assert asked == ["localhost"]
    before = origin.connections
    with pytest.raises(OutboundError, match="not public"):
        await fetch(origin.at("/x"), allow_loopback=True, origin=origin)
    assert origin.connections == before


@pytest.mark.parametrize("host", UNICODE_SPELLINGS)
async def test_a_host_that_idna_turns_into_an_internal_address_is_refused(host: str) -> None:
    with canary() as (port, visits):
        with pytest.raises(OutboundError):
            await fetch(f"https://{host}:{port}/x")
        assert visits == []


# Loopback stands for a site's network here: settings refuse it, the fetcher takes any.
ON_SITE = {"localhost": ["127.0.0.0/8"], "documents.corp.example": ["10.1.0.0/16"]}


async def test_a_host_on_site_is_fetched_from_its_network(origin: DocumentHost) -> None:
    origin.serve(origin.at("/x"), b"{}")
    assert await fetch(origin.at("/x"), origin=origin, private_hosts=ON_SITE) == b"{}"
    assert await fetch(origin.at("/x").replace("localhost", "LOCALHOST"), origin=origin, private_hosts=ON_SITE) == b"{}"


@pytest.mark.parametrize(
    "host",
    ["stranger.example", "localhost.stranger.example", "localhost.", "xlocalhost", "documents.corp.example"],
)
async def test_no_other_host_is_fetched_from_the_network_of_a_host_on_site(resolver: Answers, host: str) -> None:
    resolver([["127.0.0.1"]])
    with canary() as (port, visits):
        with pytest.raises(OutboundError, match="not public"):
            await fetch(f"https://{host}:{port}/x", private_hosts=ON_SITE)
        assert visits == []


@pytest.mark.parametrize("host", [spelling for spelling in LOOPBACK_SPELLINGS if spelling.lower() != "localhost"])
async def test_no_address_is_fetched_from_the_network_of_a_host_on_site(host: str) -> None:
    with canary() as (port, visits):
        for url in (
            f"https://{host}:{port}/x",
            f"https://localhost@{host}:{port}/x",
            f"https://localhost\\@{host}:{port}/",
        ):
            with pytest.raises(OutboundError):
                await fetch(url, private_hosts=ON_SITE)
        assert visits == []


@pytest.mark.parametrize(
    "addresses",
    [["10.2.0.1"], ["169.254.169.254"], ["10.1.0.1", "127.0.0.1"], ["10.1.0.1", "192.168.0.1"], ["0.0.0.0"]],
)
async def test_a_host_on_site_has_no_private_address_beyond_its_own_networks(
    resolver: Answers, addresses: list[str]
) -> None:
    resolver([addresses])
    with pytest.raises(OutboundError, match="not public"):
        await fetch("https://documents.corp.example/x", private_hosts=ON_SITE)


async def test_the_name_of_a_host_on_site_that_changes_its_answer_leads_to_the_address_that_was_checked(
    resolver: Answers, origin: DocumentHost
) -> None:
    origin.serve(origin.at("/x"), b"{}")
    asked = resolver([["127.0.0.1"], ["169.254.169.254"]])
    assert await fetch(origin.at("/x"), origin=origin, private_hosts=ON_SITE) == b"{}"
    assert asked == ["localhost"]
    with pytest.raises(OutboundError, match="not public"):
        await fetch(origin.at("/x"), origin=origin, private_hosts=ON_SITE)


async def test_a_redirect_of_a_host_on_site_is_not_followed(origin: DocumentHost) -> None:
    origin.serve(origin.at("/there"), b"{}")
    before = origin.fetched(origin.at("/there"))
    origin.serve(origin.at("/gone"), b"", 302, Location=origin.at("/there"))
    with pytest.raises(OutboundError, match="no redirect"):
        await fetch(origin.at("/gone"), origin=origin, private_hosts=ON_SITE)
    assert origin.fetched(origin.at("/there")) == before


@pytest.mark.parametrize(
    ("host", "networks", "sentence"),
    [
        ("documents.corp.example", [], "at least 1"),
        ("documents.corp.example", ["0.0.0.0/0"], "must lie within one of"),
        ("documents.corp.example", ["10.0.0.0/7"], "must lie within one of"),
        ("documents.corp.example", ["127.0.0.0/8"], "must lie within one of"),
        ("documents.corp.example", ["169.254.169.254"], "must lie within one of"),
        ("documents.corp.example", ["::ffff:10.0.0.0/104"], "must lie within one of"),
        ("documents.corp.example", ["fe80::/10"], "must lie within one of"),
        ("documents.corp.example", ["10.1.0.1/16"], "must be an address or network"),
        ("10.1.0.1", ["10.1.0.0/16"], "must be a host name"),
        ("0x0a010001", ["10.1.0.0/16"], "must be a host name"),
        ("*.corp.example", ["10.1.0.0/16"], "must be a host name"),
        ("Documents.corp.example", ["10.1.0.0/16"], "must be a host name"),
        ("https://documents.corp.example", ["10.1.0.0/16"], "must be a host name"),
        ("documents.corp.example.", ["10.1.0.0/16"], "must be a host name"),
    ],
)
def test_settings_name_hosts_on_site_one_by_one_and_in_private_networks_only(
    host: str, networks: list[str], sentence: str
) -> None:
    with pytest.raises(ValidationError, match=sentence):
        MetadataDocumentSettings(private_hosts={host: networks})


def test_no_host_is_on_site_unless_settings_say_so() -> None:
    assert MetadataDocumentSettings().private_hosts == {}
