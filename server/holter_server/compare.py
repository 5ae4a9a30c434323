"""Two sides of runs compared, as far as the numbers say it without statistics; `undetermined` wherever they don't.

The order is that of a verdict: a gate (can these be compared?), a table (who is better at what?), a verdict with the
steps that led to it. Only one thing decides it so far: one side's training broke and the other's did not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, Literal

from holter_server.compare_data import Difference, Gate, Record, Row, common_last_step, config_differences
from holter_server.compare_gate import gate
from holter_server.compare_rows import memory_rows, quality_rows, speed_row
from holter_server.compare_stability import EXPLOSION, TERMINAL, stability_rows

__all__ = ["compare"]

Verdict = Literal["baseline", "candidate", "undetermined"]
Step = dict[str, str]
NEEDED = "needed: 3 or more runs a side with the same seeds, and an interval that decides"


def compare(
    baseline: Sequence[Record], candidate: Sequence[Record], matches: Callable[[str], bool] = lambda _name: True
) -> dict[str, Any]:
    """The comparison as plain data: gate, common_last_step, config_differences, rows, verdict, reason, path.

    Args:
        baseline, candidate: at least one run each.
        matches: which accuracies and losses get a row.
    """
    differences = config_differences(baseline, candidate)
    passed = gate(baseline, candidate, differences)
    last = common_last_step([*baseline, *candidate])
    stability = stability_rows(baseline, candidate, last)
    quality = quality_rows(baseline, candidate, last, matches)
    rows = [*stability, *quality, speed_row(baseline, candidate, last), *memory_rows(baseline, candidate, last)]
    path = _gate_path(passed, differences, last)
    verdict, reason = _decide(passed, stability, quality, path)
    return {
        "gate": {"status": passed.status, "reasons": list(passed.reasons)},
        "common_last_step": last,
        "config_differences": [asdict(difference) for difference in differences],
        "rows": [asdict(row) for row in rows],
        "verdict": verdict,
        "reason": reason,
        "path": path,
    }


def _step(question: str, answer: str, because: str) -> Step:
    return {"question": question, "answer": answer, "because": because}


def _gate_path(passed: Gate, differences: Sequence[Difference], last: int | None) -> list[Step]:
    reasons = "; ".join(passed.reasons)
    complete = passed.status != "INCOMPLETE"
    reached = f"all runs have reached step {last}" if last is not None else "there is no common step"
    path = [_step("Did every run get far enough?", "yes" if complete else "no", reached if complete else reasons)]
    if complete:
        applied = passed.status != "NOT_APPLIED"
        unlike = "the losses differ, or the configs are the same"
        path.append(_step("Was the treatment applied?", "yes" if applied else "no", unlike if applied else reasons))
    keys = ", ".join(difference.key for difference in differences) or "none"
    path.append(_step("Which config keys differ?", str(len(differences)), keys))
    return path


def _decide(passed: Gate, stability: Sequence[Row], quality: Sequence[Row], path: list[Step]) -> tuple[Verdict, str]:
    if passed.status in ("INCOMPLETE", "NOT_APPLIED"):
        needed = "runs that get as far as planned" if passed.status == "INCOMPLETE" else "a treatment that is applied"
        return "undetermined", f"{passed.status}: {'; '.join(passed.reasons)}. Needed: {needed}."
    for metric, question in (
        (TERMINAL, "Did only one side end in non-finite values?"),
        (EXPLOSION, "Did a loss explode for good on only one side?"),
    ):
        row = next(row for row in stability if row.metric == metric)
        decided = row.winner in ("baseline", "candidate")
        path.append(_step(question, "yes" if decided else _answer(row), row.arithmetic))
        match row.winner:
            case "baseline" | "candidate":
                return row.winner, f"{metric}: {row.arithmetic}."
            case "undetermined":
                return "undetermined", f"{metric}: {row.arithmetic}. {NEEDED.capitalize()}."
    return "undetermined", _open_questions(quality, path)


def _answer(row: Row) -> str:
    return "no" if row.winner == "tie" else "can't be said"


def _open_questions(quality: Sequence[Row], path: list[Step]) -> str:
    accuracies = [row for row in quality if row.criterion == "accuracy"]
    won = [row for row in accuracies if row.winner != "undetermined"]
    shown = "; ".join(f"{row.metric}: {row.winner}" for row in won)
    question = "Is one side's accuracy better?"
    if won:
        path.append(_step(question, "on some metrics", f"{shown}; whether that is enough is not decided yet"))
        return f"Neither side broke. Accuracy: {shown}. Weighing it against speed and smoothness is not built yet."
    because = accuracies[0].arithmetic if accuracies else "no accuracy is logged"
    path.append(_step(question, "can't be said", because))
    return f"Neither side broke, and no accuracy decides: {because}. {NEEDED.capitalize()}."
