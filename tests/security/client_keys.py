"""A client that signs: its key pair, and the assertions it makes (RFC 7523)."""

import json
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey

from tests.auth_server import AuthServer

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@dataclass
class ClientKeys:
    """An ES256 key pair. `assertion` signs what a client says of itself."""

    key: ECKey = field(default_factory=lambda: ECKey.generate_key("P-256", {"kid": secrets.token_hex(4)}))

    @property
    def public(self) -> dict[str, Any]:
        return {**self.key.as_dict(private=False), "use": "sig", "alg": "ES256"}

    @property
    def key_set(self) -> dict[str, Any]:
        return {"keys": [self.public]}

    def assertion(self, client_id: str, issuer: str, **claims: Any) -> str:
        """A good assertion; `claims` replace its own, None leaves one out."""
        return self.sign({"alg": "ES256", "kid": self.key.kid}, assertion_claims(client_id, issuer, **claims))

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        registry = jws.JWSRegistry(algorithms=["ES256"], strict_check_header=False)
        return jws.serialize_compact(header, json_bytes(claims), self.key, registry=registry)


def assertion_claims(client_id: str, issuer: str, **claims: Any) -> dict[str, Any]:
    """The claims of a good assertion; `claims` replace its own, None leaves one out."""
    now = int(time.time())
    values = {
        "iss": client_id,
        "sub": client_id,
        "aud": issuer,
        "exp": now + 60,
        "iat": now,
        "jti": secrets.token_urlsafe(16),
        **claims,
    }
    return {name: value for name, value in values.items() if value is not None}


def json_bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


def authenticate(server: AuthServer, client_id: str, assertion: str) -> Any:
    """Ask for tokens with a code that cannot be: past authentication the answer is `invalid_grant`."""
    return server.token(
        grant_type="authorization_code",
        code="none",
        client_id=client_id,
        client_assertion_type=ASSERTION_TYPE,
        client_assertion=assertion,
    )
