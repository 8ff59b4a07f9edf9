"""Charts of ratios, as SVG: a bar a row, the spread of its rounds as a line through its end, its goal as a mark."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from bench.load import ROOT
from bench.rounds import Result

FOLDER = ROOT / "docs" / "performance"
_WIDTH, _LABELS, _RIGHT = 900, 340, 90
_ROW, _BAR, _TOP, _BOTTOM = 30, 16, 62, 44
_INK, _OURS, _THEIRS, _GOAL, _GRID = "#1f2328", "#0b6bcb", "#8c959f", "#bc4c00", "#d0d7de"
_STYLE = 'font-family="system-ui, sans-serif" font-size="14"'


@dataclass(frozen=True)
class Chart:
    """What one chart shows: of a measure's rows those that are ratios to one thing.

    Attributes:
        file: its name, without .svg.
        title: a sentence above it.
        suffix: how the names of its rows end; the rest is the bar's label.
        ours: what is in the labels of Keystile's own bars.
    """

    file: str
    title: str
    suffix: str
    ours: str = ""


CHARTS = {
    "authorization": Chart("authorization", "Keystile's endpoints, by processor time: a bare hello is 1", ", of hello"),
    "peers": Chart(
        "peers", "Authorization servers on one core, by processor time: a bare hello is 1", ", of hello", "Keystile"
    ),
    "peers_tool_calls": Chart(
        "tool-calls",
        "Tool calls with a token, by processor time: the SDK without one is 1",
        ", of the SDK alone",
        "Keystile",
    ),
}


def write(measure: str, rows: Iterable[Result], caption: str, folder: Path = FOLDER) -> Path | None:
    """Draw the rows of a measure.

    Args:
        measure: its name.
        rows: what it found.
        caption: a line below: when and where.
        folder: where the chart goes.

    Returns:
        The file; None where the measure has no chart, or no ratio to draw.
    """
    chart = CHARTS.get(measure)
    shown = [] if chart is None else [row for row in rows if row.name.endswith(chart.suffix)]
    if chart is None or not shown:
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{chart.file}.svg"
    path.write_text(draw(chart, shown, caption))
    return path


def draw(chart: Chart, rows: Sequence[Result], caption: str) -> str:
    """The chart's text; its axis begins at 0."""
    highest = max(max(row.most, row.bound or 0.0) for row in rows)
    step = tick_step(highest)
    scale = (_WIDTH - _LABELS - _RIGHT) / (math.ceil(highest / step) * step)
    height = _TOP + _ROW * len(rows) + _BOTTOM
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" {_STYLE} fill="{_INK}">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="16" y="26" font-size="17" font-weight="600">{escape(chart.title)}</text>',
        f'<text x="16" y="{height - 12}" font-size="12">{escape(caption)}</text>',
        *_legend(),
        *_axis(step, scale, highest, height),
    ]
    for number, row in enumerate(rows):
        label = row.name.removesuffix(chart.suffix)
        colour = _OURS if chart.ours in label else _THEIRS
        parts += _bar(row, label, _TOP + _ROW * number + _ROW / 2, scale, colour)
    return "\n".join([*parts, "</svg>"]) + "\n"


def tick_step(highest: float) -> float:
    """The distance of the axis's lines, of which there are four to ten up to `highest`: 1, 2 or 5 times a power of ten.

    Raises:
        ValueError: `highest` is not above zero.
    """
    if not highest > 0:
        raise ValueError("there is nothing to draw")
    magnitude = 10.0 ** math.floor(math.log10(highest / 4))
    return next(size * magnitude for size in (5, 2, 1) if size * magnitude <= highest / 4)


def _axis(step: float, scale: float, highest: float, height: int) -> Iterable[str]:
    bottom = height - _BOTTOM
    for number in range(math.ceil(highest / step) + 1):
        x = _LABELS + number * step * scale
        yield f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_GRID}"/>'
        text = f"{number * step:.3g}"
        yield f'<text x="{x:.1f}" y="{bottom + 15}" font-size="12" text-anchor="middle">{text}</text>'


def _legend() -> Iterable[str]:
    yield f'<line x1="{_LABELS}" y1="46" x2="{_LABELS + 22}" y2="46" stroke="{_INK}" stroke-width="2"/>'
    yield f'<text x="{_LABELS + 28}" y="50" font-size="12">least to most of the rounds</text>'
    x = _LABELS + 210
    yield f'<line x1="{x}" y1="38" x2="{x}" y2="54" stroke="{_GOAL}" stroke-width="3"/>'
    yield f'<text x="{x + 8}" y="50" font-size="12">goal</text>'


def _bar(row: Result, label: str, middle: float, scale: float, colour: str) -> Iterable[str]:
    """A row about its middle line."""
    top, length = middle - _BAR / 2, row.median * scale
    yield f'<text x="{_LABELS - 10}" y="{middle + 5:.1f}" text-anchor="end">{escape(label)}</text>'
    yield f'<rect x="{_LABELS}" y="{top:.1f}" width="{length:.1f}" height="{_BAR}" fill="{colour}"/>'
    least, most = _LABELS + row.least * scale, _LABELS + row.most * scale
    yield (
        f'<line x1="{least:.1f}" y1="{middle:.1f}" x2="{most:.1f}" y2="{middle:.1f}" stroke="{_INK}" stroke-width="2"/>'
    )
    if row.bound is not None:
        x = _LABELS + row.bound * scale
        yield (
            f'<line x1="{x:.1f}" y1="{top - 4:.1f}" x2="{x:.1f}" y2="{top + _BAR + 4:.1f}" '
            f'stroke="{_GOAL}" stroke-width="3"/>'
        )
    yield f'<text x="{_WIDTH - 16}" y="{middle + 5:.1f}" text-anchor="end">{escape(row.value)}</text>'
