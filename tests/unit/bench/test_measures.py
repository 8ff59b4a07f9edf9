"""What can be said of the benchmarks without a clock."""

import os
import subprocess
import sys
from typing import NoReturn

import pytest

from bench.__main__ import LONG, MEASURES, NAMED, defaults
from bench.authorization import GOALS
from bench.connections import Callers
from bench.http_load import Answers
from bench.load import ROOT, Server
from bench.peers import environment, servers
from bench.peers.authorization import goal, tokens_in
from bench.peers.environment import MissingError, pinned_version
from bench.pods import Pods, at_most
from bench.rounds import result
from bench.soak import growth
from bench.startup import is_ready, seconds_until_ready
from tests.made_run import free_ports


def test_what_takes_long_is_not_in_the_quick_run() -> None:
    assert set(MEASURES) - set(defaults(quick=True)) == {*NAMED, *LONG}
    assert set(MEASURES) - set(defaults(quick=False)) == set(NAMED)


def test_a_result_knows_its_rounds_and_its_bound() -> None:
    line = result("ratio", [0.5, 0.7, 0.6], "", least=0.55)
    assert (line.least, line.median, line.most, line.bound, line.met) == (0.5, 0.6, 0.7, 0.55, True)


def test_servers_answer_what_they_or_their_store_have_time_for() -> None:
    assert at_most(1, 100.0, 10.0) == 10_000
    assert at_most(2, 100.0, 10.0) == 20_000
    assert at_most(2, 100.0, 80.0) == 12_500


def test_a_neighbour_with_a_store_of_its_own_makes_no_second_server() -> None:
    process = Server(subprocess.Popen([sys.executable, "-c", "pass"]), "")
    process.process.wait()
    alone = Pods([process] * 2, [process] * 2, [], of_server=[1.0, 100.0], of_store=[1.0, 10.0])
    shared = Pods([process] * 2, [process], [], of_server=[100.0], of_store=[10.0])
    assert alone.possible()[-1] == 10_000
    assert shared.possible() == [20_000]


def test_refusals_on_many_connections_are_counted_and_none_may_be() -> None:
    callers = Callers("http://127.0.0.1:1", 1, [b""])
    callers.answers = [Answers(1.0, [0.001] * 99 + [0.5], [b"HTTP/1.1 503"]), Answers(1.0, [0.002] * 100)]
    refused, late, middle = callers.rows("introspection", [500.0, 2.0], 60)
    assert (refused.least, refused.most, refused.met) == (0, 1, False)
    assert (late.median, late.met) == (251, False)
    assert (middle.least, middle.most) == (1, 2)


def test_growth_is_from_when_all_has_settled_to_the_end() -> None:
    samples = [(float(second), second * 1_000_000 if second < 50 else 60_000_000) for second in range(100)]
    assert growth(samples, 50) == (60.0, 60.0)
    first, last = growth([(float(second), second * 1_000_000) for second in range(100)], 20)
    assert (first, last) == (23.5, 95.5)


def test_one_odd_sample_is_no_growth() -> None:
    samples = [(float(second), 500_000_000 if second == 99 else 60_000_000) for second in range(100)]
    assert growth(samples, 20) == (60.0, 60.0)


def test_growth_of_a_run_that_ended_too_early_is_unknown() -> None:
    with pytest.raises(ValueError, match="no sample after 20 s"):
        growth([(1.0, 1)], 20)


def test_access_tokens_are_read_from_answers_of_a_token_endpoint() -> None:
    assert tokens_in([b'{"access_token":"a","expires_in":1}', b'{"access_token":"b"}']) == ["a", "b"]


def test_only_keystile_has_goals() -> None:
    assert goal("introspection, Keystile") == GOALS["introspection"]
    assert goal("introspection, oidc-provider") is None


def test_the_version_of_a_peer_is_the_one_that_is_pinned() -> None:
    pins = "fastmcp-slim==1.0 \\\n    --hash=x\nfastmcp==4.1.2 \\\n    --hash=y\n"
    assert pinned_version("fastmcp", pins) == "4.1.2"
    with pytest.raises(MissingError, match="is not pinned"):
        pinned_version("mcp", pins)


@pytest.mark.parametrize("what", ["oidc_provider", "fastmcp"])
def test_a_peer_that_cannot_be_installed_is_said_and_not_measured(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def none() -> NoReturn:
        raise MissingError("There is no registry.")

    monkeypatch.setattr(environment, "node_packages", none)
    monkeypatch.setattr(environment, "python", none)
    start = servers.oidc_provider() if what == "oidc_provider" else servers.fastmcp("http://127.0.0.1:1", 1, 0)
    with pytest.raises(MissingError, match="no registry"), start:
        pass


def test_nobody_there_is_not_ready() -> None:
    assert not is_ready(free_ports(1)[0])


def test_a_program_that_ends_is_not_waited_for() -> None:
    affinity = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        with pytest.raises(RuntimeError, match="did not become ready"):
            seconds_until_ready([sys.executable, "-c", "pass"], free_ports(1)[0], dict(os.environ))
    finally:
        if affinity is not None:
            os.sched_setaffinity(0, affinity)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores can be chosen on Linux only")
def test_a_server_is_not_on_the_core_of_its_caller() -> None:
    program = (
        "import os, subprocess, sys; from bench.rounds import pin; pin(0); print(os.sched_getaffinity(0), flush=True); "
        "subprocess.run([sys.executable, '-c', "
        "'import os; from bench.rounds import pin; pin(1); print(os.sched_getaffinity(0))'])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    caller, server = answer.stdout.splitlines()
    assert (caller != server) == (len(os.sched_getaffinity(0)) > 1)
