"""Runs in trainpulse's environment: logs by id on standard input, alarms by mode and id on standard output."""

from __future__ import annotations

import contextlib
import csv
import json
import sys

from trainpulse import Monitor

KINDS = {
    "nan": "non_finite",
    "spike": "spike",
    "grad": "grad_norm",
    "lr": "lr",
    "plateau": "plateau",
    "time": "throughput",
}


def kind_of(detector: str) -> str:
    return next((kind for word, kind in KINDS.items() if word in detector.lower()), detector)


def wanted(name: str) -> bool:
    """Metrics of which trainpulse knows the meaning; it is not told of others."""
    low = name.lower()
    return "loss" in low or ("grad" in low and "norm" in low) or low in ("lr", "learning_rate")


def alarms(path: str, *, plateau: bool) -> list[list[object]]:
    monitor, found = Monitor(), []
    with open(path, encoding="utf-8") as file:
        for row, cells in enumerate(csv.DictReader(file)):
            for name, cell in cells.items():
                if name == "step" or not cell or not wanted(name):
                    continue
                with contextlib.suppress(ValueError):
                    for alert in monitor.log(name, int(float(cells["step"])), float(cell)):
                        kind = kind_of(alert.detector)
                        if plateau or kind != "plateau":
                            found.append([row, kind, alert.severity.value])
    return found


logs = json.load(sys.stdin)
json.dump(
    {
        "loss, grad, lr": {name: alarms(path, plateau=True) for name, path in logs.items()},
        "without plateau": {name: alarms(path, plateau=False) for name, path in logs.items()},
    },
    sys.stdout,
)
