"""What a training shows in the terminal: a line every so many steps, and a bar that redraws itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TextIO

BAR_WIDTH = 24  # characters
REDRAW_SECONDS = 0.2


class Progress:
    """Prints lines, and under them a bar where `stream` is a terminal.

    >>> Progress("tiny", 5000).line(1000, {"loss/total": 1.27, "weighted/ce": 1.27, "weighted/spectrum": 0.0,
    ...     "weighted/precursor": 0.0, "train/token_acc": 0.59, "grad_norm": 0.69})
    Step 1000 | Total: 1.27 | CE: 1.27 | Spectrum: 0.00 | Precursor: 0.00 | Token acc: 0.59 | Grad norm: 0.69
    """

    def __init__(self, name: str, steps: int, stream: TextIO | None = None) -> None:
        self._name = name
        self._steps = steps
        self._stream = stream or sys.stdout
        self._draws = self._stream.isatty()
        self._started = self._drawn = time.monotonic()

    def line(self, step: int, values: Mapping[str, float]) -> None:
        """The components as they enter the total, so that the line adds up."""
        shown = {
            "Total": values["loss/total"],
            "CE": values["weighted/ce"],
            "Spectrum": values["weighted/spectrum"],
            "Precursor": values["weighted/precursor"],
            "Token acc": values["train/token_acc"],
            "Grad norm": values["grad_norm"],
        }
        self.say(f"Step {step:<4} | " + " | ".join(f"{label}: {value:.2f}" for label, value in shown.items()))

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._clear()
        print(text, file=self._stream, flush=True)

    def advance(self, done: int) -> None:
        """`done` steps are over; redraws the bar a few times a second."""
        now = time.monotonic()
        if not self._draws or now - self._drawn < REDRAW_SECONDS:
            return
        self._drawn = now
        filled = BAR_WIDTH * done // self._steps
        rate = done / (now - self._started)
        minutes, seconds = divmod(round((self._steps - done) / rate), 60)
        bar = "━" * filled + "╌" * (BAR_WIDTH - filled)
        self._stream.write(f"\r\x1b[K{self._name} {bar} {done}/{self._steps}  {rate:.0f} it/s  {minutes}:{seconds:02}")
        self._stream.flush()

    def end(self) -> None:
        self._clear()

    def _clear(self) -> None:
        if self._draws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
