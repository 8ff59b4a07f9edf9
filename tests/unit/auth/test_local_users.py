"""What the password of nobody is compared with."""

from argon2 import PasswordHasher

from keystile_auth.identity.local import hash_of_nobody
from keystile_auth.identity.password_hash_forms import read


def test_a_hash_of_nobody_costs_as_much_to_check_as_one_of_a_password_and_is_no_passwords() -> None:
    hasher = PasswordHasher()
    nobody, somebody = read(hash_of_nobody(hasher)), read(hasher.hash("correct horse battery"))
    assert nobody.shape == somebody.shape
    assert not nobody.matches("correct horse battery")
    assert not hasher.check_needs_rehash(str(nobody))


def test_two_servers_have_different_hashes_of_nobody() -> None:
    assert hash_of_nobody(PasswordHasher()) != hash_of_nobody(PasswordHasher())
