"""Which scopes a tool asks for."""

import re
from collections.abc import Mapping, Sequence
from fnmatch import translate

_WILDCARDS = re.compile(r"\[[^\]]*\]|[*?]")


class Policy:
    """A map from tools to scopes, over the scopes that every request needs.

    A rule names a tool, or a pattern of them with `*`, `?` and `[…]`. The most specific rule decides alone:
    the one that names the tool itself, else the matching pattern with the most characters that are no
    wildcard; of patterns alike in that, all count. A tool that no rule matches needs what every request
    needs, so a rule for `*` closes whatever is not opened by another.

    Args:
        required: what every request needs.
        rules: tool or pattern → scopes.
    """

    def __init__(self, required: Sequence[str], rules: Mapping[str, Sequence[str]]) -> None:
        self.required = tuple(required)
        self._named = {
            name: self._with_required(scopes) for name, scopes in rules.items() if not _WILDCARDS.search(name)
        }
        patterns = [(_literals(name), name, scopes) for name, scopes in rules.items() if name not in self._named]
        self._patterns = [
            (literals, re.compile(translate(name)), scopes)
            for literals, name, scopes in sorted(patterns, key=lambda rule: rule[0], reverse=True)
        ]

    @property
    def named_tools(self) -> frozenset[str]:
        """The tools that rules name without a wildcard."""
        return frozenset(self._named)

    def needed_for(self, tool: str | None) -> tuple[str, ...]:
        """Every scope that a request needs.

        Args:
            tool: the tool it calls; None for any other request.
        """
        if tool is None:
            return self.required
        named = self._named.get(tool)
        if named is not None:
            return named
        best, scopes = -1, list[str]()
        for literals, pattern, pattern_scopes in self._patterns:
            if literals < best:
                break
            if pattern.match(tool):
                best = literals
                scopes += pattern_scopes
        return self._with_required(scopes) if scopes else self.required

    def _with_required(self, scopes: Sequence[str]) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*self.required, *scopes)))


def _literals(pattern: str) -> int:
    return len(_WILDCARDS.sub("", pattern))
