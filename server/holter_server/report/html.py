"""A comparison as one HTML file that needs nothing else: styles, plotly.js and figures are inside."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from importlib import resources
from typing import Any

from holter.wire import dump_json
from holter_server.report.words import VERDICTS, difference_text, interval_text, side_text, value_text, winner_text

__all__ = ["html_report"]

_STYLE = """
:root { color-scheme: light; --line: #e4e7ec; --muted: #667085; --good: #14794f; --bad: #c4281c; --open: #9a5b00; }
body { margin: 0 auto; padding: 24px; max-width: 1080px; color: #1c2430; background: #f6f7f9;
  font: 14px/1.5 system-ui, sans-serif; font-variant-numeric: tabular-nums; }
section { background: #fff; border: 1px solid var(--line); border-radius: 10px; padding: 16px 20px; margin: 14px 0; }
h1 { font-size: 22px; } h2 { font-size: 15px; margin: 0 0 8px; } h3 { font-size: 13px; margin: 10px 0 0; }
.verdict { font-size: 18px; font-weight: 650; } .accepted { color: var(--good); } .rejected { color: var(--bad); }
.undetermined, .not_comparable { color: var(--open); } .muted { color: var(--muted); }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: 5px 10px 5px 0; border-bottom: 1px solid var(--line); vertical-align: top; }
details { margin: 4px 0; } summary { cursor: pointer; }
"""


def html_report(comparison: Mapping[str, Any], title: str = "Comparison") -> str:
    """The whole page; with the figures, where the comparison was asked for with them."""
    figures = comparison.get("figures") or []
    body = "".join(
        (
            _head(comparison, title), _table(comparison), _readings(comparison), _knobs(comparison),
            _charts(figures), _differences(comparison), _arithmetic(comparison),
        )
    )  # fmt: skip
    script = _script(figures) if figures else ""
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>{body}{script}</body></html>\n"
    )


def _head(found: Mapping[str, Any], title: str) -> str:
    runs = "".join(
        f"<p><b>{side}</b> {escape(side_text(found['runs'][side]))}</p>" for side in ("baseline", "candidate")
    )
    reasons = "".join(f"<li>{escape(each)}</li>" for each in found["gate"]["reasons"])
    last, entry = found["common_last_step"], found["entry_step"]
    where = f"Compared at step {'–' if last is None else f'{last:,}'}"
    where += "" if entry is None else f"; the treatment enters at step {entry:,}"
    standing = f"<p>{escape(found['standing']['say'])}</p>" if found["standing"] else ""
    return (
        f"<h1>{escape(title)}</h1><section><p class='verdict {found['verdict']}'>{VERDICTS[found['verdict']]}</p>"
        f"<p>{escape(found['reason'])}</p>{standing}{runs}<p class='muted'>{where}; criteria "
        f"{escape(found['criteria'])}; bootstrap seed {found['seed']}; gate {found['gate']['status']}</p>"
        f"<ul>{reasons}</ul></section>"
    )


def _table(found: Mapping[str, Any]) -> str:
    heads = ("criterion", "metric", "baseline", "candidate", "difference", "95 % interval", "winner")
    rows = "".join(
        "<tr>"
        + "".join(
            f"<td>{escape(str(cell))}</td>"
            for cell in (
                row["title"], row["metric"], value_text(row["baseline"], row["unit"]),
                value_text(row["candidate"], row["unit"]), difference_text(row), interval_text(row), winner_text(row),
            )
        )
        + "</tr>"
        for row in found["rows"]
    )  # fmt: skip
    return f"<section><h2>Table</h2><div class='scroll'><table><tr>{''.join(f'<th>{h}</th>' for h in heads)}</tr>" \
           f"{rows}</table></div></section>"  # fmt: skip


def _readings(found: Mapping[str, Any]) -> str:
    literal, honest = found["literal"], found["honest"]
    steps = "".join(
        f"<li>{escape(s['question'])} <b>{s['answer']}</b> <span class='muted'>{escape(s['because'])}</span></li>"
        for s in literal["path"]
    )
    leads = "".join(
        f"<li>{escape(each['criterion'])} {escape(each['state'].replace('_', ' '))} → "
        f"{escape(' / '.join(each['outcomes']))}</li>"
        for each in honest["leads"]
    )
    needs = "".join(f"<li>{escape(each)}</li>" for each in honest["needs"])
    return (
        f"<section><h2>The decision tree, literally</h2><ol>{steps}</ol><p>→ <b class='{literal['verdict']}'>"
        f"{escape(literal['say'])}</b></p></section><section><h2>The honest reading</h2>"
        f"<p><b class='{honest['verdict']}'>{honest['verdict']}</b>: {escape(honest['say'])}</p>"
        + (f"<h3>Which answer would lead where</h3><ul>{leads}</ul>" if leads else "")
        + (f"<h3>What would decide</h3><ul>{needs}</ul>" if needs else "")
        + "</section>"
    )


def _knobs(found: Mapping[str, Any]) -> str:
    if not found["knobs"]:
        return ""
    items = "".join(_knob(knob) for knob in found["knobs"])
    return f"<section><h2>Knobs</h2>{items}</section>"


def _knob(knob: Mapping[str, Any]) -> str:
    advice = "".join(f"<li>{escape(each)}</li>" for each in knob["advice"])
    why = f"<span class='muted'>{escape(knob['arithmetic'])}</span>"
    return f"<p><b>{escape(knob['component'])}: {knob['state']}</b> {why}</p><ul>{advice}</ul>"


def _charts(figures: list[dict[str, Any]]) -> str:
    return "".join(
        f"<section><h2>{escape(each['title'])}</h2><div id='figure-{number}'></div></section>"
        for number, each in enumerate(figures)
    )


def _differences(found: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><td>{escape(each['key'])}</td><td>{escape(str(each['baseline']))}</td>"
        f"<td>{escape(str(each['candidate']))}</td><td>{'treatment' if each['declared'] else ''}</td></tr>"
        for each in found["config_differences"]
    )
    if not rows:
        return ""
    return f"<section><h2>Config keys that differ</h2><div class='scroll'><table>{rows}</table></div></section>"


def _arithmetic(found: Mapping[str, Any]) -> str:
    items = "".join(
        f"<details><summary>{escape(row['title'])}, {escape(row['metric'])}</summary>"
        f"{escape(row['arithmetic'])}</details>"
        for row in found["rows"]
    )
    return f"<section><h2>The arithmetic</h2>{items}</section>"


def _script(figures: list[dict[str, Any]]) -> str:
    plotly = (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
    # In a script element only "</" could end it early.
    data = dump_json([each["figure"] for each in figures]).decode().replace("</", "<\\/")
    draw = (
        f"const figures = {data}; figures.forEach((figure, index) => Plotly.newPlot(`figure-${{index}}`, figure.data, "
        "figure.layout, {responsive: true, displaylogo: false}));"
    )
    plotly = plotly.replace("</script", "<\\/script")
    return f"<script>{plotly}</script><script>{draw}</script>"
