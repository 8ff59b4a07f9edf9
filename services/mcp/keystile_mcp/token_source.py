"""How tokens are checked here."""

from collections.abc import Sequence
from typing import NamedTuple

from opentelemetry.trace import Tracer

from keystile_common.health import Check
from keystile_common.metrics import McpMetrics
from keystile_common.store import connect
from keystile_mcp.event_delivery import Holders, OwnDelivery, SharedDelivery
from keystile_mcp.hearing import Revocable
from keystile_mcp.introspection import IntrospectionClient
from keystile_mcp.introspection_cache import Clock, IntrospectionCache
from keystile_mcp.issuers import Issuer
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.pushed_event_store import PushedEventStore
from keystile_mcp.pushed_events import PushedEvents, Transmitter
from keystile_mcp.readiness import AuthorizationServerCheck
from keystile_mcp.revocations import Revocations
from keystile_mcp.settings import McpSettings
from keystile_mcp.signed_tokens import SignedTokens
from keystile_mcp.token_info import TokenInfoClient
from keystile_mcp.trusted_tokens import IssuerTokens, TrustedTokens
from keystile_mcp.validation import TokenClient, TokenSource


class Tokens(NamedTuple):
    """Who is asked about tokens, what keeps the answers, and what says whether asking has worked.

    And who tells of revocations: nobody where tokens are looked up each time. `pushed` is where others send them.
    """

    client: TokenClient
    source: TokenSource
    check: Check
    revocations: tuple[Revocations, ...] = ()
    pushed: PushedEvents | None = None


class _OfIssuer(NamedTuple):
    tokens: Tokens
    held: Revocable


def token_source(settings: McpSettings, metrics: McpMetrics, tracer: Tracer, clock: Clock) -> Tokens:
    """How tokens are checked, as the settings say of each issuer.

    An older issuer that is away holds no rollout back: only the main one counts for readiness.

    Args:
        settings: as loaded.
        metrics: what it counts in.
        tracer: what it traces with.
        clock: Unix time in seconds.
    """
    made = [_of_issuer(issuer, metrics, tracer, clock) for issuer in settings.issuers]
    several = list(zip(settings.issuers, made, strict=True))
    pushed = _pushed(
        settings, [(issuer, each.held) for issuer, each in several if issuer.pushes], metrics, tracer, clock
    )
    first = made[0].tokens
    if len(made) == 1:
        return first._replace(pushed=pushed)
    trusted = TrustedTokens([IssuerTokens(issuer, each.tokens.client, each.tokens.source) for issuer, each in several])
    heard = tuple(revocations for each in made for revocations in each.tokens.revocations)
    return Tokens(trusted, trusted, first.check, heard, pushed)


def _of_issuer(issuer: Issuer, metrics: McpMetrics, tracer: Tracer, clock: Clock) -> _OfIssuer:
    if issuer.method == "jwks":
        keys = IssuerKeys(issuer, metrics.jwks)
        signed = SignedTokens(keys, issuer, clock)
        return _OfIssuer(Tokens(keys, signed, keys.check, _heard(issuer, metrics, signed, clock)), signed)
    is_google = issuer.provider.name == "google"
    client = TokenInfoClient(issuer, tracer) if is_google else IntrospectionClient(issuer, tracer)
    cache = IntrospectionCache(client.introspect, issuer, metrics, clock)
    check = AuthorizationServerCheck(client)
    return _OfIssuer(Tokens(client, cache, check, _heard(issuer, metrics, cache, clock)), cache)


def _heard(issuer: Issuer, metrics: McpMetrics, held: Revocable, clock: Clock) -> tuple[Revocations, ...]:
    return (Revocations(issuer, metrics, [held], clock),) if issuer.polls else ()


def _pushed(
    settings: McpSettings,
    held: Sequence[tuple[Issuer, Revocable]],
    metrics: McpMetrics,
    tracer: Tracer,
    clock: Clock,
) -> PushedEvents | None:
    if not held:
        return None
    holders = Holders({issuer.identifier: each for issuer, each in held}, metrics, clock)
    transmitters = [Transmitter(each, IssuerKeys(each, metrics.jwks, settings=each.pushed_keys)) for each, _ in held]
    if settings.sessions != "shared":
        return PushedEvents(transmitters, OwnDelivery(holders), holders, metrics, clock)
    store = PushedEventStore(connect(settings.store, metrics.store(), tracer), settings.resource)
    return PushedEvents(transmitters, SharedDelivery(store, holders), holders, metrics, clock)
