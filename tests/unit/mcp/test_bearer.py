"""The bearer check by itself: what it reads, refuses, hands on and keeps back."""

import asyncio
import io
from typing import Any

import pytest
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser

from keystile_common.audit import AuditLog, StreamSink
from keystile_common.metrics import McpMetrics
from keystile_mcp.bearer import Bearer
from keystile_mcp.challenge import Challenge
from keystile_mcp.denials import Denials, client_address
from keystile_mcp.introspection_answer import ActiveToken
from keystile_mcp.introspection_cache import IntrospectionCache
from keystile_mcp.streams import OpenStreams
from keystile_mcp.validation import TokenValidator
from tests.unit.mcp.samples import NOW, FrozenClock, active_token, make_settings


class Deployment:
    """A bearer check over one known token, with an application that notes what it was given."""

    def __init__(self, clock: FrozenClock, metrics: McpMetrics) -> None:
        self.clock = clock
        self.known: dict[str, ActiveToken] = {"good": active_token()}
        self.scopes: list[Any] = []
        self.audit_text = io.StringIO()
        settings = make_settings()
        cache = IntrospectionCache(self._introspect, settings.issuers[0], metrics, clock)
        validator = TokenValidator(cache, settings, metrics, clock)
        denials = Denials(AuditLog([StreamSink("stdout", self.audit_text)], metrics.audit), settings.resource, clock)
        challenge = Challenge("https://m", [])
        self.bearer = Bearer(self._app, validator, challenge, denials, streams=OpenStreams(), clock=clock)

    async def _introspect(self, token: str) -> ActiveToken | None:
        return self.known.get(token)

    async def _app(self, scope: Any, _receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        await send({"type": "http.response.body", "body": b""})

    async def status(self, *headers: tuple[bytes, bytes], query: bytes = b"") -> int:
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> Any:
            raise AssertionError("the bearer check needs no body")

        scope = {
            "type": "http",
            "method": "POST",
            "path": "/mcp",
            "query_string": query,
            "headers": list(headers),
            "client": ("192.0.2.1", 5000),
        }
        await self.bearer(scope, receive, send)
        status = sent[0]["status"]
        assert isinstance(status, int)
        return status

    async def status_of(self, token: str) -> int:
        return await self.status((b"authorization", f"Bearer {token}".encode()))


@pytest.fixture
def deployment(clock: FrozenClock, metrics: McpMetrics) -> Deployment:
    return Deployment(clock, metrics)


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
async def test_the_scheme_has_no_case(deployment: Deployment, scheme: bytes) -> None:
    assert await deployment.status((b"authorization", scheme + b" good")) == 200


async def test_what_is_protected_sees_the_user_and_not_the_token(deployment: Deployment) -> None:
    await deployment.status((b"accept", b"*/*"), (b"authorization", b"Bearer good"))
    [scope] = deployment.scopes
    assert isinstance(scope["user"], AuthenticatedUser)
    assert scope["user"].access_token.subject == "alice"
    assert scope["auth"].scopes == ["mcp:basic"]
    assert scope["headers"] == [(b"accept", b"*/*")]


async def test_the_user_is_made_once_for_as_long_as_the_answer_is_kept(deployment: Deployment) -> None:
    for _ in range(2):
        await deployment.status_of("good")
    first, second = deployment.scopes
    assert first["user"] is second["user"]


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"issuer": "https://other.example"}, "wrong_issuer"),
        ({"resource": None}, "wrong_audience"),
        ({"expires_at": NOW}, "expired"),
        ({"not_before": NOW + 31}, "not_yet_valid"),
    ],
)
async def test_the_authorization_servers_word_is_compared_with_this_resource(
    deployment: Deployment, metrics: McpMetrics, changes: dict[str, Any], result: str
) -> None:
    deployment.known["good"] = active_token(**changes)
    for _ in range(2):  # from the authorization server, and from the cache
        assert await deployment.status_of("good") == 401
    labels = {"method": "introspection", "result": result}
    assert metrics.registry.get_sample_value("keystile_token_validations_total", labels) == 2
    assert f'"reason":"{result}"' in deployment.audit_text.getvalue()
    assert '"sub":"alice"' in deployment.audit_text.getvalue()


async def test_a_clock_a_little_behind_the_authorization_servers_refuses_nobody(deployment: Deployment) -> None:
    deployment.known["good"] = active_token(not_before=NOW + 30)
    assert await deployment.status_of("good") == 200


async def test_a_token_ends_while_its_answer_is_kept(deployment: Deployment) -> None:
    deployment.known["good"] = active_token(expires_at=NOW + 10)
    assert await deployment.status_of("good") == 200
    deployment.clock.now += 10
    assert await deployment.status_of("good") == 401


async def test_a_token_begins_while_its_answer_is_kept(deployment: Deployment) -> None:
    deployment.known["good"] = active_token(not_before=NOW + 40)
    assert await deployment.status_of("good") == 401
    deployment.clock.now += 10
    assert await deployment.status_of("good") == 200


async def test_an_audit_event_names_the_clients_address_where_it_is_known(deployment: Deployment) -> None:
    await deployment.status_of("junk")
    assert '"ip":"192.0.2.1"' in deployment.audit_text.getvalue()
    assert client_address({"client": None}) is None


async def test_audit_events_of_refusals_come_back_when_the_flood_is_over(deployment: Deployment) -> None:
    for _ in range(60):
        await deployment.status_of("junk")
    assert deployment.audit_text.getvalue().count("\n") == 50
    deployment.clock.now += 1
    for _ in range(60):
        await deployment.status_of("junk")
    assert deployment.audit_text.getvalue().count("\n") == 60


async def test_nothing_is_left_running_when_the_application_fails(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(scope: Any, receive: Any, send: Any) -> None:
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        raise RuntimeError("broken tool")

    monkeypatch.setattr(deployment.bearer, "_app", fail)
    with pytest.raises(RuntimeError):
        await deployment.status_of("good")
    await asyncio.sleep(0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
