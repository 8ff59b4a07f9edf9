"""The forms in which password hashes are written: ours, passlib's, Django's, Werkzeug's and those of directories."""

import base64
import binascii
from collections.abc import Callable

from keystile_auth.identity.password_hashes import ARGON2, PasswordHash, PasswordHashError

_MAX_CHARACTERS = 1024
_MAX_DIGITS = 10
_BCRYPT_SALT, _BCRYPT_CHARACTERS = 22, 53  # without the head
_SHA = {"sha1": "sha1", "sha256": "sha256", "sha512": "sha512"}
_LDAP_SALTED = {"{SSHA}": ("sha1", 20), "{SSHA256}": ("sha256", 32), "{SSHA384}": ("sha384", 48)}
_LDAP_SALTED["{SSHA512}"] = ("sha512", 64)


def read(text: str) -> PasswordHash:
    """Read a hash in any of the forms.

    Raises:
        PasswordHashError: it is in none of them, broken, or would cost too much to check.
    """
    if len(text) > _MAX_CHARACTERS:
        raise PasswordHashError("it is longer than a password hash")
    for prefix, reader in _READERS:
        if text.startswith(prefix):
            try:
                return reader(text)
            except (ValueError, IndexError, KeyError):
                raise PasswordHashError("it is broken") from None
    raise PasswordHashError("it is of a kind that is not accepted")


def looks_like_one(text: str) -> bool:
    """Whether it is meant as a hash, be it a good one or not, rather than as a password in plain text."""
    return text.startswith(("$", "{")) or any(text.startswith(prefix) for prefix, _ in _READERS)


def decode(text: str) -> bytes:
    """The bytes of base64 with or without padding, or with passlib's `.` in place of `+`.

    Raises:
        ValueError: it is not base64.
    """
    text = text.replace(".", "+").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise ValueError("not base64") from None


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS):
        raise ValueError("not a number")
    return int(text)


def _named(text: str, *names: str) -> tuple[int, ...]:
    """The numbers of `m=1,t=2`, which must be there under these names."""
    given = dict(part.split("=") for part in text.split(","))
    return tuple(_number(given[name]) for name in names)


def _argon2(text: str) -> PasswordHash:
    parts = text.split("$")[1:]
    if parts[0] not in ARGON2:
        raise PasswordHashError("it is of a kind that is not accepted")
    (version,) = _named(parts.pop(1), "v") if parts[1].startswith("v=") else (16,)
    scheme, costs, salt, digest = parts
    return PasswordHash(scheme, (version, *_named(costs, "m", "t", "p")), decode(salt), decode(digest))


def _bcrypt(text: str, scheme: str = "bcrypt") -> PasswordHash:
    _, ident, cost, rest = text.split("$")
    if ident not in {"2a", "2b", "2y"}:  # 2 and 2x are of implementations with known faults
        raise PasswordHashError("it is of a kind of bcrypt that is not accepted")
    if len(rest) != _BCRYPT_CHARACTERS or not rest.isascii() or not rest.replace(".", "").replace("/", "").isalnum():
        raise ValueError("not bcrypt")
    return PasswordHash(scheme, (_number(cost),), rest[:_BCRYPT_SALT].encode(), rest[_BCRYPT_SALT:].encode())


def _scrypt(text: str) -> PasswordHash:
    _, _, costs, salt, digest = text.split("$")
    return PasswordHash("scrypt", _named(costs, "ln", "r", "p"), decode(salt), decode(digest))


def _scrypt_of_django(text: str) -> PasswordHash:
    _, salt, n, r, p, digest = text.split("$")
    return PasswordHash("scrypt", (_exponent(n), _number(r), _number(p)), salt.encode(), decode(digest))


def _scrypt_of_werkzeug(text: str) -> PasswordHash:
    method, salt, digest = text.split("$")
    _, n, r, p = method.split(":")
    costs = (_exponent(n), _number(r), _number(p))
    return PasswordHash("scrypt", costs, salt.encode(), bytes.fromhex(digest))


def _exponent(text: str) -> int:
    n = _number(text)
    if n.bit_count() != 1:
        raise ValueError("not a power of two")
    return n.bit_length() - 1


def _pbkdf2(text: str) -> PasswordHash:
    _, scheme, costs, salt, digest = text.split("$")
    algorithm = _SHA[scheme.partition("-")[2] or "sha1"]  # passlib's `$pbkdf2$` is with SHA-1
    iterations = _named(costs, "i")[0] if "=" in costs else _number(costs)
    return PasswordHash(f"pbkdf2-{algorithm}", (iterations,), decode(salt), decode(digest))


def _pbkdf2_of_django(text: str) -> PasswordHash:
    method, iterations, salt, digest = text.split("$")
    algorithm = _SHA[method.removeprefix("pbkdf2_")]
    return PasswordHash(f"pbkdf2-{algorithm}", (_number(iterations),), salt.encode(), decode(digest))


def _pbkdf2_of_werkzeug(text: str) -> PasswordHash:
    method, salt, digest = text.split("$")
    _, algorithm, iterations = method.split(":")
    return PasswordHash(f"pbkdf2-{_SHA[algorithm]}", (_number(iterations),), salt.encode(), bytes.fromhex(digest))


def _salted_sha(text: str) -> PasswordHash:
    _, scheme, salt, digest = text.split("$")
    return PasswordHash(scheme, (), decode(salt), decode(digest))


def _of_directory(text: str) -> PasswordHash:
    """`{SSHA256}…` and its like (RFC 3112's scheme names, as OpenLDAP and 389 Directory Server write them)."""
    name, _, value = text.partition("}")
    name = f"{name.upper()}}}"
    if name in _LDAP_SALTED:
        algorithm, size = _LDAP_SALTED[name]
        data = decode(value)
        return PasswordHash(f"ssha-{algorithm}", (), data[size:], data[:size])
    if name in {"{CRYPT}", "{BCRYPT}"} and value.startswith("$2"):
        return _bcrypt(value)
    if name == "{ARGON2}":
        return _argon2(value)
    if name.startswith("{PBKDF2"):
        algorithm = name[1:-1].lower().replace("_", "-")
        return _pbkdf2(f"${algorithm}${value}")
    raise PasswordHashError("it is of a kind that is not accepted")


_READERS: tuple[tuple[str, Callable[[str], PasswordHash]], ...] = (
    ("$argon2", _argon2),
    ("$2", _bcrypt),
    ("$scrypt$", _scrypt),
    ("$pbkdf2", _pbkdf2),
    ("$ssha-", _salted_sha),
    ("$django-bcrypt-sha256$2", lambda text: _bcrypt(text[21:], "django-bcrypt-sha256")),
    ("{", _of_directory),
    ("pbkdf2_", _pbkdf2_of_django),
    ("pbkdf2:", _pbkdf2_of_werkzeug),
    ("scrypt$", _scrypt_of_django),
    ("scrypt:", _scrypt_of_werkzeug),
    ("argon2$argon2", lambda text: _argon2(text[6:])),
    ("bcrypt$$2", lambda text: _bcrypt(text[7:])),
    ("bcrypt_sha256$$2", lambda text: _bcrypt(text[14:], "django-bcrypt-sha256")),
)
