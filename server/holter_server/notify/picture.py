"""The picture of an incident for a chat: the metric around the step at which it fired, its threshold, the moment."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from holter_server.notify.raster import Colour, FloatArray, Raster

__all__ = ["Curve", "Plot", "draw"]

WIDTH, HEIGHT = 640, 320
LEFT, RIGHT, TOP, BOTTOM = 74, 16, 44, 34
INK: Colour = (31, 41, 55)
MUTED: Colour = (107, 114, 128)
GRID: Colour = (229, 231, 235)
LINE: Colour = (37, 99, 235)
TONES: dict[str, Colour] = {"critical": (220, 38, 38), "warning": (217, 119, 6), "info": (37, 99, 235)}
TICKS = 5


@dataclass(frozen=True, slots=True)
class Curve:
    """One series; arrays of shape (n,), in the order of its steps."""

    steps: FloatArray
    values: FloatArray


@dataclass(frozen=True, slots=True)
class Plot:
    """What is drawn: curves of one metric, and the incident on it."""

    title: str
    subtitle: str
    severity: str
    curves: Sequence[Curve]
    step: float | None = None
    threshold: float | None = None


def draw(plot: Plot) -> bytes | None:
    """The picture as PNG; None where there is nothing finite to draw."""
    finite = [curve.values[np.isfinite(curve.values)] for curve in plot.curves]
    values = np.concatenate(finite) if finite else np.array([])
    if not len(values):
        return None
    steps = np.concatenate([curve.steps for curve in plot.curves])
    page = Raster(WIDTH, HEIGHT)
    x, y = _Scale(steps, LEFT, WIDTH - RIGHT), _Scale(_levels(values, plot.threshold), HEIGHT - BOTTOM, TOP)
    _draw_axes(page, x, y)
    tone = TONES.get(plot.severity, LINE)
    if plot.step is not None:
        page.rectangle((x.at(plot.step), TOP, WIDTH - RIGHT, HEIGHT - BOTTOM), tone, 0.10)
        page.rectangle((x.at(plot.step), TOP, x.at(plot.step) + 1, HEIGHT - BOTTOM), tone, 0.8)
    if plot.threshold is not None and y.low <= plot.threshold <= y.high:
        page.rectangle((LEFT, y.at(plot.threshold), WIDTH - RIGHT, y.at(plot.threshold) + 1), tone, 0.7)
    for curve in plot.curves:
        _draw_curve(page, curve, x, y, tone)
    page.text(12, 10, plot.title[:50], INK, scale=2)
    page.text(12, 29, plot.subtitle[:100], MUTED)
    return page.png()


class _Scale:
    """Values onto pixels: the least one lies at ``first``, the greatest at ``last``."""

    def __init__(self, values: FloatArray, first: float, last: float) -> None:
        self.low, self.high = float(values.min()), float(values.max())
        if self.low == self.high:
            margin = abs(self.low) * 0.1 or 1.0
            self.low, self.high = self.low - margin, self.high + margin
        self._first, self._last = first, last

    def of(self, values: FloatArray) -> FloatArray:
        part = (values - self.low) / (self.high - self.low)
        return np.asarray(self._first + part * (self._last - self._first))

    def at(self, value: float) -> float:
        return float(self.of(np.array([value]))[0])

    def ticks(self) -> list[float]:
        """Round numbers within the scale, about `TICKS` of them."""
        raw = (self.high - self.low) / TICKS
        if not (math.isfinite(raw) and raw > 0):  # the difference of two numbers near the end of float64
            return [self.low]
        size = 10.0 ** math.floor(math.log10(raw))
        step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= raw * 0.999)
        first = math.ceil(self.low / step)
        return [index * step for index in range(first, math.floor(self.high / step) + 1)]


def _levels(values: FloatArray, threshold: float | None) -> FloatArray:
    """What the value axis spans: all but what is far away from nearly all values, and a threshold that is near them."""
    low, high = np.percentile(values, [1, 99])
    span = max(high - low, 1e-12)
    kept = values[(values >= low - 3 * span) & (values <= high + 3 * span)]
    if threshold is not None and math.isfinite(threshold) and low - 3 * span <= threshold <= high + 3 * span:
        kept = np.append(kept, threshold)
    return kept if len(kept) else values


def _draw_axes(page: Raster, x: _Scale, y: _Scale) -> None:
    for tick in y.ticks():
        page.rectangle((LEFT, y.at(tick), WIDTH - RIGHT, y.at(tick) + 1), GRID)
        label = f"{tick:.4g}"
        page.text(LEFT - 6 - page.text_width(label), y.at(tick) - 3, label, MUTED)
    for tick in x.ticks():
        page.rectangle((x.at(tick), HEIGHT - BOTTOM, x.at(tick) + 1, HEIGHT - BOTTOM + 4), MUTED)
        label = f"{tick:,.0f}" if abs(tick) < 1e9 else f"{tick:.4g}"
        page.text(x.at(tick) - page.text_width(label) / 2, HEIGHT - BOTTOM + 8, label, MUTED)
    page.rectangle((LEFT, HEIGHT - BOTTOM, WIDTH - RIGHT, HEIGHT - BOTTOM + 1), MUTED)
    page.text(WIDTH - RIGHT - page.text_width("step"), HEIGHT - 10, "step", MUTED)


def _draw_curve(page: Raster, curve: Curve, x: _Scale, y: _Scale, tone: Colour) -> None:
    """The curve; what leaves the axis runs along its edge, what is not finite is a mark there."""
    at = np.clip(y.of(np.where(np.isfinite(curve.values), curve.values, np.nan)), TOP, HEIGHT - BOTTOM)
    along = x.of(curve.steps)
    page.line(along, at, LINE)
    for place in along[~np.isfinite(curve.values)][:200]:
        page.rectangle((place - 2, TOP - 2, place + 3, TOP + 4), tone)
