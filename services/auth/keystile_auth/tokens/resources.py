"""Protected resources: what `resource` may name (RFC 8707), and the scopes each has."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from keystile_auth.errors import OAuthError

_SCOPE_LIST = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*")
_DEFAULT_PORTS = {"https": 443, "http": 80}


@dataclass(frozen=True, slots=True)
class Resource:
    """An MCP server that tokens are issued for.

    `name` is what it authenticates with at /introspect; `scopes` are its scopes with the sentence that people
    read; `default_scopes` are granted when none is asked for. `access_token` is `opaque` or `jwt`. `user_scopes` are
    the scopes that users may be granted, by identity or identity/group; all where it is empty.
    """

    name: str
    uri: str
    title: str
    scopes: Mapping[str, str]
    default_scopes: tuple[str, ...]
    access_token: str = "opaque"
    user_scopes: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def select_scopes(self, requested: str | None) -> tuple[str, ...]:
        """The scopes a request asks for, in its order, each once.

        Args:
            requested: the `scope` parameter; None where it was left out.

        Raises:
            OAuthError: `invalid_scope`, for what this resource does not have.
        """
        if not requested:
            return self.default_scopes
        scopes = parse_scope(requested)
        unknown = [scope for scope in scopes if scope not in self.scopes]
        if unknown:
            raise OAuthError(
                "invalid_scope",
                f"{' '.join(unknown)[:200]} is not a scope of {self.uri}: {' '.join(self.scopes)}",
            )
        return scopes


def parse_scope(text: str) -> tuple[str, ...]:
    """The scopes of a space-delimited list, each once.

    Raises:
        OAuthError: `invalid_scope`, when it is not a list as RFC 6749 section 3.3 writes it.
    """
    if not _SCOPE_LIST.fullmatch(text):
        raise OAuthError("invalid_scope", "scope must be names separated by single spaces")
    return tuple(dict.fromkeys(text.split(" ")))


class Resources:
    """All resources, found by any spelling of their URI that RFC 3986 calls the same."""

    def __init__(self, resources: Mapping[str, Resource]) -> None:
        self.by_name = resources
        self._by_uri = {_normal(resource.uri): resource for resource in resources.values()}
        # As the settings write it, which is how nearly everybody does.
        self._by_spelling = {resource.uri: resource for resource in resources.values()}
        self._known = ", ".join(self._by_spelling)

    def find(self, indicator: str) -> Resource | None:
        """The resource that `indicator` names, or None. Host case, default port and one last slash do not matter."""
        resource = self._by_spelling.get(indicator)
        if resource is not None:
            return resource
        try:
            return self._by_uri.get(_normal(indicator))
        except ValueError:
            return None

    def require(self, indicator: str | None) -> Resource:
        """As `find`.

        Raises:
            OAuthError: `invalid_target` (RFC 8707 section 2) when it is missing or unknown.
        """
        if not indicator:
            raise OAuthError("invalid_target", f"resource is required; tokens are issued for: {self._known}")
        resource = self.find(indicator)
        if resource is None:
            raise OAuthError("invalid_target", f"resource is unknown; tokens are issued for: {self._known}")
        return resource

    @property
    def scopes(self) -> tuple[str, ...]:
        """Every scope of every resource, in the order of the settings."""
        return tuple(dict.fromkeys(scope for each in self.by_name.values() for scope in each.scopes))


def _normal(uri: str) -> str:
    parts = urlsplit(uri)
    if parts.username is not None or any(c in "?#" or not "!" <= c <= "~" for c in uri):
        raise ValueError("a resource indicator is ASCII without query, fragment or user")
    scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
    port = "" if parts.port in {None, _DEFAULT_PORTS.get(scheme)} else f":{parts.port}"
    return f"{scheme}://{host}{port}{parts.path.removesuffix('/')}"
