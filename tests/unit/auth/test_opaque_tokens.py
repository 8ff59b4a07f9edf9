"""Opaque tokens: made, read back, and told from junk without a look-up."""

import string
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.tokens import opaque
from keystile_auth.tokens.master_key import MasterKey
from keystile_auth.tokens.opaque import RefreshTokens, Token
from keystile_common.opaque import is_well_formed

TOKENS = RefreshTokens(MasterKey(b"k" * 32))
GRANT_IDS = st.builds(opaque.new_grant_id)
Parse = Callable[[str], Token | None]
KINDS: list[tuple[Callable[[str], Token], Parse]] = [
    (opaque.new_access_token, opaque.parse_access_token),
    (opaque.new_code, opaque.parse_code),
    (TOKENS.first, TOKENS.parse),
]
every_kind = pytest.mark.parametrize(("make", "parse"), KINDS, ids=["access_token", "code", "refresh_token"])


@every_kind
@given(grant_id=GRANT_IDS)
def test_a_token_reads_back_as_it_was_made(make: Callable[[str], Token], parse: Parse, grant_id: str) -> None:
    token = make(grant_id)
    assert parse(token.text) == token
    assert token.grant_id == grant_id


@every_kind
def test_every_truncation_of_a_token_is_refused(make: Callable[[str], Token], parse: Parse) -> None:
    text = make(opaque.new_grant_id()).text
    assert not [length for length in range(len(text)) if parse(text[:length])]
    assert not [length for length in range(1, len(text)) if parse(text[length:])]


@every_kind
def test_every_changed_character_of_a_token_is_refused(make: Callable[[str], Token], parse: Parse) -> None:
    text = make(opaque.new_grant_id()).text
    alphabet = string.ascii_letters + string.digits + "-_=. \n\x00é"
    changed = [
        text[:place] + character + text[place + 1 :]
        for place in range(len(text))
        for character in alphabet
        if character != text[place]
    ]
    assert not [each for each in changed if parse(each)]


@every_kind
def test_a_token_with_anything_around_it_is_refused(make: Callable[[str], Token], parse: Parse) -> None:
    text = make(opaque.new_grant_id()).text
    for each in (f"{text}\n", f"{text} ", f" {text}", f"{text}=", f"{text}A", text + text, f"Bearer {text}"):
        assert parse(each) is None


@every_kind
@given(junk=st.text())
def test_junk_is_refused(make: Callable[[str], Token], parse: Parse, junk: str) -> None:
    prefix = make(opaque.new_grant_id()).text[:7]
    assert parse(junk) is None
    assert parse(prefix + junk) is None


def test_no_kind_of_token_reads_as_another() -> None:
    for make, own in KINDS:
        text = make(opaque.new_grant_id()).text
        assert [parse for _, parse in KINDS if parse(text)] == [own]


def test_a_resource_server_knows_an_access_token_by_its_form() -> None:
    assert is_well_formed(opaque.new_access_token(opaque.new_grant_id()).text)
    assert not is_well_formed(opaque.new_code(opaque.new_grant_id()).text)


def test_tokens_of_one_grant_differ_and_each_carries_160_random_bits() -> None:
    grant_id = opaque.new_grant_id()
    texts = {opaque.new_access_token(grant_id).text for _ in range(100)}
    assert len(texts) == 100
    # Behind prefix and grant stand 27 characters of 6 bits (the first 16 of 43 are the grant's), then the checksum.
    assert {len(text) for text in texts} == {7 + 43 + 6}


@given(grant_id=GRANT_IDS, rotations=st.integers(min_value=1, max_value=5))
def test_a_successor_follows_from_its_predecessor_and_nothing_else(grant_id: str, rotations: int) -> None:
    token = TOKENS.first(grant_id)
    for generation in range(1, rotations + 1):
        successor = TOKENS.successor(token)
        assert successor == RefreshTokens(MasterKey(b"k" * 32)).successor(token)
        assert TOKENS.access_token(token) == RefreshTokens(MasterKey(b"k" * 32)).access_token(token)
        assert (successor.generation, successor.grant_id) == (generation, grant_id)
        assert opaque.parse_access_token(TOKENS.access_token(token).text) is not None
        token = successor


def test_two_refresh_tokens_have_different_successors_and_access_tokens() -> None:
    grant_id = opaque.new_grant_id()
    one, other = TOKENS.first(grant_id), TOKENS.first(grant_id)
    assert TOKENS.successor(one) != TOKENS.successor(other)
    assert TOKENS.access_token(one) != TOKENS.access_token(other)
    assert TOKENS.access_token(one) != TOKENS.access_token(TOKENS.successor(one))


def test_a_refresh_token_signed_under_another_master_key_is_refused() -> None:
    foreign = RefreshTokens(MasterKey(b"x" * 32)).first(opaque.new_grant_id())
    assert TOKENS.parse(foreign.text) is None


def test_a_token_does_not_show_itself_when_it_is_printed() -> None:
    for make, _ in KINDS:
        token = make(opaque.new_grant_id())
        assert token.text not in repr(token)
        assert token.hash not in repr(token)
