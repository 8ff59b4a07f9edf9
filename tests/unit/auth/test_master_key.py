"""The master key: one key a purpose, and what is sealed under it."""

import pytest

from keystile_auth.tokens.master_key import MasterKey, WrongMasterKeyError

KEY = MasterKey(b"k" * 32)


def test_what_was_sealed_is_opened_by_the_same_key_for_the_same_purpose() -> None:
    assert KEY.decrypt("keys", KEY.encrypt("keys", b"private")) == b"private"


def test_nothing_sealed_shows_or_repeats_what_is_in_it() -> None:
    assert KEY.encrypt("keys", b"private") != KEY.encrypt("keys", b"private")


def test_another_key_or_another_purpose_opens_nothing() -> None:
    sealed = KEY.encrypt("keys", b"private")
    with pytest.raises(WrongMasterKeyError):
        MasterKey(b"x" * 32).decrypt("keys", sealed)
    with pytest.raises(WrongMasterKeyError):
        KEY.decrypt("cookies", sealed)


def test_what_was_changed_is_not_opened() -> None:
    sealed = KEY.encrypt("keys", b"private")
    flipped = sealed[:-6] + ("A" if sealed[-6] != "A" else "B") + sealed[-5:]
    with pytest.raises(WrongMasterKeyError):
        KEY.decrypt("keys", flipped)


def test_each_purpose_has_a_key_of_its_own() -> None:
    assert KEY.derive("one") == KEY.derive("one")
    assert KEY.derive("one") != KEY.derive("two")
    assert len(KEY.mac("one", b"message")) == 32
    assert KEY.mac("one", b"message") != KEY.mac("two", b"message")
