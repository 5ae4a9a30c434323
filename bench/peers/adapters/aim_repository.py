"""aim on a local repository. After a crash its manual asks for ``aim storage reindex``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from data import METRICS

from . import Agent, Log


class Aim(Agent):
    def begin(self) -> Log:
        import aim

        self.run = aim.Run(repo=str(self.folder), experiment="bench", capture_terminal_logs=False)
        self.remember(self.run.hash)
        track = self.run.track
        return lambda values, step: track(values, step=step)

    def end(self) -> None:
        self.run.close()

    def read(self) -> dict[str, list[tuple[int, float]]]:
        import aim
        from aim.storage.context import Context

        program = Path(sys.executable).parent / "aim"
        subprocess.run(
            [program, "storage", "--repo", self.folder, "reindex"],
            input=b"y\n", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300, check=False,
        )  # fmt: skip
        run = aim.Run(self.identity, repo=aim.Repo.from_path(str(self.folder)), read_only=True)
        read = {}
        for name in METRICS:
            metric = run.get_metric(name, Context({}))
            if metric is not None:
                steps, columns = metric.data.numpy()  # values, epochs, times
                read[name] = list(zip(steps.tolist(), columns[0].tolist(), strict=True))
        return read


PEER = Aim
