"""One password, hashed in each form that other systems write; with little cost, so that tests are quick."""

import base64
import hashlib
import json
from typing import Any

import bcrypt
from argon2.low_level import Type, hash_secret

PASSWORD = "correct horse battery"
_BYTES = PASSWORD.encode()
_SALT = b"salt-of-16-bytes"


def _b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _passlib(data: bytes) -> str:
    return _b64(data).rstrip("=").replace("+", ".")


def _pbkdf2(algorithm: str, size: int | None = None) -> bytes:
    return hashlib.pbkdf2_hmac(algorithm, _BYTES, _SALT, 1000, size)


def _argon2(kind: Type) -> str:
    return hash_secret(_BYTES, _SALT, 2, 1024, 1, 32, kind).decode()


def _salted(algorithm: str) -> str:
    return _b64(hashlib.new(algorithm, _BYTES + _SALT).digest() + _SALT)


_SCRYPT = hashlib.scrypt(_BYTES, salt=_SALT, n=1024, r=8, p=1, dklen=64)
_BCRYPT = bcrypt.hashpw(_BYTES, bcrypt.gensalt(4)).decode()
_BCRYPT_SHA256 = bcrypt.hashpw(hashlib.sha256(_BYTES).hexdigest().encode(), bcrypt.gensalt(4)).decode()
_TEXT = _SALT.decode()

FORMS = {
    "argon2id": _argon2(Type.ID),
    "argon2i": _argon2(Type.I),
    "argon2d": _argon2(Type.D),
    "bcrypt": _BCRYPT,
    "bcrypt 2a": _BCRYPT.replace("$2b$", "$2a$"),
    "bcrypt 2y": _BCRYPT.replace("$2b$", "$2y$"),
    "passlib scrypt": f"$scrypt$ln=10,r=8,p=1${_b64(_SALT).rstrip('=')}${_b64(_SCRYPT).rstrip('=')}",
    "passlib pbkdf2": f"$pbkdf2$1000${_passlib(_SALT)}${_passlib(_pbkdf2('sha1'))}",
    "passlib pbkdf2-sha256": f"$pbkdf2-sha256$1000${_passlib(_SALT)}${_passlib(_pbkdf2('sha256'))}",
    "passlib pbkdf2-sha512": f"$pbkdf2-sha512$1000${_passlib(_SALT)}${_passlib(_pbkdf2('sha512'))}",
    "django pbkdf2": f"pbkdf2_sha256$1000${_TEXT}${_b64(_pbkdf2('sha256'))}",
    "django pbkdf2 sha1": f"pbkdf2_sha1$1000${_TEXT}${_b64(_pbkdf2('sha1'))}",
    "django scrypt": f"scrypt${_TEXT}$1024$8$1${_b64(_SCRYPT)}",
    "django argon2": f"argon2{_argon2(Type.ID)}",
    "django bcrypt": f"bcrypt${_BCRYPT}",
    "django bcrypt_sha256": f"bcrypt_sha256${_BCRYPT_SHA256}",
    "werkzeug pbkdf2": f"pbkdf2:sha256:1000${_TEXT}${_pbkdf2('sha256').hex()}",
    "werkzeug scrypt": f"scrypt:1024:8:1${_TEXT}${_SCRYPT.hex()}",
    "ldap ssha": "{SSHA}" + _salted("sha1"),
    "ldap ssha256": "{SSHA256}" + _salted("sha256"),
    "ldap ssha384": "{ssha384}" + _salted("sha384"),
    "ldap ssha512": "{SSHA512}" + _salted("sha512"),
    "ldap pbkdf2": "{PBKDF2-SHA256}1000$" + f"{_passlib(_SALT)}${_passlib(_pbkdf2('sha256'))}",
    "ldap argon2": "{ARGON2}" + _argon2(Type.ID),
    "ldap crypt": "{CRYPT}" + _BCRYPT,
}
"""Each form and the password's hash in it."""


def keycloak_credential(algorithm: str) -> dict[str, Any]:
    """The password as Keycloak exports it; `algorithm` is its name there."""
    more: dict[str, Any] = {}
    if algorithm == "argon2":
        digest, iterations = base64.b64decode(FORMS["argon2id"].rsplit("$", 1)[1] + "="), 2
        more = {"version": ["1.3"], "memory": ["1024"], "parallelism": ["1"], "type": ["id"], "hashLength": ["32"]}
    else:
        digest, iterations = _pbkdf2("sha" + (algorithm.partition("-sha")[2] or "1"), 64), 1000
    secret = {"value": _b64(digest), "salt": _b64(_SALT), "additionalParameters": {}}
    data = {"hashIterations": iterations, "algorithm": algorithm, "additionalParameters": more}
    return {"type": "password", "secretData": json.dumps(secret), "credentialData": json.dumps(data)}
