"""tensorboardX: one ``add_scalar`` for each metric, read with tensorboard's own EventAccumulator. It keeps float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from . import Agent, Log


class TensorboardX(Agent):
    precision = "float32"
    history_points = 200_000
    compared_steps = 500

    def begin(self) -> Log:
        from tensorboardX import SummaryWriter

        self.writer = SummaryWriter(str(self.folder / "events"))
        add = self.writer.add_scalar

        def log(values: dict[str, float], step: int) -> None:
            for name, number in values.items():
                add(name, number, step)

        return log

    def end(self) -> None:
        self.writer.close()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        events = self._load("events", 0)
        return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}

    def fill(self, run: str, metrics: Sequence[str], values: Any) -> None:
        from tensorboardX import SummaryWriter

        writer = SummaryWriter(str(self.folder / run))
        for step, row in enumerate(values.tolist()):
            for name, number in zip(metrics, row, strict=True):
                writer.add_scalar(name, number, step)
        writer.close()

    def history(self, run: str, metric: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in self._load(run, 0).Scalars(metric)]

    def view(self, run: str, metric: str) -> list[tuple[int, float]]:
        return [(each.step, each.value) for each in self._load(run, 1000).Scalars(metric)]

    def compare(self, runs: Sequence[str], metrics: Sequence[str]) -> int:
        return sum(len(self._load(run, 1000).Scalars(metric)) for run in runs for metric in metrics[:1]) * len(metrics)

    def _load(self, run: str, size: int) -> Any:
        """The file with a random sample of ``size`` points for each tag, as its server keeps 1,000; 0 for all."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder / run), size_guidance={"scalars": size})
        events.Reload()
        return events


PEER = TensorboardX
