"""No secret is written anywhere but to the one it is for: not to logs, audit, metrics, traces or the store."""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import generate_latest
from redis import Redis

from keystile_auth.clients.authentication import JWT_BEARER, PresentedCredentials
from keystile_auth.endpoints.browser import Browser
from keystile_auth.grants.authorization_code import CodeRequest
from keystile_auth.grants.presented import Presented
from keystile_auth.grants.refresh_token import RefreshRequest
from keystile_auth.grants.token_response import TokenResponse
from keystile_auth.store.grant import Code, Grant, NewAccessToken
from keystile_auth.store.held_grants import HeldGrant
from keystile_auth.store.users import User
from keystile_auth.tokens import opaque
from keystile_auth.tokens.access_token import PreparedAccessToken, Subject
from keystile_auth.tokens.master_key import MasterKey
from keystile_common.settings import StoreSettings
from tests.auth_server import (
    CALLBACK,
    MASTER_KEY,
    OTHER_SECRET,
    PASSWORD,
    RESOURCE_SECRET,
    AuthServer,
    Pkce,
    running_auth_server,
)
from tests.client_key import ClientKey, key_set
from tests.person import Person, form, forms
from tests.stores import valkey


@dataclass
class Seen:
    """Everything the server wrote, by where, and the secrets that must not be in it."""

    places: dict[str, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def keep(self, name: str, value: str | None) -> str:
        assert value, name
        self.secrets[name] = value
        return value


def drive(server: AuthServer, seen: Seen) -> None:
    """Every step that has a secret in it, in success and in failure."""
    issuer, person = server.issuer, server.person()
    confidential = server.register(token_endpoint_auth_method="client_secret_basic")
    secret = seen.keep("client secret", confidential.secret)
    seen.keep("registration token", confidential.registration_token)
    pkce = Pkce()
    seen.keep("code verifier", pkce.verifier)

    page = person.get(server.authorization_url(confidential.id, pkce))
    seen.keep("cookie before sign-in", next(iter(person.browser.cookies.values())))
    seen.keep("CSRF token before sign-in", form(page, "/login").fields["csrf"])
    wrong = seen.keep("wrong password", "a wrong but secret password")
    person.submit(form(page, "/login"), username=person.username, password=wrong)
    person.submit(
        form(page, "/login"), username=seen.keep("password typed as a name", "hunter2-as-a-name"), password="x"
    )
    page = person.sign_in(page)
    seen.keep("cookie", next(iter(person.browser.cookies.values())))
    seen.keep("CSRF token", form(page, "/consent").fields["csrf"])
    callback = person.submit(form(page, "/consent"), decision="allow").headers["location"]
    code = seen.keep("code", callback.split("code=")[1].split("&")[0])

    token = {"grant_type": "authorization_code", "code": code, "code_verifier": pkce.verifier}
    bad_secret = seen.keep("wrong client secret", "wrong-client-secret-value")
    assert server.token((confidential.id, bad_secret), **token).status_code == 401
    assert server.token((confidential.id, secret), **{**token, "code_verifier": "x" * 43}).status_code == 400
    tokens = server.token((confidential.id, secret), **token).json()
    seen.keep("access token", tokens["access_token"])
    refresh = seen.keep("refresh token", tokens["refresh_token"])
    second = server.token((confidential.id, secret), grant_type="refresh_token", refresh_token=refresh).json()
    seen.keep("second access token", second["access_token"])
    third = server.token(
        (confidential.id, secret),
        grant_type="refresh_token",
        refresh_token=seen.keep("second refresh token", second["refresh_token"]),
    ).json()
    assert server.is_active(seen.keep("third access token", third["access_token"]))
    server.http.post(f"{issuer}/introspect", data={"token": third["access_token"]}, auth=("mcp", bad_secret))
    server.http.post(f"{issuer}/introspect?token={tokens['access_token']}", auth=("mcp", RESOURCE_SECRET))
    server.http.get(f"{issuer}/token?code={code}&client_secret={secret}")
    server.http.get(f"{issuer}/authorize?client_id={confidential.id}&redirect_uri={code}")
    server.http.post(f"{issuer}/register", json={"redirect_uris": [f"https://a.example/#{secret}"]})
    data = {"token": third["access_token"]}
    assert server.http.post(f"{issuer}/revoke", data=data, auth=(confidential.id, secret)).status_code == 200
    assert server.token((confidential.id, secret), grant_type="refresh_token", refresh_token=refresh).status_code == 400
    assert server.token((confidential.id, secret), **token).status_code == 400
    bearer = {"Authorization": f"Bearer {confidential.registration_token}"}
    assert server.http.get(confidential.registration_uri, headers=bearer).status_code == 200
    drive_signing_client(server, person, seen)
    account = person.get(f"{issuer}/account")
    person.submit(next(each for each in forms(account) if each.action.endswith("/sign-out")))


def drive_signing_client(server: AuthServer, person: Person, seen: Seen) -> None:
    keys = ClientKey.generate()
    signing = server.register(token_endpoint_auth_method="private_key_jwt", jwks=key_set(keys))
    assertion = seen.keep("assertion", keys.assertion(signing.id, server.issuer))
    signed = {"client_assertion_type": JWT_BEARER, "client_assertion": assertion}
    pkce = Pkce()
    code = seen.keep("second code", server.code(signing.id, pkce, person))
    answer = server.redeem(signing.id, code, pkce, **signed)
    seen.keep("token of the signing client", answer.json()["access_token"])
    assert server.redeem(signing.id, code, pkce, **signed).status_code == 401
    seen.keep("unredeemed code", server.code(signing.id, Pkce(), person))


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    folder = tmp_path_factory.mktemp("scan")
    spans, provider, seen = InMemorySpanExporter(), TracerProvider(), Seen()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    log = logging.FileHandler(folder / "log")
    # The clients of this test run in the same process, and log what they send.
    log.addFilter(lambda record: not record.name.startswith(("httpx", "httpcore", "h11")))
    logging.getLogger().addHandler(log)
    before = logging.getLogger().level
    logging.getLogger().setLevel(logging.DEBUG)
    try:
        with valkey(folder) as store, running_auth_server(store.url, tracer=provider.get_tracer("t")) as server:
            drive(server, seen)
            with Redis(host="127.0.0.1", port=store.port) as redis:
                private = redis.get("ks:signing-keys")
                seen.places["store"] = dump(redis)
            assert private
            seen.places["audit"] = server.audit_lines.getvalue()
            seen.places["metrics"] = generate_latest(server.metrics.registry).decode()
            seen.secrets["private signing key"] = private_part(private.decode())
        seen.places["append-only file"] = "".join(
            each.read_text(errors="replace") for each in (store.folder / "appendonlydir").iterdir()
        )
    finally:
        logging.getLogger().setLevel(before)
        logging.getLogger().removeHandler(log)
        log.close()
    seen.places["traces"] = "\n".join(span.to_json() for span in spans.get_finished_spans())
    seen.places["log"] = (folder / "log").read_text()
    seen.secrets |= {
        "password": PASSWORD,
        "master key": MASTER_KEY,
        "resource secret": RESOURCE_SECRET,
        "other secret": OTHER_SECRET,
    }
    yield seen
    provider.shutdown()


def private_part(document: str) -> str:
    stored = json.loads(document)["keys"][0]
    key = json.loads(MasterKey(b"k" * 32).decrypt("signing key encryption", stored["private"]))
    return str(key["d"])


def dump(redis: Redis) -> str:
    """Every key and value, as text."""
    client: Any = redis
    read = {
        b"string": client.get,
        b"hash": client.hgetall,
        b"set": client.smembers,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
        b"list": lambda key: client.lrange(key, 0, -1),
        b"stream": client.xrange,
    }
    return "\n".join(f"{key!r} {read[client.type(key)](key)!r}" for key in client.scan_iter(count=1000))


def test_the_scan_has_something_to_look_at(seen: Seen) -> None:
    assert len(seen.secrets) > 20
    assert set(seen.places) == {"store", "audit", "metrics", "append-only file", "traces", "log"}
    assert "ks:session:" in seen.places["append-only file"]
    assert "ks:user:" in seen.places["store"]
    assert "token.issued" in seen.places["audit"]
    assert "keystile_token_requests_total" in seen.places["metrics"]
    assert "POST /token" in seen.places["traces"]


@pytest.mark.parametrize("place", ["store", "append-only file", "audit", "metrics", "traces", "log"])
def test_no_secret_is_in(seen: Seen, place: str) -> None:
    found = [name for name, secret in seen.secrets.items() if secret in seen.places[place]]
    assert found == []


def test_what_holds_a_secret_does_not_show_it_when_it_is_printed() -> None:
    grant = opaque.new_grant_id()
    code, access = opaque.new_code(grant), opaque.new_access_token(grant)
    refresh = opaque.RefreshTokens(MasterKey(b"k" * 32)).first(grant)
    user = User("u", "name", "the-secret", disabled=False, created=0, credential="the-secret")
    bound = Code("the-secret", "the-secret", CALLBACK, redeemed=False)
    held = HeldGrant(
        Grant(grant, "live", "u", "c", "r", (), 0, None, bound, has_refresh_token=True), "the-secret", user
    )
    stored = NewAccessToken("the-secret", 60, "r", "the-secret")
    texts = ["the-secret", code.text, access.text, refresh.text]
    holders = [
        code,
        access,
        refresh,
        PresentedCredentials("client_secret_post", "c", secret="the-secret", assertion="the-secret"),
        user,
        held,
        Presented(code, held),
        CodeRequest(Presented(code, held), "the-secret", CALLBACK, None, "a"),
        RefreshRequest(Presented(refresh, held), None, None, "a"),
        PreparedAccessToken(stored, access, Subject("u", None, "c"), "https://issuer.example", None),
        TokenResponse("the-secret", 1, "s", "the-secret", "u", "r", "g"),
        Browser("the-secret", None, None),
        MasterKey(b"the-secret"),
        StoreSettings(password="the-secret"),  # type: ignore[arg-type]
        opaque.RefreshTokens(MasterKey(b"the-secret")),
    ]
    for holder in holders:
        for shown in (repr(holder), str(holder), f"{holder}"):
            assert not any(text in shown for text in texts), type(holder)


def test_settings_show_no_secret(store_url: str, tmp_path: Path) -> None:
    with running_auth_server(store_url) as server:
        shown = repr(server.settings) + str(server.settings) + server.settings.model_dump_json()
    assert not any(secret in shown for secret in (MASTER_KEY, RESOURCE_SECRET, OTHER_SECRET))


def test_an_unexpected_error_is_a_500_without_a_stack_or_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What is in the store is not what we wrote; the error that comes of it has the value in its text."""
    with valkey(tmp_path) as store, running_auth_server(store.url) as server:
        client, person = server.register(), server.person()
        person.sign_in(person.get(f"{server.issuer}/login"))
        with store.client as redis:
            for key in redis.scan_iter("ks:user:*"):
                redis.hset(key, "created", "a-canary-value")
        with caplog.at_level(logging.DEBUG):
            page = person.browser.get(f"{server.issuer}/account")
            answer = person.browser.get(f"{server.issuer}/account", headers={"Accept": "application/json"})
        assert server.refresh(client.id, "x").status_code == 400
    assert (page.status_code, answer.status_code) == (500, 500)
    assert answer.json() == {"error": "server_error", "error_description": "the server made a mistake"}
    for text in (page.text, answer.text, caplog.text):
        assert "a-canary-value" not in text
        assert "Traceback" not in text
    assert page.headers["x-frame-options"] == "DENY"
