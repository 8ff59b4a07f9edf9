"""What each revision requires of a server, and so what has to be among the results; frozen, as the suite has it."""

_BOTH = [
    "completion-complete",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-error",
    "tools-call-with-progress",
    "server-sse-multiple-streams",
    "resources-list",
    "resources-read-text",
    "resources-read-binary",
    "resources-templates-read",
    "prompts-list",
    "prompts-get-simple",
    "prompts-get-with-args",
    "prompts-get-embedded-resource",
    "prompts-get-with-image",
    "dns-rebinding-protection",
]

_ONLY_2026_07_28 = [
    "server-stateless",
    "sep-2164-resource-not-found",
    "caching",
    "input-required-result-basic-elicitation",
    "input-required-result-basic-sampling",
    "input-required-result-basic-list-roots",
    "input-required-result-request-state",
    "input-required-result-multiple-input-requests",
    "input-required-result-multi-round",
    "input-required-result-missing-input-response",
    "input-required-result-non-tool-request",
    "input-required-result-result-type",
    "input-required-result-unsupported-methods",
    "input-required-result-tampered-state",
    "input-required-result-capability-check",
    "input-required-result-ignore-extra-params",
    "input-required-result-validate-input",
]

_ONLY_2025_11_25 = [
    "server-initialize",
    "logging-set-level",
    "ping",
    "tools-call-with-logging",
    "tools-call-sampling",
    "tools-call-elicitation",
    "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums",
    "resources-subscribe",
    "resources-unsubscribe",
]

REQUIRED = {
    "2026-07-28": frozenset([*_BOTH, *_ONLY_2026_07_28]),
    "2025-11-25": frozenset([*_BOTH, *_ONLY_2025_11_25]),
}
COUNTS = {"2026-07-28": 37, "2025-11-25": 30}

# Run beside those that a revision requires, and passed too.
ALSO_PASSED = {
    "2026-07-28": frozenset({"json-schema-2020-12", "http-header-validation", "http-custom-header-server-validation"}),
    "2025-11-25": frozenset({"server-session-lifecycle", "json-schema-2020-12"}),
}

# Run as well, of what is not there: the extension for tasks, and streams that a client can take up again.
NOT_SERVED = {
    "2026-07-28": frozenset(
        {
            "tasks-lifecycle",
            "tasks-capability-negotiation",
            "tasks-wire-fields",
            "tasks-request-state-removal",
            "tasks-mrtr-input",
            "tasks-request-headers",
            "tasks-dispatch-and-envelope",
            "tasks-status-notifications",
            "tasks-required-task-error",
            "tasks-mrtr-composition",
        }
    ),
    "2025-11-25": frozenset({"server-sse-polling"}),
}

AUTHORIZATION = frozenset({"authorization-server-metadata-endpoint", "authorization-code-grant"})
# For this revision the suite has no set of requirements; it has 27 scenarios that apply to it.
OF_2025_06_18 = (REQUIRED["2025-11-25"] | {"server-session-lifecycle"}) - {
    "dns-rebinding-protection",
    "elicitation-sep1034-defaults",
    "elicitation-sep1330-enums",
    "server-sse-multiple-streams",
}
