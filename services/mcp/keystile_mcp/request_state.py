"""How `requestState` of MCP 2026-07-28 is sealed: what a client carries from one round of a call to the next.

The SDK encrypts it and binds it to the request, the caller and ten minutes; here it gets its key.
"""

import base64
import binascii
import hashlib
import hmac
import secrets

from mcp.server.request_state import AESGCMRequestStateCodec
from pydantic import SecretStr

LEAST_BYTES = 32


def decode_key(key: SecretStr) -> bytes:
    """The bytes that the setting `request_state_key` spells in base64.

    Raises:
        ValueError: it does not, or they are too few; the text says how to make one.
    """
    try:
        decoded = base64.b64decode(key.get_secret_value(), validate=True)
    except (binascii.Error, ValueError):
        decoded = b""
    if len(decoded) < LEAST_BYTES:
        raise ValueError("must be at least 32 random bytes in base64: openssl rand -base64 32")
    return decoded


class ReplicaCodec:
    """Seals and opens states (the SDK's `RequestStateCodec`), under a key that replicas share if there is one.

    Args:
        key: the setting `request_state_key`; without it the key is this process's own until `use` gives another.
    """

    def __init__(self, key: SecretStr | None) -> None:
        self._is_set = key is not None
        self._codec = AESGCMRequestStateCodec([secrets.token_bytes(32) if key is None else decode_key(key)])

    def use(self, shared: bytes) -> None:
        """Take the key from bytes that replicas share for other things too, unless one was set."""
        if not self._is_set:
            self._codec = AESGCMRequestStateCodec([hmac.digest(shared, b"keystile request state", hashlib.sha256)])

    def seal(self, payload: bytes) -> str:
        """Encrypt."""
        return self._codec.seal(payload)

    def unseal(self, token: str) -> bytes:
        """Decrypt.

        Raises:
            InvalidRequestState: it was not sealed under this key, or was changed.
        """
        return self._codec.unseal(token)
