"""Every Prometheus metric that Keystile exports, by the service that exports it.

Names, labels and the closed sets their values come from stand here and nowhere else. A label never
carries a token, a user or anything that a client can choose freely.
"""

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

# From a loopback look-up to a request that waits for its timeout.
SECONDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


class StoreMetrics:
    """What every service that talks to the store exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.operation_duration = Histogram(
            "keystile_store_operation_duration_seconds",
            "Time a store operation took, by its name.",
            ["operation"],
            buckets=SECONDS,
            registry=registry,
        )
        self.errors = Counter(
            "keystile_store_errors_total",
            "Store operations that failed, by kind: timeout, connection, full, undurable, error.",
            ["operation", "kind"],
            registry=registry,
        )
        self.durability_wait = Histogram(
            "keystile_store_durability_wait_seconds",
            "Time the store took to confirm writes as store.durability asks, by outcome: acknowledged, refused.",
            ["outcome"],
            buckets=SECONDS,
            registry=registry,
        )

    def observe_durability(self, outcome: str, seconds: float) -> None:
        """Count one wait for the store's confirmation."""
        self.durability_wait.labels(outcome).observe(seconds)


class AuditMetrics:
    """What the audit log exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.events = Counter(
            "keystile_audit_events_total", "Audit events recorded.", ["type", "outcome"], registry=registry
        )
        self.write_failures = Counter(
            "keystile_audit_write_failures_total",
            "Audit events a sink did not take.",
            ["sink"],
            registry=registry,
        )


class JwksMetrics:
    """What every service that fetches an issuer's key set exports."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.refreshes = Counter(
            "keystile_jwks_refreshes_total",
            "Fetches of an issuer's key set, by outcome: success, error.",
            ["outcome"],
            registry=registry,
        )


class ProcessMetrics:
    """What every process exports: of its audit log, key sets and certificate, memory, CPU time, and what it is."""

    def __init__(self, registry: CollectorRegistry, component: str, version: str) -> None:
        self.audit = AuditMetrics(registry)
        self.jwks = JwksMetrics(registry)
        # With a label, so that there is no series where there is no certificate.
        self.certificate_not_after = Gauge(
            "keystile_certificate_not_after_timestamp_seconds",
            "When the certificate that is served expires, Unix time, by the setting that names it.",
            ["setting"],
            registry=registry,
        )
        ProcessCollector(registry=registry)
        Gauge(
            "keystile_build_info",
            "Always 1; its labels say what runs.",
            ["component", "version"],
            registry=registry,
        ).labels(component, version).set(1)


class AuthMetrics:
    """What the authorization server exports. `process` is given where it shares one with a resource server."""

    def __init__(self, registry: CollectorRegistry, version: str, process: ProcessMetrics | None = None) -> None:
        process = process or ProcessMetrics(registry, "auth", version)
        self.registry = registry
        self.store = StoreMetrics(registry)
        self.audit = process.audit
        self.jwks = process.jwks
        self.certificate_not_after = process.certificate_not_after
        self.token_requests = Counter(
            "keystile_token_requests_total",
            "Requests at the token endpoint. error is RFC 6749's code, empty on success.",
            ["grant_type", "outcome", "error"],
            registry=registry,
        )
        self.token_request_duration = Histogram(
            "keystile_token_request_duration_seconds",
            "Time a token request took.",
            ["grant_type"],
            buckets=SECONDS,
            registry=registry,
        )
        self.tokens_issued = Counter(
            "keystile_tokens_issued_total", "Tokens issued.", ["token_type", "grant_type"], registry=registry
        )
        self.authorization_requests = Counter(
            "keystile_authorization_requests_total",
            "Authorization requests that came to an end, by outcome: granted, denied, error.",
            ["outcome", "error"],
            registry=registry,
        )
        self.introspection_requests = Counter(
            "keystile_introspection_requests_total",
            "Introspection requests by result: active, inactive, unauthorized, invalid, error.",
            ["result"],
            registry=registry,
        )
        self.introspection_duration = Histogram(
            "keystile_introspection_duration_seconds",
            "Time an introspection request took.",
            buckets=SECONDS,
            registry=registry,
        )
        self.token_revocations = Counter(
            "keystile_token_revocations_total",
            "Grants ended or tokens revoked, by reason.",
            ["reason"],
            registry=registry,
        )
        self.event_polls = Counter(
            "keystile_event_polls_total",
            "Polls for security events by result: events, empty, beginning, unauthorized, invalid, error.",
            ["result"],
            registry=registry,
        )
        self.event_polls_waiting = Gauge(
            "keystile_event_polls_waiting", "Polls for security events that wait for one.", registry=registry
        )
        self.refresh_token_reuse = Counter(
            "keystile_refresh_token_reuse_detected_total",
            "Refresh tokens used again after their rotation; each ends its grant.",
            registry=registry,
        )
        self.client_auth_failures = Counter(
            "keystile_client_auth_failures_total",
            "Client authentications that failed, by method.",
            ["method"],
            registry=registry,
        )
        self.client_registrations = Counter(
            "keystile_client_registrations_total",
            "Clients that became known, by source: registration, metadata_document, operator.",
            ["source", "outcome"],
            registry=registry,
        )
        self.rate_limited = Counter(
            "keystile_rate_limited_total",
            "Requests refused by a rate limit.",
            ["endpoint"],
            registry=registry,
        )
        self.logins = Counter(
            "keystile_logins_total",
            "Sign-ins by identity source and outcome.",
            ["identity", "outcome"],
            registry=registry,
        )
        self.signing_key_not_after = Gauge(
            "keystile_signing_key_not_after_timestamp_seconds",
            "When the current signing key is due for rotation, and the last retired one leaves the key set.",
            ["state"],
            registry=registry,
        )


PUSH_RESULTS = (
    "applied", "replayed", "verification", "unknown_event", "unknown_subject", "invalid_request", "invalid_key",
    "invalid_issuer", "invalid_audience", "authentication_failed", "unavailable",
)  # fmt: skip
"""What becomes of an event that is pushed; the errors are those of RFC 8935 section 2.4."""


class McpMetrics:
    """What the MCP resource server exports. `process` is given where it shares one with an authorization server."""

    def __init__(self, registry: CollectorRegistry, version: str, process: ProcessMetrics | None = None) -> None:
        process = process or ProcessMetrics(registry, "mcp", version)
        self.registry = registry
        self.audit = process.audit
        self.jwks = process.jwks
        self._store: StoreMetrics | None = None
        self.certificate_not_after = process.certificate_not_after
        self.introspection_cache_requests = Counter(
            "keystile_introspection_cache_requests_total",
            "Look-ups in the introspection cache by result: hit, negative_hit, miss, joined.",
            ["result"],
            registry=registry,
        )
        self.token_validations = Counter(
            "keystile_token_validations_total",
            "Bearer tokens checked, by method (introspection, jwks) and result: valid, malformed, inactive, expired, "
            "not_yet_valid, wrong_audience, wrong_issuer, unavailable, missing; of signed tokens also wrong_type, "
            "unsupported, unknown_key, bad_signature.",
            ["method", "result"],
            registry=registry,
        )
        self.revocation_propagation = Histogram(
            "keystile_revocation_propagation_seconds",
            "Time from a revocation, by the clock of whoever told of it, until it held here.",
            buckets=SECONDS,
            registry=registry,
        )
        self.revocation_events = Counter(
            "keystile_revocation_events_total",
            "Security events received, by result: applied, refused; beginning where everything was asked anew.",
            ["result"],
            registry=registry,
        )
        for result in ("applied", "refused", "beginning"):
            self.revocation_events.labels(result)
        self.pushed_events = Counter(
            "keystile_pushed_security_events_total",
            "Security events that issuers pushed to this process (RFC 8935), by result: applied, replayed, "
            "verification, unknown_event, unknown_subject; the error that was answered; unavailable where they are to "
            "come again.",
            ["result"],
            registry=registry,
        )
        for result in PUSH_RESULTS:
            self.pushed_events.labels(result)
        self.revocation_feed_up = Gauge(
            "keystile_revocation_feed_up",
            "1 while revocations are heard of as they happen, 0 while they are not.",
            ["issuer"],
            registry=registry,
        )
        self.requests = Counter(
            "keystile_mcp_requests_total",
            "MCP requests by JSON-RPC method.",
            ["method", "outcome"],
            registry=registry,
        )
        self.tool_calls = Counter(
            "keystile_mcp_tool_calls_total",
            "Tool calls of tools that exist.",
            ["tool", "outcome"],
            registry=registry,
        )
        self.session_handovers = Counter(
            "keystile_mcp_session_handovers_total",
            "Requests handed over to the replica that their session lives in, by result: answered, gone, failed.",
            ["result"],
            registry=registry,
        )
        for result in ("answered", "gone", "failed"):  # there from the beginning, so that a first one shows as a rise
            self.session_handovers.labels(result)
        self.upstream_failures = Counter(
            "keystile_upstream_failures_total",
            "Requests that the MCP server behind this one did not answer, by kind: connection, timeout, refused, "
            "protocol, broken_off, credentials.",
            ["kind"],
            registry=registry,
        )
        for kind in ("connection", "timeout", "refused", "protocol", "broken_off", "credentials"):
            self.upstream_failures.labels(kind)
        self.sessions = Gauge("keystile_mcp_sessions", "Open MCP sessions in this process.", registry=registry)

    def store(self) -> StoreMetrics:
        """What is exported of the store, where there is one."""
        if self._store is None:
            self._store = StoreMetrics(self.registry)
        return self._store
