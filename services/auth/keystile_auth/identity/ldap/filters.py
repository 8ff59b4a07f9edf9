"""Search filters, RFC 4515: whatever a person types stays a value."""

from ldap.filter import escape_filter_chars


def of_name(template: str, username: str) -> str:
    """The filter that finds the person of a name, as it was typed."""
    return template.replace("{username}", escape_filter_chars(username))


def of_subject(template: str, attribute: str, value: bytes) -> str:
    """The filter that finds the person of a subject, if the person may still sign in.

    Args:
        template: finds people by `{username}`; here any name will do.
        attribute: that has the subject.
        value: its value, byte for byte.
    """
    return f"(&{template.replace('{username}', '*')}({attribute}={_bytes(value)}))"


def of_groups(template: str, dns: list[str], username: str) -> str:
    """The filter that finds the groups of any of `dns`."""
    name = escape_filter_chars(username)
    parts = [_filled(template, escape_filter_chars(dn), name) for dn in dns]
    return parts[0] if len(parts) == 1 else f"(|{''.join(parts)})"


def of_values(attribute: str, values: list[str]) -> str:
    """The filter that finds whatever has one of `values`."""
    return f"(|{''.join(f'({attribute}={escape_filter_chars(value)})' for value in values)})"


def _filled(template: str, dn: str, username: str) -> str:
    # Piece by piece: a DN that has "{username}" in it is a value too.
    pieces = [piece.replace("{username}", username) for piece in template.split("{dn}")]
    return dn.join(pieces)


def _bytes(value: bytes) -> str:
    return "".join(f"\\{byte:02x}" for byte in value)
