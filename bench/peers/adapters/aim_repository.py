"""aim on a local repository. After a crash its manual asks for ``aim storage reindex``."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data import METRICS

from . import Agent, Log


class Aim(Agent):
    history_points = 100_000
    compared_steps = 200

    def begin(self) -> Log:
        import aim

        self.run = aim.Run(repo=str(self.folder), experiment="bench", capture_terminal_logs=False)
        self.remember(self.run.hash)
        track = self.run.track
        return lambda values, step: track(values, step=step)

    def end(self) -> None:
        self.run.close()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        self._reindex()
        read = {}
        for name in METRICS:
            metric = self._metric("", name)
            if metric is not None:
                steps, columns = metric.data.numpy()  # values, epochs, times
                read[name] = list(zip(steps.tolist(), columns[0].tolist(), strict=True))
        return read

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        import aim

        logged = aim.Run(repo=str(self.folder), experiment="bench", capture_terminal_logs=False,
                         system_tracking_interval=None)  # fmt: skip
        self.remember(logged.hash, run)
        for step, row in enumerate(values.tolist()):
            logged.track(dict(zip(metrics, row, strict=True)), step=step)
        logged.close()
        self._reindex()

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        steps, columns = self._metric(run, metric).data.numpy()
        return list(zip(steps.tolist(), columns[0].tolist(), strict=True))

    def view(self, run: str, metric: str) -> list[tuple[int, float]]:
        steps, columns = self._metric(run, metric).data.sample(500).numpy()  # the line that its page's endpoint runs
        return list(zip(steps.tolist(), columns[0].tolist(), strict=True))

    def compare(self, runs: Sequence[str], metrics: Sequence[str]) -> int:
        return sum(len(self.view(run, metric)) for run in runs for metric in metrics)

    def _metric(self, run: str, name: str) -> Any:
        import aim
        from aim.storage.context import Context

        repository = aim.Repo.from_path(str(self.folder))
        return aim.Run(self.identity_of(run), repo=repository, read_only=True).get_metric(name, Context({}))

    def _reindex(self) -> None:
        program = Path(sys.executable).parent / "aim"
        subprocess.run(
            [program, "storage", "--repo", self.folder, "reindex"],
            input=b"y\n", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300, check=False,
        )  # fmt: skip


PEER = Aim
