"""Client metadata that a stranger sent, checked (RFC 7591 section 2)."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from keystile_auth.clients import redirect_uri
from keystile_auth.errors import OAuthError

MAX_REDIRECT_URIS = 20
MAX_NAME_CHARACTERS = 200
_USER_GRANTS = ("authorization_code", "refresh_token")
# A name must read as it is written: no controls, nothing that turns text around or hides in it, no line ends.
_UNREADABLE = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
_VISIBLE_ASCII = re.compile(r"[\x21-\x7E]+")
_PRIVATE_PARTS = {"d", "k", "p", "q", "dp", "dq", "qi", "oth"}


@dataclass(frozen=True, slots=True)
class ClientMetadata:
    """Metadata that passed every check that does not depend on where it came from."""

    name: str
    redirect_uris: tuple[str, ...]
    grant_types: tuple[str, ...]
    auth_methods: tuple[str, ...]
    client_uri: str | None
    jwks: dict[str, Any] | None
    jwks_uri: str | None


def check(
    document: Mapping[str, Any], private_use_schemes: list[str], default_methods: tuple[str, ...]
) -> ClientMetadata:
    """Check a registration request or a metadata document.

    What is unknown is ignored. Grant types that no user stands behind are left out rather than refused:
    several clients list all they could ever do.

    Args:
        document: the JSON object as it came.
        private_use_schemes: see `redirect_uri.problem`.
        default_methods: the authentication methods of a client that names none.

    Raises:
        OAuthError: `invalid_redirect_uri` or `invalid_client_metadata` (RFC 7591 section 3.2.2).
    """
    uris = _redirect_uris(document, private_use_schemes)
    requested = _strings(document, "grant_types") or ["authorization_code"]
    grant_types = tuple(grant for grant in _USER_GRANTS if grant in requested)
    if "authorization_code" not in grant_types:
        raise OAuthError("invalid_client_metadata", "grant_types must contain authorization_code")
    responses = _strings(document, "response_types")
    if responses is not None and "code" not in responses:
        raise OAuthError("invalid_client_metadata", "response_types must contain code")
    methods = _auth_methods(document) or default_methods
    jwks, jwks_uri = _keys(document, methods)
    return ClientMetadata(
        name=_name(document, uris[0]),
        redirect_uris=uris,
        grant_types=grant_types,
        auth_methods=methods,
        client_uri=_https(document, "client_uri"),
        jwks=jwks,
        jwks_uri=jwks_uri,
    )


def _redirect_uris(document: Mapping[str, Any], private_use_schemes: list[str]) -> tuple[str, ...]:
    uris = _strings(document, "redirect_uris", code="invalid_redirect_uri")
    if not uris or len(uris) > MAX_REDIRECT_URIS:
        raise OAuthError("invalid_redirect_uri", f"redirect_uris must be a list of 1 to {MAX_REDIRECT_URIS} URIs")
    for number, uri in enumerate(uris, start=1):
        problem = redirect_uri.problem(uri, private_use_schemes)
        if problem:
            raise OAuthError("invalid_redirect_uri", f"redirect_uris, number {number}, {problem}")
    return tuple(dict.fromkeys(uris))


def _auth_methods(document: Mapping[str, Any]) -> tuple[str, ...] | None:
    one = document.get("token_endpoint_auth_method")
    if one is not None:
        if not isinstance(one, str):
            raise OAuthError("invalid_client_metadata", "token_endpoint_auth_method must be a string")
        return (one,)
    # ChatGPT's metadata document has this plural, which is a server's parameter, and not the singular.
    several = _strings(document, "token_endpoint_auth_methods_supported")
    return tuple(dict.fromkeys(several)) if several else None


def _keys(document: Mapping[str, Any], methods: tuple[str, ...]) -> tuple[dict[str, Any] | None, str | None]:
    jwks, jwks_uri = document.get("jwks"), _https(document, "jwks_uri")
    if jwks is not None and jwks_uri is not None:
        raise OAuthError("invalid_client_metadata", "jwks and jwks_uri must not both be given")
    if jwks is not None:
        check_key_set(jwks)
    if methods == ("private_key_jwt",) and jwks is None and jwks_uri is None:
        raise OAuthError("invalid_client_metadata", "private_key_jwt needs jwks or jwks_uri")
    return jwks, jwks_uri


def check_key_set(jwks: Any) -> None:
    """Check that `jwks` is a JSON Web Key Set (RFC 7517 section 5) of public keys.

    Raises:
        OAuthError: `invalid_client_metadata`.
    """
    keys = jwks.get("keys") if isinstance(jwks, dict) else None
    if not isinstance(keys, list) or not all(isinstance(key, dict) and _is_flat(key) for key in keys):
        raise OAuthError("invalid_client_metadata", "jwks must be a JSON Web Key Set")
    if any(_PRIVATE_PARTS & set(key) for key in keys):
        raise OAuthError("invalid_client_metadata", "jwks must have public keys only")


def _is_flat(key: dict[str, Any]) -> bool:
    # No member of a public key holds more than a list of strings (RFC 7517 section 4).
    return not any(
        isinstance(part, dict | list)
        for value in key.values()
        for part in (value if isinstance(value, list) else [value])
    )


def _name(document: Mapping[str, Any], first_redirect_uri: str) -> str:
    name = document.get("client_name")
    if name is None:
        return urlsplit(first_redirect_uri).hostname or "An application"
    if not isinstance(name, str):
        raise OAuthError("invalid_client_metadata", "client_name must be a string")
    if any(unicodedata.category(c) in _UNREADABLE for c in name) or len(name) > MAX_NAME_CHARACTERS:
        raise OAuthError(
            "invalid_client_metadata",
            f"client_name must be at most {MAX_NAME_CHARACTERS} visible characters, none that turn text around",
        )
    return name.strip() or "An application"


def _https(document: Mapping[str, Any], name: str) -> str | None:
    value = document.get(name)
    if value is None or value == "":
        return None
    try:
        parts = urlsplit(value) if isinstance(value, str) and _VISIBLE_ASCII.fullmatch(value) else None
        # A page may be plain http at a developer's; keys may not.
        schemes = {"https"} if name == "jwks_uri" else {"https", "http"}
        if parts and parts.scheme in schemes and parts.hostname and parts.username is None:
            return str(value)
    except ValueError:
        pass
    raise OAuthError("invalid_client_metadata", f"{name} must be an https URL without user or password")


def _strings(document: Mapping[str, Any], name: str, code: str = "invalid_client_metadata") -> list[str] | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise OAuthError(code, f"{name} must be a list of strings")
    return value
