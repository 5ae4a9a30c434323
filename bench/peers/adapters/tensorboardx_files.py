"""tensorboardX: one ``add_scalar`` for each metric, read with tensorboard's own EventAccumulator. It keeps float32."""

from __future__ import annotations

from . import Agent, Log


class TensorboardX(Agent):
    precision = "float32"

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
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        events = EventAccumulator(str(self.folder / "events"), size_guidance={"scalars": 0})
        events.Reload()
        return {tag: [(each.step, each.value) for each in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


PEER = TensorboardX
