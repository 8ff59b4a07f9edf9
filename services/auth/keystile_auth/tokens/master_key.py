"""The one secret an operator gives, and the keys derived from it."""

import base64
import hashlib
import hmac
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12


class WrongMasterKeyError(Exception):
    """What is in the store was encrypted under another master key."""


class MasterKey:
    """Derives one 32-byte key a purpose (RFC 5869), so that no key does two jobs."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def derive(self, purpose: str) -> bytes:
        """The 32-byte key for `purpose`, always the same one."""
        return HKDF(SHA256(), 32, salt=None, info=f"keystile {purpose}".encode()).derive(self._secret)

    def mac(self, purpose: str, message: bytes) -> bytes:
        """HMAC-SHA256 of `message` under the key for `purpose`: 32 bytes."""
        return hmac.digest(self.derive(purpose), message, hashlib.sha256)

    def encrypt(self, purpose: str, plain: bytes) -> str:
        """AES-256-GCM, as base64url text that says for what it was encrypted only to who has the key."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = AESGCM(self.derive(purpose)).encrypt(nonce, plain, purpose.encode())
        return base64.urlsafe_b64encode(nonce + sealed).decode()

    def decrypt(self, purpose: str, text: str) -> bytes:
        """What `encrypt` was given.

        Raises:
            WrongMasterKeyError: another key or purpose encrypted it, or it was changed.
        """
        data = base64.urlsafe_b64decode(text)
        try:
            return AESGCM(self.derive(purpose)).decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], purpose.encode())
        except InvalidTag:
            raise WrongMasterKeyError from None
