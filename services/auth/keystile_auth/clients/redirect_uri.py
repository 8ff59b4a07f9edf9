"""Redirect URIs: which may be registered, and which a request may name (RFC 9700 section 2.1)."""

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from keystile_common.settings import is_loopback_host

# Host and path are compared as text; only the port of a loopback address floats (RFC 8252 section 7.3).
_LOOPBACK = re.compile(r"http://(127\.0\.0\.1|\[::1\]|localhost)(?::([0-9]{1,5}))?(/[^#\\\s]*)?")
_ALLOWED = re.compile(r"[\x21-\x7E]+")
_MAX_PORT = 65535
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
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a URI"
    if parts.username is not None or parts.password is not None:
        return "must have no user or password"
    if parts.scheme == "https" and host:
        return None
    if parts.scheme == "http":
        return None if _loopback(uri) else "must be https, or http on 127.0.0.1, [::1] or localhost"
    if parts.scheme in set(private_use_schemes) and uri.startswith(f"{parts.scheme}:"):
        return None
    return "must be https, or http on a loopback address"


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
