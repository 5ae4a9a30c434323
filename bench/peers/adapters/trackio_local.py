"""trackio, without a Space: its own SQLite file below TRACKIO_DIR."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from typing import Any

from data import METRICS

from . import Agent, Log


class Trackio(Agent):
    def begin(self) -> Log:
        self._locate()
        import trackio

        trackio.init(project="bench", name="run", embed=False)
        return trackio.log

    def end(self) -> None:
        import trackio

        trackio.finish()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        self._locate()
        from trackio.sqlite_storage import SQLiteStorage

        return {
            name: [(each["step"], each["value"]) for each in SQLiteStorage.get_metric_values("bench", "run", name)]
            for name in METRICS
        }

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        self._locate()
        from trackio.sqlite_storage import SQLiteStorage

        for first in range(0, len(values), 50_000):
            rows = values[first : first + 50_000].tolist()
            named = [dict(zip(metrics, row, strict=True)) for row in rows]
            SQLiteStorage.bulk_log(
                project="bench", run=run, metrics_list=named, steps=list(range(first, first + len(rows)))
            )

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        self._locate()
        from trackio.sqlite_storage import SQLiteStorage

        return [(each["step"], each["value"]) for each in SQLiteStorage.get_metric_values("bench", run, metric)]

    def view(self, run: str, metric: str) -> list[tuple[int, float]]:
        (found,) = self._batch([run])
        return [(each["step"], each[metric]) for each in found["logs"] if metric in each]

    def compare(self, runs: Sequence[str], metrics: Sequence[str]) -> int:
        return sum(len(found["logs"]) * len(metrics) for found in self._batch(runs))

    def _batch(self, runs: Sequence[str]) -> list[dict[str, Any]]:
        """What the dashboard posts to /api/get_logs_batch, with the JSON that it is answered in."""
        self._locate()
        from trackio import server

        asked = [{"run": run, "run_id": None} for run in runs]
        found: list[dict[str, Any]] = server.get_logs_batch("bench", asked, max_points=3000, scalar_only=True)
        json.dumps(found)
        return found

    def _locate(self) -> None:
        os.environ["TRACKIO_DIR"] = str(self.folder / "trackio")  # read when trackio is imported


PEER = Trackio
