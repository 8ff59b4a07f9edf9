"""What grants with refresh tokens take in the store.

Made as clients make them: a code of a user who has consented is redeemed at the token endpoint, and its refresh token
is used once. Ten grants a user; that there are users and a client is not counted.
"""

import dataclasses
import json
from collections.abc import Iterator
from contextlib import ExitStack

from bench.authorization import redemption, refresh
from bench.authorization_server import Contents, authorization_server, valkey
from bench.http_load import bodies_of
from bench.load import CLIENT_CORE
from bench.rounds import Result, pin, result
from tests.stores import eventually

COUNT, QUICK_COUNT = 100_000, 5_000
GRANTS_A_USER = 10
MOST_MB = 150.0
_CONNECTIONS = 8
_PER = 100_000
_LONG, _SHORT = "3600", "1"  # seconds: so that none ends meanwhile, and that all do


def measure(quick: bool) -> Iterator[Result]:
    """Megabytes of the store for 100,000 grants that have an access token each."""
    pin(CLIENT_CORE)
    count = QUICK_COUNT if quick else COUNT
    yield _row("redeemed", _redeemed(count), count)
    yield _row("refreshed when the access token had ended", _refreshed(count), count)


def _row(name: str, taken: int, count: int) -> Result:
    size = taken / 1e6 * _PER / count
    line = result(f"store, 100k grants, {name}", [size], " MB", most=MOST_MB)
    return dataclasses.replace(line, spread=f"{count:,} made")


def _redeemed(count: int) -> int:
    """Bytes of so many whose refresh token was not used yet."""
    with (
        valkey() as store_port,
        authorization_server(store_port, KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=_LONG) as target,
    ):
        contents = Contents(store_port)
        empty = _prepared(contents, count)
        _redeem(contents, target.url, count)
        return contents.used_bytes() - empty


def _refreshed(count: int) -> int:
    """Bytes of so many that know the refresh token before the present one, as all do that are in use."""
    with ExitStack() as stack:
        store_port = stack.enter_context(valkey())
        target = stack.enter_context(authorization_server(store_port, KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=_LONG))
        brief = stack.enter_context(authorization_server(store_port, KEYSTILE_TOKENS__ACCESS_TOKEN_SECONDS=_SHORT))
        contents = Contents(store_port)
        empty = _prepared(contents, count)
        bodies = _redeem(contents, brief.url, count)
        # The store drops what has expired when it is looked at, and else only most of it.
        eventually(lambda: not any(contents.client.scan_iter("*:a:*", 5_000)), "access tokens do not expire", 60)
        bodies_of(target.url, [refresh(target.url, json.loads(each)["refresh_token"]) for each in bodies], _CONNECTIONS)
        return contents.used_bytes() - empty


def _users(count: int) -> list[str]:
    return [f"user_{number}" for number in range(max(1, count // GRANTS_A_USER))]


def _prepared(contents: Contents, count: int) -> int:
    """Bytes of a store with the users, the client and the scripts, and of one code that nobody redeems."""
    contents.codes(1, _users(count))
    return contents.used_bytes()


def _redeem(contents: Contents, url: str, count: int) -> list[bytes]:
    codes = contents.codes(count, _users(count))
    return bodies_of(url, [redemption(url, each) for each in codes], _CONNECTIONS)
