"""Small files that prove who we are and that somebody else renews: tokens and private keys."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, OKPKey, RSAKey

REREAD_SECONDS = 10.0
"""The kubelet renews a projected token when four fifths of its life are over, so there is time."""
ALGORITHMS = {
    ("EC", "P-256"): "ES256",
    ("EC", "P-384"): "ES384",
    ("RSA", None): "PS256",
    ("OKP", "Ed25519"): "Ed25519",
}
"""By the key's type and curve."""


class KeyFileError(Exception):
    """The file cannot be used; `str()` names the setting, and holds nothing of the file."""


class RenewedFile:
    """A file that is read again now and then.

    Args:
        setting: how messages call it.
        path: where it is.
        clock: seconds that only go forward.
    """

    def __init__(self, setting: str, path: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.setting = setting
        self._path = path
        self._clock = clock
        self._text = ""
        self._read_at = float("-inf")

    def text(self) -> str:
        """What is in it, without white space around.

        Raises:
            KeyFileError: it cannot be read.
        """
        if self._clock() - self._read_at >= REREAD_SECONDS:
            try:
                self._text = self._path.read_text().strip()
            except (OSError, UnicodeDecodeError):
                raise KeyFileError(f"{self.setting} cannot be read") from None
            self._read_at = self._clock()
        return self._text


class SigningKey:
    """A private key in a file: PEM, or a JWK, whose `kid` goes into what it signs."""

    def __init__(self, file: RenewedFile) -> None:
        self._file = file
        self._text: str | None = None

    def sign(self, claims: dict[str, Any]) -> str:
        """A JWT (RFC 7519) of `claims`.

        Raises:
            KeyFileError: the file cannot be read, or is no private key.
        """
        text = self._file.text()
        if text != self._text:
            self._read(text)
            self._text = text
        return jwt.encode(self._header, claims, self._key, algorithms=[self._header["alg"]])

    def _read(self, text: str) -> None:
        try:
            # What the error says could be of the key.
            self._key = _private_key(text)
            algorithm = ALGORITHMS[self._key.key_type, getattr(self._key, "curve_name", None)]
        except (JoseError, ValueError, TypeError, KeyError):
            raise KeyFileError(
                f"{self._file.setting} must hold a private key (EC P-256 or P-384, RSA, Ed25519; PEM or JWK)"
            ) from None
        self._header = {"alg": algorithm, **({"kid": self._key.kid} if self._key.kid else {})}


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
