"""A client's signing key, and the assertions it proves itself with (RFC 7523, private_key_jwt)."""

import json
import secrets
import time
from dataclasses import dataclass
from typing import Any

from joserfc import jws
from joserfc.jwk import ECKey, RSAKey

from keystile_auth.clients.authentication import JWT_BEARER
from tests.auth_server import AuthServer


@dataclass
class ClientKey:
    """A key pair that signs with `algorithm`."""

    algorithm: str
    key: ECKey | RSAKey

    @classmethod
    def generate(cls, algorithm: str = "ES256") -> "ClientKey":
        """A new key, with an id."""
        if algorithm.startswith("ES"):
            return cls(algorithm, ECKey.generate_key("P-256", auto_kid=True))
        return cls(algorithm, RSAKey.generate_key(2048, auto_kid=True))

    @property
    def public(self) -> dict[str, Any]:
        """The public JWK."""
        return dict(self.key.as_dict(private=False))

    def assertion(self, client_id: str, audience: str, *, kid: bool = True, **claims: Any) -> str:
        """A client assertion; `claims` replace its own, None leaves one out."""
        header = {"alg": self.algorithm, **({"kid": self.key.kid} if kid else {})}
        return self.sign(header, assertion_claims(client_id, audience, **claims))

    def sign(self, header: dict[str, Any], claims: dict[str, Any]) -> str:
        """A JWT of any header and claims, whatever their types."""
        registry = jws.JWSRegistry(algorithms=[self.algorithm], strict_check_header=False)
        return jws.serialize_compact(header, json.dumps(claims).encode(), self.key, registry=registry)

    def credentials(self, client_id: str, audience: str, **claims: Any) -> dict[str, Any]:
        """The parameters of a request that the client authenticates with a new assertion."""
        return {
            "client_assertion_type": JWT_BEARER,
            "client_assertion": self.assertion(client_id, audience, **claims),
        }


def assertion_claims(client_id: str, audience: str, **claims: Any) -> dict[str, Any]:
    """The claims of a good assertion; `claims` replace its own, None leaves one out."""
    now = int(time.time())
    values = {
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "exp": now + 60,
        "iat": now,
        "jti": secrets.token_urlsafe(16),
        **claims,
    }
    return {name: value for name, value in values.items() if value is not None}


def authenticate(server: AuthServer, client_id: str, assertion: str) -> Any:
    """Ask for tokens with a code that cannot be: past authentication the answer is `invalid_grant`."""
    return server.token(
        grant_type="authorization_code",
        code="none",
        client_id=client_id,
        client_assertion_type=JWT_BEARER,
        client_assertion=assertion,
    )


def key_set(*keys: ClientKey) -> dict[str, Any]:
    """A JSON Web Key Set of the public keys."""
    return {"keys": [each.public for each in keys]}
