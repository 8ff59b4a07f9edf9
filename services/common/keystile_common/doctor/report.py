"""Writes a report, for people and for programs."""

import json
import shutil
import textwrap

from keystile_common.doctor.examination import Report
from keystile_common.doctor.finding import Finding, Outcome, shown

FORMAT = 1
"""Of the JSON. It changes when something is taken away or means something else, not when something is added."""

_WORDS = {
    Outcome.OK: "ok",
    Outcome.WARNING: "warning",
    Outcome.PROBLEM: "PROBLEM",
    Outcome.UNKNOWN: "cannot be told",
}
_COLOURS = {Outcome.OK: "32", Outcome.WARNING: "33", Outcome.PROBLEM: "1;31", Outcome.UNKNOWN: "2"}
_OUTCOME_WIDTH = max(map(len, _WORDS.values()))
_LEAST_WIDTH = 40


def as_json(report: Report) -> str:
    """The report for programs; `docs/doctor.md` describes its members."""
    findings = [
        {"check": each.check, "outcome": each.outcome, "seen": each.seen, "advice": each.advice or None}
        for each in report.findings
    ]
    content = {
        "format": FORMAT,
        "url": shown(report.url),
        "outcome": report.outcome,
        "was_asked": report.was_asked,
        "seconds": round(report.seconds, 1),
        "findings": findings,
    }
    return json.dumps(content, indent=2)


def as_table(report: Report, *, coloured: bool, width: int | None = None) -> str:
    """The report for people.

    Args:
        report: what to write.
        coloured: whether a terminal reads it.
        width: in characters; the terminal's by default.
    """
    width = width or shutil.get_terminal_size((120, 24)).columns
    names = max(len(each.check) for each in report.findings)
    lines = [shown(report.url), ""]
    for each in report.findings:
        lines += _lines(each, names, width, coloured=coloured)
    lines += ["", _summary(report)]
    return "\n".join(lines)


def _lines(each: Finding, names: int, width: int, *, coloured: bool) -> list[str]:
    indent = names + _OUTCOME_WIDTH + 4
    room = max(width - indent, _LEAST_WIDTH)
    word = f"{_WORDS[each.outcome]:<{_OUTCOME_WIDTH}}"
    if coloured:
        word = f"\x1b[{_COLOURS[each.outcome]}m{word}\x1b[0m"
    text = _wrapped(each.seen, room)
    if each.advice:
        text += _wrapped(f"-> {each.advice}", room, hanging="   ")
    first, *more = text or [""]
    return [f"{each.check:<{names}}  {word}  {first}".rstrip(), *(" " * indent + line for line in more)]


def _wrapped(text: str, room: int, hanging: str = "") -> list[str]:
    # A URL stays whole, so that it can be picked up.
    return textwrap.wrap(text, room, subsequent_indent=hanging, break_long_words=False, break_on_hyphens=False)


def _summary(report: Report) -> str:
    counts = {outcome: sum(each.outcome is outcome for each in report.findings) for outcome in Outcome}
    parts = [f"{counts[Outcome.OK]} ok"]
    for outcome, one, many in (
        (Outcome.WARNING, "warning", "warnings"),
        (Outcome.PROBLEM, "problem", "problems"),
    ):
        parts.append(f"{counts[outcome]} {one if counts[outcome] == 1 else many}")
    parts.append(f"{counts[Outcome.UNKNOWN]} cannot be told")
    end = "" if report.was_asked else " The server could not be reached, so nothing else was looked at."
    return f"{', '.join(parts)}, in {report.seconds:.1f} s.{end}"
