"""Base64url without padding."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_common import base64url


@given(st.binary(max_size=100))
def test_it_is_that_of_the_standard_library_without_its_padding(data: bytes) -> None:
    text = base64url.encode(data)
    assert text == base64.urlsafe_b64encode(data).rstrip(b"=").decode()
    assert base64url.decode(text) == data


@pytest.mark.parametrize("text", ["A", "AAAAA", "ä", "\u2028"])
def test_what_no_bytes_become_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        base64url.decode(text)
