"""How tokens are checked here."""

from contextlib import AbstractAsyncContextManager
from typing import Any, NamedTuple

from opentelemetry.trace import Tracer

from keystile_common.health import Check
from keystile_common.metrics import McpMetrics
from keystile_mcp.introspection import IntrospectionClient
from keystile_mcp.introspection_cache import Clock, IntrospectionCache
from keystile_mcp.jwks import IssuerKeys
from keystile_mcp.readiness import AuthorizationServerCheck
from keystile_mcp.settings import McpSettings
from keystile_mcp.signed_tokens import SignedTokens
from keystile_mcp.validation import TokenSource


class Tokens(NamedTuple):
    """Who is asked about tokens, what keeps the answers, and what says whether asking has worked."""

    client: AbstractAsyncContextManager[Any]
    source: TokenSource
    check: Check


def token_source(settings: McpSettings, metrics: McpMetrics, tracer: Tracer, clock: Clock) -> Tokens:
    """How tokens are checked, as the setting `validation` says.

    Args:
        settings: as loaded.
        metrics: what it counts in.
        tracer: what it traces with.
        clock: Unix time in seconds.
    """
    if settings.validation == "jwks":
        keys = IssuerKeys(settings, metrics.jwks)
        return Tokens(keys, SignedTokens(keys, settings, clock), keys.check)
    client = IntrospectionClient(settings, tracer)
    cache = IntrospectionCache(client.introspect, settings, metrics, clock)
    return Tokens(client, cache, AuthorizationServerCheck(client))
