"""How tokens are checked here."""

from typing import NamedTuple

from opentelemetry.trace import Tracer

from keystile_common.health import Check
from keystile_common.metrics import McpMetrics
from keystile_mcp.introspection import IntrospectionClient
from keystile_mcp.introspection_cache import Clock, IntrospectionCache
from keystile_mcp.issuers import Issuer
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.readiness import AuthorizationServerCheck
from keystile_mcp.revocations import Revocable, Revocations
from keystile_mcp.settings import McpSettings
from keystile_mcp.signed_tokens import SignedTokens
from keystile_mcp.token_info import TokenInfoClient
from keystile_mcp.trusted_tokens import IssuerTokens, TrustedTokens
from keystile_mcp.validation import TokenClient, TokenSource


class Tokens(NamedTuple):
    """Who is asked about tokens, what keeps the answers, and what says whether asking has worked.

    And who tells of revocations; nobody where tokens are looked up each time.
    """

    client: TokenClient
    source: TokenSource
    check: Check
    revocations: tuple[Revocations, ...] = ()


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
    if len(made) == 1:
        return made[0]
    several = zip(settings.issuers, made, strict=True)
    trusted = TrustedTokens([IssuerTokens(issuer, each.client, each.source) for issuer, each in several])
    heard = tuple(revocations for each in made for revocations in each.revocations)
    return Tokens(trusted, trusted, made[0].check, heard)


def _of_issuer(issuer: Issuer, metrics: McpMetrics, tracer: Tracer, clock: Clock) -> Tokens:
    if issuer.method == "jwks":
        keys = IssuerKeys(issuer, metrics.jwks)
        signed = SignedTokens(keys, issuer, clock)
        return Tokens(keys, signed, keys.check, _heard(issuer, metrics, signed, clock))
    is_google = issuer.provider.name == "google"
    client = TokenInfoClient(issuer, tracer) if is_google else IntrospectionClient(issuer, tracer)
    cache = IntrospectionCache(client.introspect, issuer, metrics, clock)
    return Tokens(client, cache, AuthorizationServerCheck(client), _heard(issuer, metrics, cache, clock))


def _heard(issuer: Issuer, metrics: McpMetrics, held: Revocable, clock: Clock) -> tuple[Revocations, ...]:
    return (Revocations(issuer, metrics, [held], clock),) if issuer.polls else ()
