"""An operator at a terminal: runs the `keystile` command on the store of a test."""

import contextlib
import io
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest

from keystile_auth.cli import main
from tests.auth_server import MASTER_KEY, OTHER_RESOURCE, OTHER_SECRET, PASSWORD, RESOURCE, RESOURCE_SECRET, SCOPES
from tests.stores import settings_of

RESOURCES = {
    "mcp": {"uri": RESOURCE, "title": "Team tools", "scopes": SCOPES, "secret": RESOURCE_SECRET},
    "other": {"uri": OTHER_RESOURCE, "title": "Other", "scopes": {"other:use": "Use"}, "secret": OTHER_SECRET},
}


@dataclass
class Ended:
    """How a command ended: exit code, standard output, standard error without audit events, and those events."""

    code: int
    output: str
    problem: str
    events: list[dict[str, Any]]

    def value(self, label: str) -> str:
        """What stands behind `label` in the output."""
        lines = [line.split() for line in self.output.splitlines()]
        return next(words[1] for words in lines if words and words[0] == label)


@dataclass
class Operator:
    """Somebody with the settings of the server in the environment."""

    store_url: str
    environment: dict[str, str] = field(default_factory=dict)

    def run(self, *arguments: str, typed: str = "", **environment: str) -> Ended:
        """Run `keystile` with `arguments`; `typed` is its standard input."""
        variables = {
            "KEYSTILE_ISSUER": "http://127.0.0.1:3001",
            "KEYSTILE_MASTER_KEY": MASTER_KEY,
            "KEYSTILE_STORE": json.dumps(settings_of(self.store_url)),
            "KEYSTILE_RESOURCES": json.dumps(RESOURCES),
            **self.environment,
            **environment,
        }
        code, output, problem = 0, io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            for name, value in variables.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", ["keystile", *arguments])
            patch.setattr(sys, "stdin", io.StringIO(typed))
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(problem):
                try:
                    main()
                except SystemExit as end:
                    code = int(end.code or 0)
        events, lines = [], []
        for line in problem.getvalue().splitlines():
            if line.startswith('{"audit":true'):
                events.append(json.loads(line))
            else:
                lines.append(line)
        return Ended(code, output.getvalue(), "\n".join(lines), events)

    def done(self, *arguments: str, typed: str = "", **environment: str) -> Ended:
        """As `run`, and it must succeed."""
        ended = self.run(*arguments, typed=typed, **environment)
        assert ended.code == 0, ended.problem
        return ended

    def add_user(self, username: str, password: str = PASSWORD) -> Ended:
        """Create a user."""
        return self.done("users", "add", username, typed=f"{password}\n")

    def machine(self, *scopes: str, resource: str = RESOURCE) -> tuple[str, str]:
        """A client that acts for itself: its id and secret."""
        options = [option for scope in scopes or ("mcp:basic",) for option in ("--scope", scope)]
        ended = self.done("clients", "add", "Machine", "--resource", resource, *options)
        return ended.value("client_id"), ended.value("client_secret")
