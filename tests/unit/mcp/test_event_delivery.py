"""A process that shares no store knows what was pushed to itself, within bounds."""

import pytest

from keystile_common.metrics import McpMetrics
from keystile_mcp import event_delivery
from keystile_mcp.event_delivery import Holders, OwnDelivery
from keystile_mcp.revoked import Name, Revoked
from keystile_mcp.security_events import SecurityEvent
from keystile_mcp.streams import OpenStreams
from tests.unit.mcp.samples import ISSUER, NOW


def event(jti: str) -> SecurityEvent:
    return SecurityEvent(jti, (Revoked(Name(ISSUER, "subject", "alice"), NOW),), begins=False, issued=NOW)


async def test_an_event_is_known_again_until_too_many_others_have_come(
    metrics: McpMetrics, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_delivery, "REMEMBERED", 3)
    holders = Holders({ISSUER: OpenStreams()}, metrics, lambda: NOW)
    async with OwnDelivery(holders) as delivery:
        assert [await delivery.deliver(ISSUER, event(jti), 60) for jti in ("1", "1", "2", "3")] == [
            True,
            False,
            True,
            True,
        ]
        # The same name at another issuer is another event.
        assert await delivery.deliver("https://b.example", event("3"), 60)
        assert not await delivery.deliver(ISSUER, event("2"), 60)
        assert await delivery.deliver(ISSUER, event("1"), 60)


async def test_who_holds_tokens_of_another_issuer_is_told_nothing(metrics: McpMetrics) -> None:
    own, other = OpenStreams(), OpenStreams()
    holders = Holders({ISSUER: own, "https://b.example": other}, metrics, lambda: NOW)
    async with OwnDelivery(holders) as delivery:
        await delivery.deliver(ISSUER, event("1"), 60)
    assert (own.changes, other.changes) == (1, 0)
