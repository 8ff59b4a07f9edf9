"""How this resource server says who it is at the introspection endpoint."""

import base64
import secrets
import time
from urllib.parse import quote_plus

from keystile_common.settings import SettingsError
from keystile_mcp.issuer_settings import IntrospectionSettings
from keystile_mcp.key_files import KeyFileError, RenewedFile, SigningKey

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ASSERTION_SECONDS = 60


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
        file: a pod's projected service-account token for that server's audience.
    """

    def __init__(self, client_id: str, file: RenewedFile) -> None:
        self._client_id = client_id
        self._file = file

    def headers(self) -> dict[str, str]:
        """What it adds to the request's headers."""
        return {}

    def form(self) -> dict[str, str]:
        """What it adds to the request's form.

        Raises:
            KeyFileError: the file cannot be read.
        """
        return _assertion(self._client_id, self._file.text())


class PrivateKey:
    """A client assertion signed anew for each request, private_key_jwt (RFC 7523 section 2.2).

    Args:
        client_id: this resource's name at the authorization server.
        key: signs.
        issuer: the authorization server, which the assertion is for.
    """

    def __init__(self, client_id: str, key: SigningKey, issuer: str) -> None:
        self._client_id = client_id
        self._key = key
        self._issuer = issuer

    def headers(self) -> dict[str, str]:
        """What it adds to the request's headers."""
        return {}

    def form(self) -> dict[str, str]:
        """What it adds to the request's form.

        Raises:
            KeyFileError: the file cannot be read, or is no private key.
        """
        now = int(time.time())
        claims = {
            "iss": self._client_id,
            "sub": self._client_id,
            "aud": self._issuer,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": secrets.token_urlsafe(16),
        }
        return _assertion(self._client_id, self._key.sign(claims))


def _assertion(client_id: str, assertion: str) -> dict[str, str]:
    return {"client_id": client_id, "client_assertion_type": JWT_BEARER, "client_assertion": assertion}


Credentials = SharedSecret | TokenFile | PrivateKey


def credentials(settings: IntrospectionSettings, issuer: str) -> Credentials:
    """The credentials that the settings give, to prove this resource to `issuer`.

    Raises:
        SettingsError: the private key cannot be used. (A service-account token may be mounted later than we start.)
    """
    assert settings.client_id is not None  # noqa: S101 (the settings have it where tokens are introspected)
    if settings.token_file is not None:
        return TokenFile(settings.client_id, RenewedFile("introspection.token_file", settings.token_file))
    if settings.private_key_file is not None:
        key = SigningKey(RenewedFile("introspection.private_key_file", settings.private_key_file))
        signer = PrivateKey(settings.client_id, key, issuer)
        try:
            signer.form()
        except KeyFileError as problem:
            raise SettingsError(str(problem)) from None
        return signer
    assert settings.client_secret is not None  # noqa: S101 (the settings have one of the three)
    return SharedSecret(settings.client_id, settings.client_secret.get_secret_value())
