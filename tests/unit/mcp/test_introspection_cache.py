"""How long and for whom an introspection answer is used again."""

import asyncio
import gc
from collections.abc import Callable

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from prometheus_client import CollectorRegistry

from keystile_common.metrics import McpMetrics
from keystile_mcp.introspection_answer import ActiveToken, IntrospectionError
from keystile_mcp.introspection_cache import NEGATIVE_ENTRIES, Answer, IntrospectionCache
from tests.unit.mcp.samples import NOW, FrozenClock, active_token, make_settings


class Authority:
    """Says what it was told to say of a token, when it is let go on."""

    def __init__(self) -> None:
        self.questions = 0
        self.known: dict[str, ActiveToken | IntrospectionError] = {}
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def introspect(self, token: str) -> ActiveToken | None:
        self.questions += 1
        said = self.known.get(token)
        await self.may_answer.wait()
        if isinstance(said, IntrospectionError):
            raise said
        return said


@pytest.fixture
def authority() -> Authority:
    return Authority()


@pytest.fixture
def cache(authority: Authority, clock: FrozenClock, metrics: McpMetrics) -> IntrospectionCache:
    return IntrospectionCache(authority.introspect, make_settings().issuers[0], metrics, clock)


async def look_up(cache: IntrospectionCache, token: str) -> Answer | None:
    return cache.find(token) or await cache.fetch(token)


async def test_an_answer_is_used_again_for_thirty_seconds(
    cache: IntrospectionCache, authority: Authority, clock: FrozenClock
) -> None:
    authority.known["t"] = active_token()
    await look_up(cache, "t")
    clock.now += 29.9
    await look_up(cache, "t")
    assert authority.questions == 1
    clock.now += 0.1
    await look_up(cache, "t")
    assert authority.questions == 2


async def test_an_answer_is_never_used_past_the_tokens_end(
    cache: IntrospectionCache, authority: Authority, clock: FrozenClock
) -> None:
    authority.known["t"] = active_token(expires_at=NOW + 10)
    await look_up(cache, "t")
    clock.now += 9.9
    assert cache.find("t") is not None
    clock.now += 0.1
    assert cache.find("t") is None


async def test_a_token_that_has_ended_already_is_not_kept(cache: IntrospectionCache, authority: Authority) -> None:
    authority.known["t"] = active_token(expires_at=NOW)
    assert await cache.fetch("t") is not None
    assert cache.find("t") is None


async def test_a_clock_set_back_does_not_make_an_answer_live_longer(
    cache: IntrospectionCache, authority: Authority, clock: FrozenClock
) -> None:
    authority.known["t"] = active_token()
    await look_up(cache, "t")
    clock.now -= 3600
    assert cache.find("t") is None


async def test_an_inactive_answer_is_used_again_for_five_seconds(
    cache: IntrospectionCache, authority: Authority, clock: FrozenClock
) -> None:
    assert await look_up(cache, "t") is None
    clock.now += 4.9
    assert await look_up(cache, "t") is None
    assert authority.questions == 1
    authority.known["t"] = active_token()
    clock.now += 0.1
    assert await look_up(cache, "t") is not None


async def test_an_inactive_answer_is_forgotten_where_the_clock_was_set_back(
    cache: IntrospectionCache, authority: Authority, clock: FrozenClock
) -> None:
    assert await look_up(cache, "t") is None
    clock.now -= 3600
    await look_up(cache, "t")
    assert authority.questions == 2


@pytest.mark.parametrize("setting", ["cache_seconds", "negative_cache_seconds"])
async def test_zero_seconds_keep_nothing(
    authority: Authority, clock: FrozenClock, metrics: McpMetrics, setting: str
) -> None:
    cache = IntrospectionCache(
        authority.introspect, make_settings(introspection={setting: 0}).issuers[0], metrics, clock
    )
    authority.known["active"] = active_token()
    token = "active" if setting == "cache_seconds" else "inactive"
    await look_up(cache, token)
    await look_up(cache, token)
    assert authority.questions == 2


async def test_trouble_is_not_kept(cache: IntrospectionCache, authority: Authority) -> None:
    authority.known["t"] = IntrospectionError("away")
    with pytest.raises(IntrospectionError, match="away"):
        await look_up(cache, "t")
    authority.known["t"] = active_token()
    assert await look_up(cache, "t") is not None


async def test_the_least_recently_used_answer_goes_first(
    authority: Authority, clock: FrozenClock, metrics: McpMetrics
) -> None:
    small = make_settings(introspection={"cache_entries": 2}).issuers[0]
    cache = IntrospectionCache(authority.introspect, small, metrics, clock)
    for token in ("a", "b"):
        authority.known[token] = active_token()
        await look_up(cache, token)
    cache.find("a")
    authority.known["c"] = active_token()
    await look_up(cache, "c")
    assert [token for token in "abc" if cache.find(token)] == ["a", "c"]


async def test_junk_displaces_no_token_and_takes_bounded_room(
    authority: Authority, clock: FrozenClock, metrics: McpMetrics
) -> None:
    small = make_settings(introspection={"cache_entries": 1}).issuers[0]
    cache = IntrospectionCache(authority.introspect, small, metrics, clock)
    authority.known["good"] = active_token()
    await look_up(cache, "good")
    for number in range(NEGATIVE_ENTRIES + 1):
        await look_up(cache, f"junk{number}")
    assert cache.find("good") is not None
    asked = authority.questions
    await look_up(cache, f"junk{NEGATIVE_ENTRIES}")
    assert authority.questions == asked
    await look_up(cache, "junk0")
    assert authority.questions == asked + 1


@pytest.mark.repeat(50)
async def test_two_hundred_look_ups_at_once_ask_once(cache: IntrospectionCache, authority: Authority) -> None:
    authority.known["t"] = active_token()
    authority.may_answer.clear()
    waiting = [asyncio.create_task(look_up(cache, "t")) for _ in range(200)]
    await asyncio.sleep(0)
    authority.may_answer.set()
    assert all(await asyncio.gather(*waiting))
    assert authority.questions == 1


@pytest.mark.repeat(50)
async def test_trouble_reaches_everybody_who_waits(cache: IntrospectionCache, authority: Authority) -> None:
    authority.known["t"] = IntrospectionError("away")
    authority.may_answer.clear()
    waiting = [asyncio.create_task(look_up(cache, "t")) for _ in range(5)]
    await asyncio.sleep(0)
    authority.may_answer.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [str(result) for result in results] == ["away"] * 5
    assert len({id(result) for result in results}) == 5


@pytest.mark.repeat(50)
async def test_a_leader_that_is_cancelled_does_not_fail_those_who_joined(
    cache: IntrospectionCache, authority: Authority
) -> None:
    authority.known["t"] = active_token()
    authority.may_answer.clear()
    leader, *others = [asyncio.create_task(look_up(cache, "t")) for _ in range(5)]
    await asyncio.sleep(0)
    leader.cancel()
    await asyncio.sleep(0)
    authority.may_answer.set()
    assert all(await asyncio.gather(*others))
    assert leader.cancelled()
    assert authority.questions == 1


async def test_trouble_that_nobody_waits_for_any_more_troubles_nobody(
    cache: IntrospectionCache, authority: Authority
) -> None:
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    authority.known["t"] = IntrospectionError("away")
    authority.may_answer.clear()
    only = asyncio.create_task(look_up(cache, "t"))
    await asyncio.sleep(0)
    only.cancel()
    await asyncio.sleep(0)
    authority.may_answer.set()
    await asyncio.sleep(0.01)
    gc.collect()
    assert complaints == []


@pytest.mark.repeat(50)
@pytest.mark.parametrize(
    "drop", [lambda cache: cache.flush(), lambda cache: cache.invalidate(lambda _: False)], ids=["flush", "one"]
)
async def test_a_late_answer_never_brings_back_what_was_dropped_meanwhile(
    cache: IntrospectionCache, authority: Authority, drop: Callable[[IntrospectionCache], None]
) -> None:
    authority.known["t"] = active_token()
    authority.may_answer.clear()
    early = asyncio.create_task(look_up(cache, "t"))
    await asyncio.sleep(0)
    del authority.known["t"]  # revoked after the question was answered, before the answer arrived
    drop(cache)
    late = asyncio.create_task(look_up(cache, "t"))
    await asyncio.sleep(0)
    authority.may_answer.set()
    await early
    assert await late is None
    assert cache.find("t") is None
    assert authority.questions == 2


async def test_invalidation_drops_what_it_concerns_and_nothing_else(
    cache: IntrospectionCache, authority: Authority
) -> None:
    for subject in ("alice", "bob"):
        authority.known[subject] = active_token(subject=subject)
        await look_up(cache, subject)
    cache.invalidate(lambda token: token.subject == "alice")
    assert cache.find("alice") is None
    assert cache.find("bob") is not None


async def test_a_flush_drops_everything(cache: IntrospectionCache, authority: Authority) -> None:
    authority.known["t"] = active_token()
    await look_up(cache, "t")
    await look_up(cache, "junk")
    cache.flush()
    assert cache.find("t") is None
    await look_up(cache, "junk")
    assert authority.questions == 3


async def test_closing_gives_up_what_is_under_way(cache: IntrospectionCache, authority: Authority) -> None:
    authority.may_answer.clear()
    waiting = asyncio.create_task(look_up(cache, "t"))
    await asyncio.sleep(0)
    await cache.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def test_neither_key_nor_value_holds_a_token(cache: IntrospectionCache, authority: Authority) -> None:
    token = "a-token-of-some-length"
    authority.known[token] = active_token()
    await look_up(cache, token)
    await look_up(cache, token + "-junk")
    held = repr(vars(cache)) + repr([vars(answer.token) for answer in cache._active.values()])
    assert token not in held


@pytest.mark.parametrize(
    "changes",
    [
        {"authority": "https://other.example"},
        {"introspection": {"url": "https://other.example/introspect"}},
        {"introspection": {"client_id": "other"}},
        {"resource": "https://tools.example.com/other"},
    ],
)
async def test_an_answer_belongs_to_issuer_endpoint_client_and_resource(
    metrics: McpMetrics, clock: FrozenClock, monkeypatch: pytest.MonkeyPatch, changes: dict[str, object]
) -> None:
    monkeypatch.setattr("secrets.token_bytes", bytes)  # one process key for both
    if "authority" in changes:
        changes = {"authorization_server": changes["authority"]}
    one = IntrospectionCache(Authority().introspect, make_settings().issuers[0], metrics, clock)
    other = IntrospectionCache(Authority().introspect, make_settings(**changes).issuers[0], metrics, clock)
    assert one._key_of("t") != other._key_of("t")


async def test_look_ups_are_counted_by_result(
    cache: IntrospectionCache, authority: Authority, metrics: McpMetrics
) -> None:
    authority.known["t"] = active_token()
    await asyncio.gather(look_up(cache, "t"), look_up(cache, "t"))
    for token in ("t", "junk", "junk"):
        await look_up(cache, token)
    counts = {
        result: metrics.registry.get_sample_value("keystile_introspection_cache_requests_total", {"result": result})
        for result in ("miss", "joined", "hit", "negative_hit")
    }
    assert counts == {"miss": 2, "joined": 1, "hit": 1, "negative_hit": 1}


class CacheAgainstModel(RuleBasedStateMachine):
    """The cache never says active for longer than it may, whatever happens in whatever order.

    The model keeps, for each token, when the authority last said that it is active, and forgets that on every
    invalidation: an answer is right if the authority says so now, or said so in the last thirty seconds.
    """

    tokens = st.sampled_from("abc")

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.clock = FrozenClock()
        self.authority = self.runner.run(self._authority())
        metrics = McpMetrics(CollectorRegistry(), "test")
        two_entries = make_settings(introspection={"cache_entries": 2}).issuers[0]
        self.cache = IntrospectionCache(self.authority.introspect, two_entries, metrics, self.clock)
        self.said_active: dict[str, float] = {}
        self.said_inactive: dict[str, float] = {}

    async def _authority(self) -> Authority:
        return Authority()

    def teardown(self) -> None:
        self.runner.run(self.cache.close())
        self.runner.close()

    @rule(token=tokens, lifetime=st.integers(1, 90), subject=st.sampled_from(["alice", "bob"]))
    def issue(self, token: str, lifetime: int, subject: str) -> None:
        self.authority.known[token] = active_token(subject=subject, expires_at=self.clock.now + lifetime)

    @rule(token=tokens)
    def revoke_unnoticed(self, token: str) -> None:
        self.authority.known.pop(token, None)

    @rule(token=tokens)
    def revoke_with_news(self, token: str) -> None:
        dropped = self.authority.known.pop(token, None)
        if isinstance(dropped, ActiveToken):
            self.cache.invalidate(lambda held: held.subject == dropped.subject)
            assert self.cache.find(token) is None or self.said_active.get(token) is not None

    @rule()
    def flush(self) -> None:
        self.cache.flush()
        self.said_active.clear()
        self.said_inactive.clear()

    @rule(seconds=st.floats(0.1, 40))
    def time_passes(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule(token=tokens)
    def look_up(self, token: str) -> None:
        asked = self.authority.questions
        answer = self.runner.run(look_up(self.cache, token))
        now = self.clock.now
        if self.authority.questions > asked:
            truth = self.authority.known.get(token)
            assert (answer.token if answer else None) == truth
            (self.said_active if truth else self.said_inactive)[token] = now
        elif answer is None:
            assert now - self.said_inactive[token] < 5
        else:
            assert now - self.said_active[token] < 30
            assert now < answer.token.expires_at

    @precondition(lambda self: self.said_active)
    @invariant()
    def no_more_is_held_than_may_be(self) -> None:
        assert len(self.cache._active) <= 2
        assert not self.cache._flights


CacheAgainstModel.TestCase.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
TestCacheAgainstModel = CacheAgainstModel.TestCase
