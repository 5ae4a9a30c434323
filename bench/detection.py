"""How well the default rules tell sick trainings from healthy ones, on real logs.

    python bench/detection.py [CORPUS] [--peers] [--perturb] [--json FILE]

CORPUS (or HOLTER_CORPUS; otherwise ../shared/corpus beside the repository) is a folder with manifest.json and
series/*.csv. Each log is replayed in logged order with the default pack and no other setting; rows in which a metric
is empty lack it. A sick run counts as found by an alarm of the right kind that comes no earlier than 3 % of the run
(at least 2 rows) before the labelled onset. A healthy run with any alarm at all is a false alarm.

--peers also runs other tools on the same logs, in environments of their own (pip). --perturb moves every threshold by
20 % and chooses thresholds without each source in turn; it takes some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from corpus import Entry, Outcome, load_entries
from corpus.holter_rules import alarms_of, replay, row_by_row_is_the_same
from corpus.injection import INJECTIONS, specimens
from corpus.peers import NOT_RUN, PEERS, Absent, peer_outcomes
from corpus.scoring import Figures, figures_of, table_by_kind
from corpus.thresholds import Grid, leave_one_source_out
from figures import Target, print_table, print_targets

from holter.health import RuleSet, load_packs

DEFAULT = Path(__file__).resolve().parents[1] / ".." / "shared" / "corpus"
SHORT = 2_000  # rows up to which a log is also replayed row by row
INSTANT, SLOW = ("nan", "explosion", "spike"), ("divergence",)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, nargs="?", default=Path(os.environ.get("HOLTER_CORPUS", DEFAULT)))
    parser.add_argument("--peers", action="store_true", help="run other tools on the same logs, too")
    parser.add_argument("--perturb", action="store_true", help="move every threshold by 20 %%")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = parser.parse_args()
    entries = load_entries(options.corpus)
    outcomes = replay(entries, RuleSet.default())
    report: dict[str, Any] = {"entries": len(entries)}
    print(f"{len(entries)} logs of {len({entry.source for entry in entries})} sources")
    _print_kinds(outcomes)
    _print_errors(outcomes)
    _print_sources(outcomes)
    report |= _print_injections(entries)
    same = sum(row_by_row_is_the_same(entry.log, RuleSet.default()) for entry in entries if entry.rows <= SHORT)
    short = sum(entry.rows <= SHORT for entry in entries)
    print(f"\nRow by row, saved and restored on the way: the same in {same} of {short} logs up to {SHORT:,} rows")
    if options.perturb:
        report |= _print_thresholds(entries)
    if options.peers:
        _print_peers(entries, outcomes)
    targets = _targets(outcomes, report)
    print_targets(targets)
    if options.json is not None:
        report["targets"] = {target.figure: target.measured for target in targets}
        options.json.write_text(json.dumps(report, indent=1), encoding="utf-8")
    sys.exit(same != short)


def _print_kinds(outcomes: Sequence[Outcome]) -> None:
    columns = ["label", "sure", "likely", "delay, median", "p90"]
    print_table("Sick runs found, and rows from the onset to the alarm", columns, table_by_kind(outcomes))
    rows = []
    for name, sure in (("sure", True), ("likely", False)):
        figures = figures_of(outcomes, lambda entry, sure=sure: entry.sure is sure)
        rows.append(
            [
                name,
                f"{figures.found}/{figures.sick}",
                f"{figures.warned}/{figures.healthy}",
                f"{figures.told}/{figures.healthy}",
            ]
        )
    print_table("All", ["label is", "sick found", "healthy with a warning", "healthy with anything"], rows)


def _print_errors(outcomes: Sequence[Outcome]) -> None:
    missed = [
        [outcome.entry.label, "sure" if outcome.entry.sure else "likely", outcome.entry.id, str(outcome.entry.onset),
         "; ".join(f"{alarm.rule} at {alarm.row}" for alarm in outcome.alarms[:3]) or "nothing"]
        for outcome in outcomes
        if not outcome.entry.healthy and not outcome.found
    ]  # fmt: skip
    print_table("Missed", ["label", "", "log", "onset", "what was said"], missed) if missed else print("\nNone missed")
    false = [
        [
            "sure" if outcome.entry.sure else "likely",
            outcome.entry.id,
            alarm.rule,
            alarm.severity,
            str(alarm.row),
            alarm.message,
        ]
        for outcome in outcomes
        if outcome.entry.healthy
        for alarm in outcome.alarms
    ]
    if false:
        print_table("False alarms", ["label is", "log", "rule", "severity", "row", "message"], false)
    else:
        print("\nNo false alarms")


def _print_sources(outcomes: Sequence[Outcome]) -> None:
    """The jackknife: the rules are fixed, so that leaving a source out only leaves its logs out of the count."""
    sources = sorted({outcome.entry.source for outcome in outcomes})
    without = {
        source: figures_of(outcomes, lambda entry, source=source: entry.sure and entry.source != source)
        for source in sources
    }
    recalls = [figures.recall for figures in without.values()]
    shares = [figures.told / figures.healthy for figures in without.values()]
    print(
        f"\nLeaving out one source at a time (sure): {100 * min(recalls):.1f} to {100 * max(recalls):.1f} % found, "
        f"{100 * min(shares):.1f} to {100 * max(shares):.1f} % of the healthy runs with anything"
    )
    rows = []
    for source in sources:
        figures = figures_of(outcomes, lambda entry, source=source: entry.source == source)
        rows.append([source[:60], f"{figures.found}/{figures.sick}", f"{figures.told}/{figures.healthy}"])
    print_table("By source", ["source", "sick found", "healthy alarmed"], rows)


def _print_injections(entries: Sequence[Entry]) -> dict[str, Any]:
    found: Counter[str] = Counter()
    early: Counter[str] = Counter()
    alarmed: Counter[str] = Counter()
    total: Counter[str] = Counter()
    rules = RuleSet.default()
    for specimen in specimens(list(entries)):
        name, kind = specimen.injection.name, specimen.injection.kind
        begins = specimen.injection.at * specimen.injection.writers
        alarms = [alarm for alarm in alarms_of(specimen.sick, rules) if alarm.kind == kind]
        total[name] += 1
        found[name] += any(alarm.row >= begins for alarm in alarms)
        early[name] += any(alarm.row < begins for alarm in alarms)
        alarmed[name] += bool(_told(specimen.well, specimen.entry))
    rows = [
        [injection.name, injection.kind, f"{found[injection.name]}/{total[injection.name]}",
         f"{early[injection.name]}/{total[injection.name]}", f"{alarmed[injection.name]}/{total[injection.name]}"]
        for injection in INJECTIONS
    ]  # fmt: skip
    columns = ["injected into healthy runs", "kind", "found", "too early", "alarmed without it"]
    print_table("What the corpus has no log of", columns, rows)
    return {
        "injections": sum(total.values()),
        "injections_found": sum(found.values()),
        "injections_alarmed_without": sum(alarmed.values()),
    }


def _told(log: Any, entry: Entry) -> list[Any]:
    """Alarms of the well specimen that the run itself does not have."""
    own = {alarm.rule for alarm in alarms_of(entry.log, RuleSet.default())}
    return [alarm for alarm in alarms_of(log, RuleSet.default()) if alarm.rule not in own]


def _print_thresholds(entries: Sequence[Entry]) -> dict[str, Any]:
    grid = Grid(entries, load_packs("default"))
    base = figures_of(grid.outcomes({}), lambda entry: entry.sure)
    rows, kept = [], []
    for variant in grid.variants:
        figures = figures_of(grid.outcomes({variant.rule: variant}), lambda entry: entry.sure)
        kept.append(figures)
        if figures != base:
            rows.append(
                [
                    variant.text,
                    f"{figures.found}/{figures.sick}",
                    f"{figures.warned}/{figures.healthy}",
                    f"{figures.told}/{figures.healthy}",
                ]
            )
    columns = ["moved by 20 %", "sick found", "healthy with a warning", "with anything"]
    print_table(f"Of {len(grid.variants)} thresholds moved, those that change a figure (sure)", columns, rows)
    worst_found, worst_told = min(figures.found for figures in kept), max(figures.told for figures in kept)
    print(f"The worst of all: {worst_found}/{base.sick} found; {worst_told}/{base.healthy} healthy alarmed")
    tuned, chosen = leave_one_source_out(grid, grid.variants)
    print(f"Thresholds chosen without each source in turn, scored on it (sure): {tuned.text()}")
    for text, count in sorted(chosen.items()):
        print(f"  {text}: chosen {count} times")
    return {
        "thresholds": len(grid.variants),
        "worst_found": worst_found,
        "leave_one_source_out": tuned.text(),
    }


def _print_peers(entries: Sequence[Entry], outcomes: Sequence[Outcome]) -> None:
    rows = [_peer_row("holter", outcomes)]
    for name in PEERS:
        found = peer_outcomes(name, entries)
        if isinstance(found, Absent):
            print(f"\n{name} was left out: {found.reason}")
        else:
            rows += [_peer_row(mode, theirs) for mode, theirs in found.items()]
    columns = [
        "tool (sure)",
        "sick found",
        "healthy alarmed",
        *(outcome for outcome in ("nan", "explosion", "divergence", "spike", "plateau", "overfit")),
    ]
    print_table("Beside other tools", columns, rows)
    for name, reason in NOT_RUN.items():
        print(f"{name} was left out: {reason}")


def _peer_row(name: str, outcomes: Sequence[Outcome]) -> list[str]:
    def of(wanted: Any) -> Figures:
        return figures_of(outcomes, lambda entry: entry.sure and wanted(entry))

    kinds = [
        of(lambda entry, label=label: entry.label == label)
        for label in ("nan", "explosion", "divergence", "spike", "plateau", "overfit")
    ]
    everything = of(lambda _: True)
    return [
        name,
        f"{everything.found}/{everything.sick}",
        f"{everything.told}/{everything.healthy}",
        *(f"{kind.found}/{kind.sick}" for kind in kinds),
    ]


def _targets(outcomes: Sequence[Outcome], report: dict[str, Any]) -> list[Target]:
    sure = figures_of(outcomes, lambda entry: entry.sure)
    nan = [outcome.delay for outcome in outcomes if outcome.entry.label == "nan"]
    return [
        _target("sick runs found (sure)", 100 * sure.recall, "%", ">=", 95),
        _target("healthy with a warning (sure)", 100 * sure.warned / sure.healthy, "%", "<=", 2),
        _target("healthy with anything (sure)", 100 * sure.told / sure.healthy, "%", "<=", 5),
        Target(
            "NaN runs at their very row",
            f"{nan.count(0)}/{len(nan)}",
            "all",
            "reached" if set(nan) == {0} else "not reached",
        ),
        _target("delay, NaN, explosion and spike", _median(outcomes, INSTANT), " rows", "<=", 0),
        _target("delay, divergence", _median(outcomes, SLOW), " rows", "<=", 15),
        _target("injections found", 100 * report["injections_found"] / report["injections"], "%", ">=", 100),
    ]


def _target(figure: str, measured: float, unit: str, side: str, limit: float) -> Target:
    reached = measured >= limit if side == ">=" else measured <= limit
    return Target(figure, f"{measured:.1f}{unit}", f"{side} {limit:g}{unit}", "reached" if reached else "not reached")


def _median(outcomes: Sequence[Outcome], labels: Sequence[str]) -> float:
    delays = sorted(o.delay for o in outcomes if o.entry.label in labels and o.delay is not None)
    return float(delays[len(delays) // 2]) if delays else float("nan")


if __name__ == "__main__":
    main()
