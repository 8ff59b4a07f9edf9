"""When a quick run fails: by ratios that are 30 % under their reference twice, not by what else the machine does."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import __main__ as bench
from bench import reference
from bench.authorization import GOALS
from bench.reference import Others, judged, load, under, write
from bench.rounds import Result, result

REFERENCES = {"introspection": 0.5, "refresh": 0.1}


def ratio(name: str, *rounds: float) -> Result:
    return result(f"{name}, of hello", list(rounds), "", reference=name)


def test_only_a_median_that_is_30_percent_under_its_reference_is_under_it() -> None:
    lines = [ratio("introspection", 0.1, 0.36, 0.9), ratio("refresh", 0.2, 0.069, 0.05), result("memory", [1.0], " MB")]
    assert under(lines, REFERENCES) == {"refresh"}


def test_what_has_no_reference_or_cannot_be_measured_here_is_not_under_it() -> None:
    assert under([ratio("new", 0.001), ratio("refresh", float("nan"))], REFERENCES) == set()


def test_on_a_machine_left_alone_a_ratio_fails_when_it_is_under_its_reference_again() -> None:
    assert judged({"refresh"}, [ratio("refresh", 0.06)], REFERENCES, 0.1) == ({"refresh"}, set())
    assert judged({"refresh"}, [ratio("refresh", 0.08)], REFERENCES, 0.1) == (set(), set())


def test_another_ratio_that_is_under_its_reference_only_the_second_time_does_not_fail() -> None:
    again = [ratio("refresh", 0.09), ratio("introspection", 0.1)]
    assert judged({"refresh"}, again, REFERENCES, 0.0) == (set(), set())


def test_on_a_busy_machine_only_what_is_far_under_its_reference_fails() -> None:
    assert judged({"refresh"}, [ratio("refresh", 0.06)], REFERENCES, 0.5) == (set(), {"refresh"})
    assert judged({"refresh"}, [ratio("refresh", 0.03)], REFERENCES, 0.5) == ({"refresh"}, set())


def test_writing_the_reference_takes_the_medians_and_keeps_what_was_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "reference.json"
    file.write_text('{"introspection": 0.5, "refresh": 0.1}')
    write([ratio("refresh", 0.123456, 0.2, 0.05), ratio("new", 1.0), result("memory", [80.0], " MB")], file)
    assert load(file) == {"introspection": 0.5, "refresh": 0.123, "new": 1.0}


def test_every_ratio_of_the_authorization_server_has_a_reference() -> None:
    assert GOALS.keys() <= load().keys()


def test_what_others_take_is_all_that_is_busy_but_us(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text("cpu  100 0 100 1000 50 0 0 0 30 0\ncpu0 1 2 3\n")
    others = Others(stat)
    ours = sum(os.times()[:4])
    # 100 ticks idle and 100 busy since then, of which steal is a part, and guest no more than the user's again.
    stat.write_text("cpu  150 0 120 1080 70 0 0 30 60 0\ncpu0 1 2 3\n")
    share = others.share()
    spent = (sum(os.times()[:4]) - ours) * os.sysconf("SC_CLK_TCK")
    assert 0.5 - (spent + 1) / 200 <= share <= 0.5


def test_what_others_take_is_not_known_where_nothing_tells(tmp_path: Path) -> None:
    assert Others(tmp_path / "none").share() == 0.0


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Iterator[Result]]:
    """What the measures `one` and `two` answer in turn; there are no others."""
    answers: list[Iterator[Result]] = []
    monkeypatch.setattr(bench, "MEASURES", dict.fromkeys(("one", "two"), lambda _: answers.pop(0)))
    monkeypatch.setattr(reference, "load", lambda: REFERENCES)
    monkeypatch.setattr(Others, "share", lambda _: 0.0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["bench", "--quick", "one", "two"])
    return answers


def broken() -> Iterator[Result]:
    yield ratio("introspection", 0.5)
    raise AssertionError("503")


def test_a_quick_run_measures_again_only_what_was_under_its_reference(
    runs: list[Iterator[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs += [iter([ratio("introspection", 0.5)]), iter([ratio("refresh", 0.05)]), iter([ratio("refresh", 0.1)])]
    assert bench.main() == 0
    assert "two once more, because of: refresh" in capsys.readouterr().out
    assert not runs


def test_a_quick_run_fails_when_a_ratio_is_under_its_reference_twice(
    runs: list[Iterator[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    runs += [iter([ratio("introspection", 0.3)]), iter([ratio("refresh", 0.1)]), iter([ratio("introspection", 0.3)])]
    assert bench.main() == 1
    assert "FAILED: introspection (reference 0.5)" in capsys.readouterr().out


def test_a_quick_run_repeats_a_measure_that_broke_off_and_fails_if_it_does_so_again(
    runs: list[Iterator[Result]],
) -> None:
    runs += [broken(), iter([ratio("refresh", 0.1)]), iter([ratio("introspection", 0.5)])]
    assert bench.main() == 0
    runs += [broken(), iter([ratio("refresh", 0.1)]), broken()]
    with pytest.raises(AssertionError, match="503"):
        bench.main()


def test_a_quick_run_begins_nothing_once_its_time_is_over(
    runs: list[Iterator[Result]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench, "BEGINS_WITHIN_SECONDS", 0)
    assert bench.main() == 0
    assert capsys.readouterr().out.count("is left out") == 2
    assert not runs


def test_the_reference_is_written_from_a_quick_run() -> None:
    asked = bench.chosen(["--reference", "authorization"])
    assert asked == bench.Chosen(["authorization"], quick=True, plots=False, writes_reference=True)
