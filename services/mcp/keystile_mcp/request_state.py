"""How `requestState` of MCP 2026-07-28 is sealed: what a client carries from one round of a call to the next.

The SDK encrypts it and binds it to the request, the caller and ten minutes; here it gets its key, and the resource.
"""

import base64
import binascii

from mcp.server.request_state import RequestStateSecurity
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


def security(key: SecretStr | None, resource: str) -> RequestStateSecurity:
    """What seals the state of one resource.

    Args:
        key: which all replicas share; without it only this process reads what it has sealed.
        resource: the resource's identifier; what was sealed for another is refused, also under the same key.
    """
    if key is None:
        return RequestStateSecurity.ephemeral(audience=resource)
    return RequestStateSecurity(keys=[decode_key(key)], audience=resource)
