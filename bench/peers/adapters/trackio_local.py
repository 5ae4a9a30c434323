"""trackio, without a Space: its own SQLite file below TRACKIO_DIR."""

from __future__ import annotations

import os

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

    def _locate(self) -> None:
        os.environ["TRACKIO_DIR"] = str(self.folder / "trackio")  # read when trackio is imported


PEER = Trackio
