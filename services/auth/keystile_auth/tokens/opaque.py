"""Opaque tokens: how they look, how they are made, how junk is told from them without a look-up.

| kind | text |
|---|---|
| access token | `kst_at_` + 43 base64url characters + 6 of checksum |
| authorization code | `kst_ac_` + the same |
| refresh token | `kst_rt_` + 70 base64url characters: grant, generation, secret, HMAC |

The first 16 base64url characters are the grant's id, from which the store's key (and in a cluster, its
slot) follows. It is a name, not a secret; 160 random bits follow it. Only SHA-256 of a token is stored.
"""

import hashlib
import hmac
import re
import secrets
import struct
from dataclasses import dataclass

from keystile_auth.tokens.master_key import MasterKey
from keystile_common import base64url
from keystile_common.opaque import checksum

_GRANT_BYTES = 12
_SECRET_BYTES = 20
_MAC_BYTES = 16
_GRANT = slice(7, 23)
"""Where a token's text has its grant's id."""
_CHECKED = re.compile(r"kst_(at|ac)_[A-Za-z0-9_-]{43}[0-9A-Za-z]{6}")
# Its last character holds two bits: base64 has several spellings of it, and only the one we write is ours.
_REFRESH = re.compile(r"kst_rt_[A-Za-z0-9_-]{69}[AQgw]")
_LAYOUT = struct.Struct(f">{_GRANT_BYTES}sI{_SECRET_BYTES}s")


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed token: its text, the grant it names, and what the store knows it by."""

    text: str
    grant_id: str

    @property
    def hash(self) -> str:
        """SHA-256 in base64url without padding, 43 characters."""
        return base64url.encode(hashlib.sha256(self.text.encode()).digest())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(grant_id={self.grant_id!r})"


@dataclass(frozen=True, slots=True, repr=False)
class RefreshToken(Token):
    """A refresh token whose signature holds: we made it, as this generation of its family."""

    generation: int


def new_grant_id() -> str:
    """16 characters, 96 random bits."""
    return base64url.encode(secrets.token_bytes(_GRANT_BYTES))


def new_access_token(grant_id: str) -> Token:
    """A new access token of a grant."""
    return _checked("at", grant_id, secrets.token_bytes(_SECRET_BYTES))


def new_code(grant_id: str) -> Token:
    """A new authorization code of a grant."""
    return _checked("ac", grant_id, secrets.token_bytes(_SECRET_BYTES))


def parse_access_token(text: str) -> Token | None:
    """The access token that `text` is, or None when it cannot be one of ours."""
    return _parse("at", text)


def parse_code(text: str) -> Token | None:
    """The authorization code that `text` is, or None when it cannot be one of ours."""
    return _parse("ac", text)


class RefreshTokens:
    """Makes and checks refresh tokens.

    A successor follows from its predecessor and the master key. Whoever presents the same token again
    within the grace is answered the very same successor, though the store holds no token to answer with.
    """

    def __init__(self, master_key: MasterKey) -> None:
        # Copied for each message: to begin anew with a key takes as long as the rest.
        self._signature = hmac.new(master_key.derive("refresh token signature"), digestmod="sha256")
        self._succession = hmac.new(master_key.derive("refresh token succession"), digestmod="sha256")

    def first(self, grant_id: str) -> RefreshToken:
        """Generation 0 of a family."""
        return self._make(grant_id, 0, secrets.token_bytes(_SECRET_BYTES))

    def successor(self, token: RefreshToken) -> RefreshToken:
        """The next generation; always the same one for the same token."""
        return self._make(token.grant_id, token.generation + 1, self._follow(b"refresh", token))

    def access_token(self, token: RefreshToken) -> Token:
        """The access token that comes with the successor; always the same one for the same token."""
        return _checked("at", token.grant_id, self._follow(b"access", token))

    def parse(self, text: str) -> RefreshToken | None:
        """The refresh token that `text` is, or None when we did not make it."""
        if not _REFRESH.fullmatch(text):
            return None
        data = base64url.decode(text[7:])
        body, mac = data[:-_MAC_BYTES], data[-_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._sign(body)):
            return None
        _, generation, _ = _LAYOUT.unpack(body)
        return RefreshToken(text, text[_GRANT], generation)

    def _make(self, grant_id: str, generation: int, secret: bytes) -> RefreshToken:
        body = _LAYOUT.pack(base64url.decode(grant_id), generation, secret)
        return RefreshToken(f"kst_rt_{base64url.encode(body + self._sign(body))}", grant_id, generation)

    def _sign(self, body: bytes) -> bytes:
        return _mac(self._signature, body)[:_MAC_BYTES]

    def _follow(self, what: bytes, token: RefreshToken) -> bytes:
        return _mac(self._succession, what + token.text.encode())[:_SECRET_BYTES]


def _mac(begun: hmac.HMAC, message: bytes) -> bytes:
    mac = begun.copy()
    mac.update(message)
    return mac.digest()


def _checked(kind: str, grant_id: str, secret: bytes) -> Token:
    text = f"kst_{kind}_{base64url.encode(base64url.decode(grant_id) + secret)}"
    return Token(text + checksum(text), grant_id)


def _parse(kind: str, text: str) -> Token | None:
    match = _CHECKED.fullmatch(text)
    if not match or match[1] != kind or not hmac.compare_digest(checksum(text[:-6]), text[-6:]):
        return None
    return Token(text, text[_GRANT])
