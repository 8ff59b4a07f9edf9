"""Times and durations as XML Schema writes them."""

import re
from datetime import datetime

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,12})?(Z|[+-]\d\d:\d\d)")
_DURATION = re.compile(r"P(?:(\d{1,4})D)?(?:T(?:(\d{1,5})H)?(?:(\d{1,6})M)?(?:(\d{1,9})(?:\.\d+)?S)?)?")
_SECONDS = (86400, 3600, 60, 1)


def seconds_of(text: str) -> float:
    """Unix seconds of an `xs:dateTime` with a time zone.

    Raises:
        ValueError: it is none.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise ValueError("not a time")
    # Some write seven digits behind the second, more than Python takes.
    return datetime.fromisoformat(f"{text[:19]}{(match[1] or '')[:7]}{match[2]}").timestamp()


def duration_of(text: str) -> int:
    """Seconds of an `xs:duration` of days, hours, minutes and seconds.

    Raises:
        ValueError: it is none, or has years or months, which are no certain time.
    """
    match = _DURATION.fullmatch(text)
    if match is None or not any(match.groups()):
        raise ValueError("not a duration")
    return sum(int(number or 0) * seconds for number, seconds in zip(match.groups(), _SECONDS, strict=True))
