"""Holter itself. Reading back needs a service, so the benchmark's own process does that."""

from __future__ import annotations

import holter

from . import Agent, Log


class Holter(Agent):
    def begin(self) -> Log:
        self.run = holter.init(
            project="bench", dir=self.folder, mode=self.options.get("mode"), url=self.options.get("url")
        )
        self.remember(self.run.id)
        return self.run.log

    def end(self) -> None:
        self.run.finish(timeout=self.options.get("finish_s"))


PEER = Holter
