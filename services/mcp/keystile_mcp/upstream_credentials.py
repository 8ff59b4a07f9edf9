"""What an upstream server is shown: whom the request comes from, and, if asked for, for whom it is made."""

import time
from collections.abc import Callable, Mapping
from typing import Final

from mcp.server.auth.provider import AccessToken

from keystile_mcp.key_files import RenewedFile, SigningKey
from keystile_mcp.settings import UpstreamSettings

IDENTITY_SECONDS: Final = 60


def credentials(upstream: UpstreamSettings) -> Callable[[], Mapping[str, str]]:
    """The headers that prove this server to the upstream, made for each request.

    The function that is answered raises `KeyFileError` when a file cannot be read.
    """
    if upstream.token_file is not None:
        token = RenewedFile("upstream.token_file", upstream.token_file)
        return lambda: {"authorization": f"Bearer {token.text()}"}
    if upstream.bearer is not None:
        fixed = {"authorization": f"Bearer {upstream.bearer.get_secret_value()}"}
        return lambda: fixed
    return dict


class Identity:
    """Says for whom a request is made, in a header that is signed and short-lived.

    Args:
        key: signs.
        resource: this server, the `iss`.
        upstream: the server that it is meant for, the `aud`.
    """

    HEADER: Final = "keystile-identity"

    def __init__(self, key: SigningKey, resource: str, upstream: str) -> None:
        self._key = key
        self._issuer = resource
        self._audience = upstream

    def of(self, caller: AccessToken) -> str:
        """A JWT that names user, client and scopes of `caller`; it gives no access anywhere.

        Raises:
            KeyFileError: there is no key to sign with.
        """
        now = int(time.time())
        claims = {
            "iss": self._issuer,
            "aud": self._audience,
            "sub": caller.subject or caller.client_id,
            "client_id": caller.client_id,
            "scope": " ".join(caller.scopes),
            "iat": now,
            "exp": now + IDENTITY_SECONDS,
        }
        return self._key.sign(claims)
