"""What `--upstream` adds to a call: the same server asked directly and through Keystile, one call at a time."""

from bench.load import CLIENT_CORE, median_ms, server
from bench.rounds import Result, interleaved, pin, result


def measure(quick: bool) -> list[Result]:
    """Medians of both, and the difference."""
    pin(CLIENT_CORE)
    seconds = 0.5 if quick else 5.0
    with server("bare") as bare, server("proxy", bare.url) as proxy:
        measures = {"direct": lambda: median_ms(bare.url, seconds), "proxy": lambda: median_ms(proxy.url, seconds)}
        found = interleaved(measures)
    added = [through - direct for through, direct in zip(found["proxy"], found["direct"], strict=True)]
    return [
        result("median of a call, direct", found["direct"], " ms"),
        result("median of a call, through Keystile", found["proxy"], " ms"),
        result("added by the proxy", added, " ms", most=1),
    ]
