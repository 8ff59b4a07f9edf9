"""How this resource server says who it is at the introspection endpoint."""

import base64
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote_plus

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keystile_common.settings import SettingsError
from keystile_mcp.introspection_answer import IntrospectionError
from keystile_mcp.settings import IntrospectionSettings

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
REREAD_SECONDS = 10.0
"""The kubelet renews a projected token when four fifths of its life are over, so there is time."""
ASSERTION_SECONDS = 60
ASSERTION_ALGORITHMS = {
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("RSA", None): "PS256",
    ("OKP", "Ed25519"): "Ed25519",
}
"""By the key's type and curve."""


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
        self._file = _RenewedFile("introspection.token_file", path, clock)

    def headers(self) -> dict[str, str]:
        """What it adds to the request's headers."""
        return {}

    def form(self) -> dict[str, str]:
        """What it adds to the request's form.

        Raises:
            IntrospectionError: the file cannot be read.
        """
        return _assertion(self._client_id, self._file.text())


class PrivateKey:
    """A client assertion signed anew for each request, private_key_jwt (RFC 7523 section 2.2).

    Args:
        client_id: this resource's name at the authorization server.
        path: of a file with the private key: PEM, or a JWK whose `kid` goes into the assertion.
        issuer: the authorization server, which the assertion is for.
        clock: seconds that only go forward, for reading the file again.
    """

    def __init__(self, client_id: str, path: Path, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._client_id = client_id
        self._issuer = issuer
        self._file = _RenewedFile("introspection.private_key_file", path, clock)
        self._text: str | None = None

    def headers(self) -> dict[str, str]:
        """What it adds to the request's headers."""
        return {}

    def form(self) -> dict[str, str]:
        """What it adds to the request's form.

        Raises:
            IntrospectionError: the file cannot be read, or is no private key.
        """
        self._read()
        now = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._issuer,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        return _assertion(self._client_id, jwt.encode(self._header, claims, self._key, algorithms=[self._algorithm]))

    def _read(self) -> None:
        text = self._file.text()
        if text == self._text:
            return
        try:
            # What the error says could be of the key.
            key = _private_key(text)
            algorithm = ASSERTION_ALGORITHMS[key.key_type, getattr(key, "curve_name", None)]
        except (JoseError, ValueError, TypeError, KeyError):
            raise IntrospectionError(
                "introspection.private_key_file must hold a private key (EC P-256 or P-384, RSA, Ed25519; PEM or JWK)"
            ) from None
        self._key, self._algorithm = key, algorithm
        self._header = {"alg": algorithm, **({"kid": key.kid} if key.kid else {})}
        self._text = text


class _RenewedFile:
    # A small file that is read again now and then.
    def __init__(self, setting: str, path: Path, clock: Callable[[], float]) -> None:
        self._setting = setting
        self._path = path
        self._clock = clock
        self._text = ""
        self._read_at = float("-inf")

    def text(self) -> str:
        if self._clock() - self._read_at >= REREAD_SECONDS:
            try:
                self._text = self._path.read_text().strip()
            except (OSError, UnicodeDecodeError):
                raise IntrospectionError(f"{self._setting} cannot be read") from None
            self._read_at = self._clock()
        return self._text


def _private_key(text: str) -> ECKey | RSAKey | OKPKey:
    document = json.loads(text) if text.startswith("{") else text
    for kind in (ECKey, RSAKey, OKPKey):
        try:
            key = kind.import_key(document)
        except (JoseError, ValueError, TypeError, KeyError):
            continue
        if key.is_private:
            return key
    raise ValueError("no private key")


def _assertion(client_id: str, assertion: str) -> dict[str, str]:
    return {"client_id": client_id, "client_assertion_type": JWT_BEARER, "client_assertion": assertion}


Credentials = SharedSecret | TokenFile | PrivateKey


def credentials(settings: IntrospectionSettings, issuer: str) -> Credentials:
    """The credentials that the settings give, to prove this resource to `issuer`.

    Raises:
        SettingsError: the private key cannot be used. (A service-account token may be mounted later than we start.)
    """
    if settings.token_file is not None:
        return TokenFile(settings.client_id, settings.token_file)
    if settings.private_key_file is not None:
        signer = PrivateKey(settings.client_id, settings.private_key_file, issuer)
        try:
            signer.form()
        except IntrospectionError as problem:
            raise SettingsError(str(problem)) from None
        return signer
    assert settings.client_secret is not None  # noqa: S101 (the settings have one of the three)
    return SharedSecret(settings.client_id, settings.client_secret.get_secret_value())
