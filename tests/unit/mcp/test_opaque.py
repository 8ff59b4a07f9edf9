"""The form of opaque tokens."""

import secrets
import string
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_common import opaque

BASE64URL = string.ascii_letters + string.digits + "-_"
BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
randoms = st.text(BASE64URL, min_size=43, max_size=43)


def token(random: str) -> str:
    return f"kst_at_{random}{opaque.checksum(f'kst_at_{random}')}"


def test_a_known_token_has_a_known_checksum() -> None:
    assert opaque.checksum("") == "000000"
    assert opaque.checksum("kst_at_" + "A" * 43) == "43rXl4"


@given(randoms)
def test_the_checksum_is_crc_32_in_base_62(random: str) -> None:
    digits = opaque.checksum(random)
    assert len(digits) == 6
    value = sum(BASE62.index(digit) * 62 ** (5 - place) for place, digit in enumerate(digits))
    assert value == zlib.crc32(random.encode())


@given(randoms)
def test_what_was_issued_is_well_formed(random: str) -> None:
    assert opaque.is_well_formed(token(random))


@given(randoms)
def test_no_prefix_of_a_token_is_well_formed(random: str) -> None:
    whole = token(random)
    assert not any(opaque.is_well_formed(whole[:length]) for length in range(len(whole)))


@given(randoms, st.integers(0, 55), st.sampled_from(BASE64URL))
def test_no_token_with_one_character_changed_is_well_formed(random: str, place: int, other: str) -> None:
    whole = token(random)
    changed = whole[:place] + other + whole[place + 1 :]
    assert opaque.is_well_formed(changed) == (changed == whole)


@pytest.mark.parametrize("tail", ["\n", " ", "=", "a", "é"])
def test_nothing_may_follow_a_token(tail: str) -> None:
    assert not opaque.is_well_formed(token(secrets.token_urlsafe(32)) + tail)


@pytest.mark.parametrize("prefix", ["kst_rt_", "kst_at", "KST_AT_", "", "xkst_at_"])
def test_another_kind_of_token_is_not_an_access_token(prefix: str) -> None:
    text = prefix + secrets.token_urlsafe(32)
    assert not opaque.is_well_formed(text + opaque.checksum(text))
