"""The words and numbers of a comparison, as every report and the terminal show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["VERDICTS", "difference_text", "interval_text", "side_text", "value_text", "winner_text"]

VERDICTS = {
    "accepted": "Candidate accepted",
    "rejected": "Candidate rejected",
    "undetermined": "Undetermined",
    "not_comparable": "Could not compare",
}


def value_text(value: Any, unit: str = "") -> str:
    """A number of the answer; it may be "NaN" or None."""
    if value is None:
        return "–"
    shown = value if isinstance(value, str) else f"{value:.4g}"
    return f"{shown} {unit}".rstrip()


def difference_text(row: Mapping[str, Any]) -> str:
    """The difference in the row's own measure: signed, a ratio, or the share of speed that is lost."""
    value = row["difference"]
    if not isinstance(value, int | float):
        return value_text(value)
    match row["measure"]:
        case "ratio":
            return f"×{value:.3f}"
        case "slowdown":
            return f"{value:.1%} slower" if value >= 0 else f"{-value:.1%} faster"
    return f"{value:+.4g} {row['unit']}".rstrip()


def interval_text(row: Mapping[str, Any]) -> str:
    if row["interval"] is None:
        return "–"
    low, high = row["interval"]
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"[{low}, {high}]"
    match row["measure"]:
        case "ratio":
            return f"[{low:.3f}, {high:.3f}]"
        case "slowdown":
            return f"[{low:.1%}, {high:.1%}]"
    return f"[{low:+.4g}, {high:+.4g}]"


def winner_text(row: Mapping[str, Any]) -> str:
    """The winner; of an undetermined row also what it can't be."""
    if row["winner"] != "undetermined":
        return str(row["winner"])
    if len(row["states"]) >= 3:
        return "undetermined"
    return f"undetermined ({' or '.join(state.replace('_', ' ') for state in row['states'])})"


def side_text(runs: list[dict[str, Any]]) -> str:
    """The runs of one side, briefly."""
    return ", ".join(f"{run['project']}/{run['name']} ({run['id']}{_seed(run)})" for run in runs)


def _seed(run: Mapping[str, Any]) -> str:
    return "" if run["seed"] is None else f", seed {run['seed']}"
