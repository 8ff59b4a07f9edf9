"""Password hashes of other systems: each form is read, written in ours, and its cost is bounded."""

import base64

import bcrypt
import pytest
from argon2.low_level import Type, hash_secret
from hypothesis import given, settings
from hypothesis import strategies as st

from keystile_auth.identity.password_hash_forms import looks_like_one, read
from keystile_auth.identity.password_hashes import PasswordHashError
from tests.password_hashes import FORMS, PASSWORD


@pytest.mark.parametrize("form", FORMS)
def test_each_form_matches_its_password_alone_and_is_read_again_as_it_is_written(form: str) -> None:
    found = read(FORMS[form])
    assert found.matches(PASSWORD)
    assert not found.matches(f"{PASSWORD} ")
    assert str(read(str(found))) == str(found)
    assert read(str(found)).matches(PASSWORD)
    assert looks_like_one(FORMS[form])


@pytest.mark.parametrize("form", FORMS)
def test_a_hash_of_nobody_costs_the_same_and_matches_nothing(form: str) -> None:
    found = read(FORMS[form])
    nobody = found.of_nobody()
    assert nobody.shape == found.shape
    assert nobody.digest != found.digest
    assert not nobody.matches(PASSWORD)
    assert read(str(nobody)).shape == found.shape


@pytest.mark.parametrize("form", FORMS)
def test_a_representation_shows_nothing_of_the_hash(form: str) -> None:
    found = read(FORMS[form])
    assert base64.b64encode(found.digest).decode() not in repr(found)
    assert found.digest.decode(errors="replace") not in repr(found)


SALT = "c2FsdHNhbHRzYWx0"
DIGEST = "A" * 43


@pytest.mark.parametrize(
    "text",
    [
        f"$argon2id$v=19$m=4294967295,t=1,p=1${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=1000000,p=1${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=1,p=255${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=0,p=1${SALT}${DIGEST}",
        f"$argon2id$v=18$m=65536,t=1,p=1${SALT}${DIGEST}",
        f"$argon2id$v=19$m=65536,t=1,p=1$c2FsdA${DIGEST}",
        "$2b$31$" + "a" * 53,
        "$2b$15$" + "a" * 53,
        "$2b$03$" + "a" * 53,
        f"$scrypt$ln=40,r=8,p=1${SALT}${DIGEST}",
        f"$scrypt$ln=17,r=8,p=1${SALT}${DIGEST}",
        f"$scrypt$ln=16,r=8,p=1000${SALT}${DIGEST}",
        f"$scrypt$ln=0,r=8,p=1${SALT}${DIGEST}",
        f"$pbkdf2-sha256$i=2000001${SALT}${DIGEST}",
        f"$pbkdf2-sha256$i=0${SALT}${DIGEST}",
        f"$pbkdf2-sha1$i=1500000${SALT}${DIGEST}",
        f"$pbkdf2-sha256$i=1000${SALT}${'A' * 400}",
        f"$pbkdf2-sha256$i=1000$$${DIGEST}",
        f"$pbkdf2-sha256$i=1000${SALT}$AAAA",
        "{SSHA}" + base64.b64encode(b"x" * 20).decode(),
    ],
)
def test_a_hash_that_would_cost_too_much_or_is_worth_nothing_is_refused(text: str) -> None:
    with pytest.raises(PasswordHashError):
        read(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "password",
        "$1$salt$hash",
        "$6$rounds=5000$salt$hash",
        "{MD5}XUFAKrxLKna5cZ2REBfFkg==",
        "{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=",
        "{CRYPT}$6$salt$hash",
        "{SSHA}*",
        "{SSHA",
        "$argon2x$v=19$m=8,t=1,p=1$a$b",
        "$argon2id",
        "$argon2id$v=19$m=8,t=1$a$b",
        "$2x$10$" + "a" * 53,
        "$2b$10$" + "a" * 52,
        "$2b$10$" + "a" * 52 + "!",
        "$2b$ab$" + "a" * 53,
        f"$pbkdf2-md5$i=1000${SALT}${DIGEST}",
        f"$pbkdf2-sha256$i=-5${SALT}${DIGEST}",
        f"$pbkdf2-sha256$i=\u0661000${SALT}${DIGEST}",
        f"scrypt$salt$15000$8$1${DIGEST}",
        f"scrypt:0:8:1$salt${DIGEST}",
        "$ssha-md5$c2FsdA$" + "A" * 22,
        "$" + "x" * 2000,
    ],
)
def test_what_is_no_hash_or_of_a_kind_that_is_not_accepted_is_refused(text: str) -> None:
    with pytest.raises(PasswordHashError) as refused:
        read(text)
    assert not text or text not in str(refused.value)


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_any_text_is_read_or_refused(text: str) -> None:
    for prefix in ("", "$argon2id$", "$2b$", "$scrypt$", "$pbkdf2-sha256$", "{SSHA}", "pbkdf2_sha256$", "scrypt:"):
        with pytest.raises(PasswordHashError):
            read(prefix + text)


def test_bcrypt_looks_at_72_bytes_as_it_did_where_the_hash_was_made() -> None:
    found = read(bcrypt.hashpw(b"x" * 72, bcrypt.gensalt(4)).decode())
    assert found.matches("x" * 100)
    assert not found.matches("a password\0with nothing")


def test_a_password_that_is_no_text_matches_nothing() -> None:
    assert not read(FORMS["argon2id"]).matches("\ud800")


def test_argon2_without_a_version_is_of_the_first_one() -> None:
    made = hash_secret(PASSWORD.encode(), b"saltsalt", 1, 64, 1, 32, Type.I, 16).decode()
    assert read(made.replace("$v=16", "")).matches(PASSWORD)
