"""How long a metadata document may be kept (RFC 9111 section 4.2)."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from keystile_auth.clients.metadata_document import _cache_seconds as cache_seconds
from keystile_common.outbound import Document

DAY = 86400


def seconds(most: int = DAY, **headers: str) -> int:
    return cache_seconds(Document(b"", {name.replace("_", "-"): value for name, value in headers.items()}), most)


def date(offset: int = 0) -> str:
    return format_datetime(datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=offset), usegmt=True)


@pytest.mark.parametrize(
    ("control", "kept"),
    [
        ("max-age=600", 600),
        ("public, max-age=600", 600),
        ("MAX-AGE=600", 600),
        ('max-age="600"', 600),
        ("max-age=0", 0),
        ("max-age=99999999", DAY),
        ("no-store", 0),
        ("no-cache", 0),
        ("private, max-age=600", 0),
        ("max-age=600, no-store", 0),
        ("s-maxage=60, max-age=600", 60),
        ("max-age=600, s-maxage=0", 0),
        ("must-revalidate", 300),
        ("max-age=abc", 300),
        ("", 300),
    ],
)
def test_cache_control_decides(control: str, kept: int) -> None:
    assert seconds(cache_control=control) == kept


def test_the_age_that_a_cache_on_the_way_says_is_taken_off() -> None:
    assert seconds(cache_control="max-age=600", age="200") == 400
    assert seconds(cache_control="max-age=600", age="700") == 0
    assert seconds(cache_control="max-age=600", age="soon") == 600


def test_expires_counts_where_max_age_is_missing() -> None:
    assert seconds(expires=date(600), date=date()) == 600
    assert seconds(expires=date(600), date=date(), age="100") == 500
    assert seconds(expires=date(-600), date=date()) == 0
    assert seconds(expires=date(600), date=date(), cache_control="max-age=5") == 5


def test_expires_without_a_date_counts_from_now() -> None:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=100), usegmt=True)
    assert 95 <= seconds(expires=soon) <= 100


@pytest.mark.parametrize("expires", ["0", "-1", "never"])
def test_an_expires_that_is_no_date_lies_in_the_past(expires: str) -> None:
    assert seconds(expires=expires, date=date()) == 0


def test_nothing_is_kept_longer_than_the_setting_says() -> None:
    assert seconds(most=10, cache_control="max-age=600") == 10
    assert seconds(most=10, expires=date(600), date=date()) == 10
    assert seconds(most=10) == 10
    assert seconds(most=0) == 0
