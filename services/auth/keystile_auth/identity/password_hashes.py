"""Password hashes of other systems: what of them is accepted, and whether a password matches one.

What a hash costs to check is bounded: whoever can bring a hash in must not be able to choose what a sign-in costs.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass, replace

import bcrypt
from argon2.exceptions import Argon2Error
from argon2.low_level import Type, hash_secret_raw

ARGON2 = {"argon2id": Type.ID, "argon2i": Type.I, "argon2d": Type.D}
_MAX_MEMORY_KIB = 102_400  # twice this has room in a pod's memory; Django's argon2 takes it
_MAX_ARGON2_KIB_PASSES = 1_048_576  # a second
_MAX_SCRYPT_BYTES = 1 << 30  # read and written in all: two seconds
_MAX_PBKDF2_ROUNDS = 2_000_000  # one to two seconds
_MAX_PARALLEL = 16
_MAX_SCRYPT_LOG, _MAX_SCRYPT_BLOCK = 20, 64
_BCRYPT_COSTS = range(4, 15)  # 14 takes a second
_ARGON2_SALT_BYTES = 8
_BCRYPT_BYTES = 72  # bcrypt knows no more of a password, and so those who made the hash looked at no more
_SALT_BYTES = range(4, 257)
_DIGEST_BYTES = range(16, 129)


class PasswordHashError(Exception):
    """A hash that is not accepted; `str()` says why, and never holds any of it."""


@dataclass(frozen=True, slots=True)
class PasswordHash:
    """A hash whose cost is bounded.

    Attributes:
        scheme: such as `argon2id`, `bcrypt`, `pbkdf2-sha256`.
        costs: argon2: version, KiB, passes, lanes. bcrypt: cost. scrypt: log2(N), r, p. PBKDF2: iterations.
        salt: random bytes; for bcrypt its 22 characters.
        digest: what the password is compared by; for bcrypt its 31 characters.

    Raises:
        PasswordHashError: it would cost too much, or has no salt or too short a digest.
    """

    scheme: str
    costs: tuple[int, ...]
    salt: bytes
    digest: bytes

    def __post_init__(self) -> None:
        if len(self.salt) not in _SALT_BYTES:
            raise PasswordHashError("its salt is too short or too long")
        if len(self.digest) not in _DIGEST_BYTES:
            raise PasswordHashError("its digest is too short or too long")
        if not _is_bounded(self):
            raise PasswordHashError("its cost is out of bounds")

    @property
    def shape(self) -> str:
        """Everything that decides what it costs to check: the same for each hash of the same settings."""
        return f"{self.scheme}:{','.join(map(str, self.costs))}:{len(self.salt)}:{len(self.digest)}"

    def matches(self, password: str) -> bool:
        """Whether it is the hash of `password`; compared in constant time. Up to two seconds and 100 MiB."""
        try:
            made = _digest(self, password.encode())
        except (ValueError, Argon2Error, MemoryError):  # a NUL in the password, which bcrypt cannot have
            return False
        return hmac.compare_digest(made, self.digest)

    def of_nobody(self) -> "PasswordHash":
        """A hash of the same shape that no password has."""
        if "bcrypt" in self.scheme:
            return replace(self, salt=bcrypt.gensalt(4)[7:29], digest=secrets.token_hex(16)[:31].encode())
        return replace(self, salt=secrets.token_bytes(len(self.salt)), digest=secrets.token_bytes(len(self.digest)))

    def __str__(self) -> str:
        """As it is stored; `password_hash_forms.read` reads it."""
        salt, digest = _encode(self.salt), _encode(self.digest)
        if self.scheme in ARGON2:
            version, memory, passes, lanes = self.costs
            return f"${self.scheme}$v={version}$m={memory},t={passes},p={lanes}${salt}${digest}"
        if self.scheme == "bcrypt":
            return f"$2b${self.costs[0]:02}${self.salt.decode()}{self.digest.decode()}"
        if self.scheme == "django-bcrypt-sha256":
            return f"${self.scheme}$2b${self.costs[0]:02}${self.salt.decode()}{self.digest.decode()}"
        if self.scheme == "scrypt":
            n, r, p = self.costs
            return f"$scrypt$ln={n},r={r},p={p}${salt}${digest}"
        if self.scheme.startswith("pbkdf2-"):
            return f"${self.scheme}$i={self.costs[0]}${salt}${digest}"
        return f"${self.scheme}${salt}${digest}"

    def __repr__(self) -> str:
        """Without anything of the hash."""
        return f"PasswordHash({self.shape})"


def _is_bounded(each: PasswordHash) -> bool:
    match each.scheme, each.costs:
        case "argon2id" | "argon2i" | "argon2d", (version, memory, passes, lanes):
            return (
                version in {16, 19}
                and 1 <= lanes <= _MAX_PARALLEL
                and 8 * lanes <= memory <= _MAX_MEMORY_KIB
                and 1 <= passes <= _MAX_ARGON2_KIB_PASSES // memory
                and len(each.salt) >= _ARGON2_SALT_BYTES
            )
        case "bcrypt" | "django-bcrypt-sha256", (cost,):
            return cost in _BCRYPT_COSTS and (len(each.salt), len(each.digest)) == (22, 31)
        case "scrypt", (n, r, p):
            if not (1 <= n <= _MAX_SCRYPT_LOG and 1 <= r <= _MAX_SCRYPT_BLOCK and 1 <= p <= _MAX_PARALLEL):
                return False
            memory = 128 * r << n
            return memory <= _MAX_MEMORY_KIB * 1024 and memory * p <= _MAX_SCRYPT_BYTES
        case "pbkdf2-sha1" | "pbkdf2-sha256" | "pbkdf2-sha512", (iterations,):
            blocks = -(-len(each.digest) // _digest_bytes(each.scheme))
            return 1 <= iterations <= _MAX_PBKDF2_ROUNDS // blocks
        case "ssha-sha1" | "ssha-sha256" | "ssha-sha384" | "ssha-sha512", ():
            return len(each.digest) == _digest_bytes(each.scheme)
        case _:
            return False


def _digest_bytes(scheme: str) -> int:
    return hashlib.new(scheme.partition("-")[2], usedforsecurity=False).digest_size


def _digest(each: PasswordHash, password: bytes) -> bytes:
    scheme, _, algorithm = each.scheme.partition("-")
    if each.scheme in ARGON2:
        version, memory, passes, lanes = each.costs
        size = len(each.digest)
        return hash_secret_raw(password, each.salt, passes, memory, lanes, size, ARGON2[each.scheme], version)
    if scheme == "bcrypt":
        return _bcrypt(each, password[:_BCRYPT_BYTES])
    if scheme == "django":
        return _bcrypt(each, hashlib.sha256(password).hexdigest().encode())
    if scheme == "scrypt":
        n, r, p = each.costs
        most = 2 * _MAX_MEMORY_KIB * 1024
        return hashlib.scrypt(password, salt=each.salt, n=1 << n, r=r, p=p, maxmem=most, dklen=len(each.digest))
    if scheme == "pbkdf2":
        return hashlib.pbkdf2_hmac(algorithm, password, each.salt, each.costs[0], len(each.digest))
    return hashlib.new(algorithm, password + each.salt, usedforsecurity=False).digest()


def _bcrypt(each: PasswordHash, password: bytes) -> bytes:
    return bcrypt.hashpw(password, b"$2b$%02d$%s" % (each.costs[0], each.salt))[29:]


def _encode(data: bytes) -> str:
    return base64.b64encode(data).rstrip(b"=").decode()
