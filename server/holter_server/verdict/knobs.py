"""Whether an auxiliary loss is too strong or too weak, and which knob to turn.

share = |w·L| / Σ|w·L|; gshare = ‖w·∇L‖ / ‖∇CE‖ on the last layer, where the run logs it. The slope of the raw loss is
Theil's and Sen's, the median of the slopes of all pairs of points (P. K. Sen, JASA 63, 1968), which single spikes don't
move.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from holter.wire import FloatArray
from holter_server.verdict.criteria import Knobs
from holter_server.verdict.data import Curve, Record, Sides
from holter_server.verdict.windows import WINDOW, sustained, window_medians

__all__ = ["Knob", "knobs_of", "slope"]

WINDOWS = 3
STRONG_SHARE, STRONG_GRADIENT = 0.5, 1.0
REFERENCE_RISE, REFERENCE_STEPS = 0.1, 500  # nat, steps
WEAK_GRADIENT = 0.01
SLOPE_STEPS, SLOPE_POINTS = 2_000, 500


@dataclass(frozen=True, slots=True)
class Knob:
    """One auxiliary loss of the candidate and what follows for its weight."""

    component: str
    state: str  # too strong | too weak | right | unknown
    share: float | None
    gradient_share: float | None
    arithmetic: str
    advice: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _After:
    """A run, and the steps at which its auxiliary losses were on."""

    record: Record
    last: int
    entry: int


def knobs_of(knobs: Knobs, sides: Sides) -> list[Knob]:
    """One entry for each weighted component that isn't the reference; nothing before they have entered."""
    last, entry = sides.last, sides.entry
    if last is None or entry is None:
        return []
    candidate = [_After(record, last, entry) for record in sides.candidate]
    reference = knobs.reference.rpartition("/")[2]
    names = sorted({name for run in candidate for name in run.record.curves if name.startswith("weighted/")})
    parts = [name.removeprefix("weighted/") for name in names]
    return [_knob(knobs, part, parts, candidate) for part in parts if part != reference]


def _knob(knobs: Knobs, part: str, parts: Sequence[str], candidate: Sequence[_After]) -> Knob:
    shares = [_share(run, part, parts) for run in candidate]
    gradients = [_values(run, f"gshare/{part}") for run in candidate]
    raised = [_reference_raised(run, knobs.reference) for run in candidate]
    slopes = [slope(_window(run, f"loss/{part}")) for run in candidate]
    share, gradient = (_median([each for each in found if len(each)]) for found in (shares, gradients))
    text = f"medians: share {_text(share)} (too strong above {STRONG_SHARE}), gradient share {_text(gradient)} "
    text += f"(too strong above {STRONG_GRADIENT:g}, too weak below {WEAK_GRADIENT:g})"
    strong = [
        name
        for name, hit in (
            (
                f"its share was above {STRONG_SHARE:g} in {WINDOWS} windows in a row",
                any(sustained(each > STRONG_SHARE, WINDOWS) is not None for each in shares),
            ),
            (
                f"its gradient share was above {STRONG_GRADIENT:g} in {WINDOWS} samples in a row",
                any(sustained(each > STRONG_GRADIENT, WINDOWS) is not None for each in gradients),
            ),
            (f"{knobs.reference} rose by more than {REFERENCE_RISE} when it entered", any(raised)),
        )
        if hit
    ]
    if strong:
        return Knob(part, "too strong", share, gradient, f"{text}; {', '.join(strong)}", knobs.strong)
    known = [each for each in slopes if each is not None]
    if known:
        text += "; slope per 1,000 steps " + ", ".join(f"{1e3 * a:+.3g} [{1e3 * b:+.3g}, {1e3 * c:+.3g}]"
                                                       for a, b, c in known)  # fmt: skip
    if gradient is None or len(known) < len(candidate):
        return Knob(part, "unknown", share, gradient, f"{text}; gshare/{part} is not logged, or too few steps", ())
    flat = all(low <= 0 <= high for _, low, high in known)
    if gradient < WEAK_GRADIENT and flat:
        return Knob(part, "too weak", share, gradient, f"{text}; it does not fall", knobs.weak)
    return Knob(part, "right", share, gradient, text, ())


def _values(run: _After, name: str) -> FloatArray:
    curve = run.record.curves.get(name)
    if curve is None:
        return np.empty(0)
    values = curve.until(run.last).since(run.entry).values
    return np.asarray(values[np.isfinite(values)])


def _share(run: _After, part: str, parts: Sequence[str]) -> FloatArray:
    """The part's share of Σ|w·L| in each window since the entry, (windows,)."""
    curves = [run.record.curves.get(f"weighted/{each}") for each in parts]
    if any(curve is None for curve in curves):
        return np.empty(0)
    medians = [
        window_medians(curve.once().until(run.last).since(run.entry))[1] for curve in curves if curve is not None
    ]
    count = min(map(len, medians))
    sizes = np.abs([each[:count] for each in medians])
    total = sizes.sum(axis=0)
    return np.asarray(sizes[parts.index(part)][total > 0] / total[total > 0])


def _reference_raised(run: _After, name: str) -> bool:
    curve = run.record.curves.get(name)
    if curve is None:
        return False
    before = curve.until(run.entry - 1).since(run.entry - REFERENCE_STEPS).values
    before = before[np.isfinite(before)]
    if not len(before):
        return False
    _, after = window_medians(curve.until(run.last).since(run.entry))
    return sustained(after > float(before.mean()) + REFERENCE_RISE, REFERENCE_STEPS // WINDOW) is not None


def _window(run: _After, name: str) -> Curve | None:
    curve = run.record.curves.get(name)
    return None if curve is None else curve.once().until(run.last).since(max(run.entry, run.last - SLOPE_STEPS + 1))


def slope(curve: Curve | None) -> tuple[float, float, float] | None:
    """(Theil–Sen slope per step, low, high) with its 95 % interval, from at most 500 medians of neighbours."""
    if curve is None:
        return None
    finite = np.isfinite(curve.values)
    steps, values = curve.steps[finite].astype(float), curve.values[finite]
    if len(steps) < 20:
        return None
    # Of all 2,000 steps there are two million pairs; the medians of 4 neighbours have as much to say.
    parts = np.array_split(np.arange(len(steps)), min(len(steps), SLOPE_POINTS))
    x, y = (np.array([np.median(each[part]) for part in parts]) for each in (steps, values))
    found = stats.theilslopes(y, x, 0.95)
    return float(found.slope), float(found.low_slope), float(found.high_slope)


def _median(found: Sequence[FloatArray]) -> float | None:
    return float(np.median(np.concatenate(found))) if found else None


def _text(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.3g}"
