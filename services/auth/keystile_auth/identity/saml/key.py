"""Our own key and certificate: requests are signed with it, and assertions encrypted for it."""

import base64
from dataclasses import dataclass, field
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from keystile_auth.identity.settings import IdentitySettings
from keystile_common.settings import SettingsError

_MIN_BITS = 2048


@dataclass(frozen=True, slots=True)
class OwnKey:
    """An RSA key, its PEM, and its certificate as base64 of DER."""

    private: RSAPrivateKey = field(repr=False)
    pem: str = field(repr=False)
    certificate: str

    @classmethod
    def of(cls, name: str, settings: IdentitySettings) -> Self | None:
        """The one of an identity's settings, or None.

        Raises:
            SettingsError: it is no RSA key of 2048 bits or more, or the certificate is another key's.
        """
        if settings.key is None or settings.certificate is None:
            return None
        pem = settings.key.get_secret_value()
        try:
            private = load_pem_private_key(pem.encode(), None)
        except (ValueError, TypeError):
            private = None
        if not isinstance(private, RSAPrivateKey) or private.key_size < _MIN_BITS:
            raise SettingsError(
                f"identity.{name}.key: must be an RSA key of {_MIN_BITS} bits or more, PEM, no password"
            )
        try:
            certificate = x509.load_pem_x509_certificate(settings.certificate.encode())
        except ValueError:
            raise SettingsError(f"identity.{name}.certificate: is no X.509 certificate in PEM") from None
        if certificate.public_key() != private.public_key():
            raise SettingsError(f"identity.{name}.certificate: is of another key than identity.{name}.key")
        return cls(private, pem, base64.b64encode(certificate.public_bytes(Encoding.DER)).decode())
