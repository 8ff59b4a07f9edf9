"""Files of users, as other systems write them: read row by row, never all in memory, and nothing in them trusted.

Each reader gives a `Row` for a user that can be, and a `BadRow` that says why not for one that cannot. Neither a
reason nor a representation ever holds a value of the file: whose columns are shifted has passwords as names.
"""

from collections.abc import Callable, Iterator

from keystile_auth.cli.user_files import csv_file, json_lines, keycloak, ldif
from keystile_auth.cli.user_files.row import BadRow, Row
from keystile_auth.cli.user_files.source import Source

READERS: dict[str, Callable[[Source], Iterator[Row | BadRow]]] = {
    "csv": csv_file.read,
    "json": json_lines.read,
    "ldif": ldif.read,
    "auth0": json_lines.read_auth0,
    "keycloak": keycloak.read,
    "okta": csv_file.read,
}
"""The formats and their readers; what Okta writes is CSV with names of columns that are known."""


def detect(source: Source) -> str:
    """The format that a file looks like."""
    head = source.head.lstrip()
    if head.startswith("{"):
        return keycloak.NAME if keycloak.looks_like_one(head) else json_lines.detect(head)
    if ldif.looks_like_one(head):
        return "ldif"
    return csv_file.detect(head)
