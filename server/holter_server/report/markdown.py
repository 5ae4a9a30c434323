"""A comparison as Markdown, for a pull request or a folder of reports."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holter_server.report.words import VERDICTS, difference_text, interval_text, side_text, value_text, winner_text

__all__ = ["markdown_report"]


def markdown_report(comparison: Mapping[str, Any], title: str = "Comparison") -> str:
    """The whole report; ``comparison`` is the answer of POST /compare."""
    return "\n".join(_lines(comparison, title)) + "\n"


def _lines(found: Mapping[str, Any], title: str) -> Iterator[str]:
    yield f"# {_plain(title)}"
    yield ""
    yield f"**{VERDICTS[found['verdict']]}.** {_plain(found['reason'])}"
    yield ""
    for side in ("baseline", "candidate"):
        yield f"- {side}: {_plain(side_text(found['runs'][side]))}"
    commits = sorted({str(run["commit"]) for side in found["runs"].values() for run in side if run["commit"]})
    if commits:
        yield f"- commit: {', '.join(f'`{_plain(commit)}`' for commit in commits)}"
    entry = "" if found["entry_step"] is None else f", treatment from step {found['entry_step']:,}"
    last = found["common_last_step"]
    yield f"- compared at step {'–' if last is None else f'{last:,}'}{entry}; criteria {_plain(found['criteria'])}; " \
          f"bootstrap seed {found['seed']}"  # fmt: skip
    yield f"- gate: {found['gate']['status']}" + "".join(f"; {_plain(each)}" for each in found["gate"]["reasons"])
    if found["standing"]:
        yield f"- {_plain(found['standing']['say'])}"
    yield from _table(found)
    yield from _tree(found)
    yield from _honest(found)
    yield from _knobs(found)
    yield from _differences(found)
    yield from ["", "## The arithmetic", ""]
    for row in found["rows"]:
        yield f"- **{_plain(row['title'])}, {_plain(row['metric'])}**: {_plain(row['arithmetic'])}"


def _table(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## Table", ""]
    yield "| criterion | metric | baseline | candidate | difference | 95 % interval | winner |"
    yield "| --- | --- | --- | --- | --- | --- | --- |"
    for row in found["rows"]:
        cells = (
            row["title"], row["metric"], value_text(row["baseline"], row["unit"]),
            value_text(row["candidate"], row["unit"]), difference_text(row), interval_text(row), winner_text(row),
        )  # fmt: skip
        yield "| " + " | ".join(_plain(str(cell)) for cell in cells) + " |"


def _tree(found: Mapping[str, Any]) -> Iterator[str]:
    yield from ["", "## The decision tree, literally", ""]
    for step in found["literal"]["path"]:
        yield f"- {_plain(step['question'])} **{step['answer']}** ({_plain(step['because'])})"
    yield f"- → **{found['literal']['verdict']}**: {_plain(found['literal']['say'])}"


def _honest(found: Mapping[str, Any]) -> Iterator[str]:
    honest = found["honest"]
    yield from ["", "## The honest reading", "", f"**{honest['verdict']}**: {_plain(honest['say'])}"]
    if honest["vetoes"]:
        yield from ["", f"Veto: {_plain(', '.join(honest['vetoes']))}."]
    if honest["leads"]:
        yield from ["", "Which answer would lead where:", ""]
        for lead in honest["leads"]:
            yield f"- {_plain(lead['criterion'])} {lead['state'].replace('_', ' ')} → " + _plain(
                " / ".join(lead["outcomes"])
            )
    if honest["needs"]:
        yield from ["", "What would decide:", "", *(f"- {_plain(each)}" for each in honest["needs"])]


def _knobs(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["knobs"]:
        return
    yield from ["", "## Knobs", ""]
    for knob in found["knobs"]:
        yield f"- {_plain(knob['component'])}: **{knob['state']}**. {_plain(knob['arithmetic'])}"
        yield from (f"  - {_plain(advice)}" for advice in knob["advice"])


def _differences(found: Mapping[str, Any]) -> Iterator[str]:
    if not found["config_differences"]:
        return
    yield from ["", "## Config keys that differ", "", "| key | baseline | candidate | declared as treatment |"]
    yield "| --- | --- | --- | --- |"
    for each in found["config_differences"]:
        cells = (each["key"], each["baseline"], each["candidate"], "yes" if each["declared"] else "no")
        yield "| " + " | ".join(_plain(str(cell)) for cell in cells) + " |"


def _plain(text: str) -> str:
    """Text from runs must not become a table cell, HTML or a link."""
    kept = text.replace("\\", "\\\\").replace("\n", " ")
    for mark in "|`<*":
        kept = kept.replace(mark, f"\\{mark}")
    return kept
