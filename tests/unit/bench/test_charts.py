"""The charts of `make bench ARGS=--plots`."""

from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from bench import charts
from bench.charts import CHARTS, draw, tick_step
from bench.rounds import Result, result

SVG = "{http://www.w3.org/2000/svg}"
OURS = result("introspection, Keystile, of hello", [0.52, 0.6, 0.55], "", least=0.5)
THEIRS = result("introspection, oidc-provider, of hello", [0.2, 0.21, 0.22], "")


def drawn(*rows: Result) -> ET.Element:
    return ET.fromstring(draw(CHARTS["peers"], rows, "2026, a machine"))


def bars(picture: ET.Element) -> list[ET.Element]:
    return [each for each in picture.iter(f"{SVG}rect") if each.get("x") is not None]


def texts(picture: ET.Element) -> list[str]:
    return [each.text or "" for each in picture.iter(f"{SVG}text")]


def test_bars_are_as_long_as_their_medians_from_zero_on() -> None:
    ours, theirs = bars(drawn(OURS, THEIRS))
    assert ours.get("x") == theirs.get("x")
    lengths = [float(each.get("width", "")) for each in (ours, theirs)]
    assert lengths[0] / lengths[1] == pytest.approx(0.55 / 0.21, rel=0.01)


def test_keystiles_bars_have_a_colour_of_their_own() -> None:
    ours, theirs = bars(drawn(OURS, THEIRS))
    assert ours.get("fill") != theirs.get("fill")


def test_a_chart_names_its_rows_its_numbers_and_where_they_were_measured() -> None:
    shown = texts(drawn(OURS, THEIRS))
    assert {"introspection, Keystile", "introspection, oidc-provider", "0.55", "0.21", "2026, a machine"} <= set(shown)


def test_a_goal_is_drawn_where_there_is_one() -> None:
    def lines(*rows: Result) -> int:
        return len(list(drawn(*rows).iter(f"{SVG}line")))

    without = result("introspection, Keystile, of hello", [0.52, 0.6, 0.55], "")
    assert lines(OURS) == lines(without) + 1


def test_everything_is_inside_the_picture() -> None:
    far = result("introspection, Keystile, of hello", [3.0, 0.1, 9.7], "", least=12)
    picture = drawn(far)
    _, _, width, height = map(float, picture.get("viewBox", "").split())
    for line in picture.iter(f"{SVG}line"):
        assert 0 <= float(line.get("x1", "")) <= float(line.get("x2", "")) <= width
        assert 0 <= float(line.get("y2", "")) <= height


def test_what_names_hold_is_no_markup() -> None:
    assert '<&">, Keystile' in texts(drawn(result('<&">, Keystile, of hello', [1.0], "")))


@pytest.mark.parametrize(("highest", "step"), [(1.0, 0.2), (0.42, 0.1), (8.0, 2.0), (0.03, 0.005)])
def test_an_axis_has_four_to_ten_lines(highest: float, step: float) -> None:
    assert tick_step(highest) == pytest.approx(step)
    assert 4 <= highest / step <= 10


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        tick_step(0.0)


def test_a_measure_writes_its_ratios_and_nothing_else(tmp_path: Path) -> None:
    absolute = result("introspection, Keystile, a second", [1000.0], "/s")
    path = charts.write("peers", [OURS, absolute], "now", tmp_path)
    assert path == tmp_path / "peers.svg"
    assert len(bars(ET.fromstring(path.read_text()))) == 1


def test_a_measure_without_ratios_has_no_chart(tmp_path: Path) -> None:
    assert charts.write("peers", [Result("oidc-provider is left out: no Node.js", "", "")], "now", tmp_path) is None
    assert charts.write("bearer", [OURS], "now", tmp_path) is None
    assert not list(tmp_path.iterdir())
