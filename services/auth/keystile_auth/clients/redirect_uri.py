"""Redirect URIs: which may be registered, and which a request may name (RFC 9700 section 2.1)."""

import re
from collections.abc import Iterable
from urllib.parse import SplitResult, parse_qsl, urlsplit

from keystile_common.settings import is_loopback_host

# Host and path are compared as text; only the port of a loopback address floats (RFC 8252 section 7.3).
_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)(?::([0-9]{1,5}))?(/[^#\\\s]*)?")
_ALLOWED = re.compile(r"[\x21-\x7E]+")
# What stands in a URI's host goes into a page's Content-Security-Policy too: nothing that ends a directive.
_HOST = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_MAX_PORT = 65535
# Were one of these in the URI already, an answer would have it twice (RFC 9207 section 2.4).
_ANSWER_PARAMETERS = {"code", "state", "iss", "error", "error_description"}
MAX_CHARACTERS = 2048


def problem(uri: str, private_use_schemes: Iterable[str]) -> str | None:
    """Why `uri` may not be registered as a redirect URI, as a sentence; None when it may.

    Args:
        uri: as the client wrote it.
        private_use_schemes: schemes of installed applications that are let through (RFC 8252 section 7.1).
    """
    if len(uri) > MAX_CHARACTERS or not _ALLOWED.fullmatch(uri):
        return f"must be at most {MAX_CHARACTERS} characters of ASCII without spaces"
    if "#" in uri or "*" in uri or has_odd_character(uri):
        return "must have no fragment, wildcard, quote or backslash"
    try:
        parts = urlsplit(uri)
        _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URI"
    if parts.username is not None or parts.password is not None:
        return "must have no user or password"
    if _ANSWER_PARAMETERS & {name for name, _ in parse_qsl(parts.query, keep_blank_values=True)}:
        return f"must have none of {', '.join(sorted(_ANSWER_PARAMETERS))} in its query"
    return _place_problem(uri, parts, private_use_schemes)


def _place_problem(uri: str, parts: SplitResult, private_use_schemes: Iterable[str]) -> str | None:
    if parts.scheme == "https" and parts.hostname:
        is_host = _HOST.fullmatch(re.sub(r":[0-9]*$", "", parts.netloc))
        return None if is_host else "must have a host of letters, digits, dots and hyphens"
    if _loopback(uri) or (parts.scheme in set(private_use_schemes) and uri.startswith(f"{parts.scheme}:")):
        return None
    return "must be https, or http on 127.0.0.1, [::1] or localhost; an operator can allow another scheme"


def has_odd_character(uri: str) -> bool:
    """Whether `uri` has a character that RFC 3986 knows only percent-encoded, and parsers disagree on."""
    return any(c in uri for c in '\\"<>^`{|}')


def match(requested: str, registered: Iterable[str]) -> bool:
    """Whether `requested` is one of the `registered` ones: the same text, but for the port of a loopback address."""
    wanted = _loopback(requested)
    return any(requested == each or (wanted is not None and wanted == _loopback(each)) for each in registered)


def is_loopback(uri: str) -> bool:
    """Whether a program on the user's own machine receives the answer."""
    return urlsplit(uri).scheme == "http" and is_loopback_host(urlsplit(uri).hostname)


def _loopback(uri: str) -> tuple[str, str] | None:
    match = _LOOPBACK.fullmatch(uri)
    if not match or (match[2] and not 0 < int(match[2]) <= _MAX_PORT):
        return None
    return match[1], match[3] or ""
