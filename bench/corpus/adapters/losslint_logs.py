"""Runs in losslint's environment: logs by id on standard input, alarms by mode and id on standard output.

`final` is its check of the whole file, known at the last row. `watch` is the same check after every hundredth of the
file, as its watch command polls: what is found is known at that poll.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from losslint.checks import run_all_checks
from losslint.parsing import RunLog, load_run

KINDS = {"nan": "non_finite", "spike": "spike", "diverg": "divergence", "overfit": "overfitting", "stagn": "plateau"}
SEVERITIES = {"error": "critical", "warning": "warning", "info": "info"}
POLLS = 100


def kind_of(check: str) -> str:
    return next((kind for word, kind in KINDS.items() if word in check.lower()), check)


def alarms(run: RunLog, rows: int) -> list[list[object]]:
    found = [(kind_of(finding.check), SEVERITIES[finding.severity]) for finding in run_all_checks(run)]
    return [[rows - 1, kind, severity] for kind, severity in dict.fromkeys(found)]


def watch(run: RunLog) -> list[list[object]]:
    known: dict[tuple[object, object], list[object]] = {}
    total = len(run.steps)
    for rows in sorted({max(1, total * poll // POLLS) for poll in range(1, POLLS + 1)}):
        series = {name: values[:rows] for name, values in run.series.items()}
        for alarm in alarms(RunLog(run.steps[:rows], series, run.source), rows):
            known.setdefault((alarm[1], alarm[2]), alarm)
    return list(known.values())


def warnings(found: list[list[object]]) -> list[list[object]]:
    return [alarm for alarm in found if alarm[2] != "info"]


runs = {}
for name, path in json.load(sys.stdin).items():
    try:
        runs[name] = load_run(Path(path))
    except Exception as error:  # noqa: BLE001 - it does not take every file
        sys.stderr.write(f"{name}: {error}\n")
        runs[name] = RunLog([], {}, Path(path))
final = {name: alarms(run, len(run.steps)) if run.steps else [] for name, run in runs.items()}
polled = {name: watch(run) if run.steps else [] for name, run in runs.items()}
json.dump(
    {
        "final (warning+)": {name: warnings(found) for name, found in final.items()},
        "final (all)": final,
        "watch (warning+)": {name: warnings(found) for name, found in polled.items()},
        "watch (all)": polled,
    },
    sys.stdout,
)
