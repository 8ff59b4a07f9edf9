"""How this resource server says who it is at the introspection endpoint."""

import base64
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus

from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.settings import IntrospectionSettings

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REREAD_SECONDS = 10.0
"""The kubelet renews a projected token when four fifths of its life are over, so there is time."""


class SharedSecret:
    """HTTP Basic of a name and a secret (RFC 6749 section 2.3.1)."""

    def __init__(self, client_id: str, secret: str) -> None:
        # Each part is form-encoded before they are joined.
        joined = ":".join(map(quote_plus, (client_id, secret)))
        self._headers = {"Authorization": "Basic " + base64.b64encode(joined.encode()).decode()}

    def headers(self) -> dict[str, str]:
        """What they add to the request's headers."""
        return self._headers

    def form(self) -> dict[str, str]:
        """What they add to the request's form."""
        return {}


class TokenFile:
    """A client assertion in a file that somebody else renews (RFC 7523 section 2.2).

    Args:
        client_id: this resource's name at the authorization server.
        path: of the file: a pod's projected service-account token for that server's audience.
        clock: seconds that only go forward.
    """

    def __init__(self, client_id: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._client_id = client_id
        self._path = path
        self._clock = clock
        self._token = ""
        self._read_at = float("-inf")

    def headers(self) -> dict[str, str]:
        """What it adds to the request's headers."""
        return {}

    def form(self) -> dict[str, str]:
        """What it adds to the request's form.

        Raises:
            IntrospectionError: the file cannot be read.
        """
        if self._clock() - self._read_at >= REREAD_SECONDS:
            try:
                self._token = self._path.read_text().strip()
            except (OSError, UnicodeDecodeError):
                raise IntrospectionError("introspection.token_file cannot be read") from None
            self._read_at = self._clock()
        return {
            "client_id": self._client_id,
            "client_assertion_type": JWT_BEARER,
            "client_assertion": self._token,
        }


Credentials = SharedSecret | TokenFile


def credentials(settings: IntrospectionSettings) -> Credentials:
    """The credentials that the settings give."""
    if settings.token_file is not None:
        return TokenFile(settings.client_id, settings.token_file)
    assert settings.client_secret is not None  # noqa: S101 (the settings have one of the two)
    return SharedSecret(settings.client_id, settings.client_secret.get_secret_value())
