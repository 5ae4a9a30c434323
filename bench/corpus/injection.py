"""Sicknesses that the corpus has no log of, put into its healthy ones: seeded, each with the same run without it."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

from corpus.entries import Entry
from holter.health import Role, role_of
from holter.health.roles import is_unstable_by_nature
from holter.logfiles import LogFile, Row

__all__ = ["INJECTIONS", "Injection", "Specimen", "specimens"]

ROWS = 600  # of each specimen
AT = 300  # the row from which on it is sick
Series = np.ndarray
Telemetry = dict[str, Series]
Make = Callable[[Telemetry, np.random.Generator], Telemetry]


@dataclass(frozen=True)
class Injection:
    """A kind of sickness: the telemetry of a well run, and what is changed in it. Both get the run's own series."""

    name: str
    kind: str
    well: Make
    sick: Make
    needs: str = "loss"
    writers: int = 1
    at: int = AT  # the row of a writer from which on it is sick


@dataclass(frozen=True)
class Specimen:
    """One log with a sickness, and the same without."""

    injection: Injection
    entry: Entry
    well: LogFile = field(repr=False)
    sick: LogFile = field(repr=False)


def specimens(entries: list[Entry]) -> Iterator[Specimen]:
    """Every injection into every healthy run labelled sure that has enough of the series that it needs."""
    runs = [(entry, own) for entry in entries if entry.healthy and entry.sure and (own := _series(entry)) is not None]
    for injection in INJECTIONS:
        for entry, own in runs:
            if injection.needs in own:
                yield Specimen(injection, entry, *_pair(injection, entry, own))


def _pair(injection: Injection, entry: Entry, own: Telemetry) -> tuple[LogFile, LogFile]:
    seed = zlib.crc32(f"{injection.name}/{entry.id}".encode())
    well = injection.well({name: own[name].copy() for name in own}, np.random.default_rng(seed))
    sick = injection.sick({name: values.copy() for name, values in well.items()}, np.random.default_rng(seed + 1))
    return _log(well, injection.writers), _log(sick, injection.writers)


def _series(entry: Entry) -> Telemetry | None:
    """The first 600 values of the run's loss, and of its gradient norm where it has as many."""
    names = dict.fromkeys(name for row in entry.log.rows for name in row.values)
    if is_unstable_by_nature(names):
        return None
    found: Telemetry = {}
    for name in names:
        role = {Role.LOSS: "loss", Role.GRAD_NORM: "grad_norm"}.get(role_of(name))
        values = entry.log.series(name)[1]
        if role is not None and role not in found and len(values) >= ROWS and all(map(math.isfinite, values)):
            found[role] = np.array(values[:ROWS])
    return found if "loss" in found and found["loss"].min() > 0 else None


def _log(telemetry: Telemetry, writers: int) -> LogFile:
    """Metrics of a rank are called "rank1:loss"; those without are every rank's."""
    rows = []
    for step in range(ROWS):
        for rank in range(writers):
            values = {
                name.rpartition(":")[2]: float(series[step])
                for name, series in telemetry.items()
                if ":" not in name or name.startswith(f"rank{rank}:")
            }
            rows.append(Row(step, values, 1000.0 + step, f"rank{rank}"))
    return LogFile("", "injected", rows)


# --- what is well, and what is not -------------------------------------------------------------------------------


def _noise(rng: np.random.Generator, spread: float) -> Series:
    return rng.lognormal(0, spread, ROWS)


def _from(series: Series, change: Callable[[Series], Series]) -> Series:
    """``series`` with what comes from row 300 on changed."""
    changed = series.copy()
    changed[AT:] = change(series[AT:])
    return changed


def _changed(name: str, change: Callable[[Series], Series]) -> Make:
    return lambda run, _: {**run, name: _from(run[name], change)}


def _with(**made: Callable[[np.random.Generator], Series]) -> Make:
    """The run with more metrics; "__" stands for "/"."""
    return lambda run, rng: {**run, **{name.replace("__", "/"): make(rng) for name, make in made.items()}}


def _parts(run: Telemetry, rng: np.random.Generator) -> Telemetry:
    """The loss as the total of a task and an auxiliary part."""
    aux = 0.2 * run["loss"] * _noise(rng, 0.2)
    task = run["loss"]
    return {"loss": task + aux, "loss/task": task, "loss/aux": aux}


def _weighted(run: Telemetry, rng: np.random.Generator) -> Telemetry:
    parts = _parts(run, rng)
    return {"loss": parts["loss"], "weighted/task": parts["loss/task"], "weighted/aux": parts["loss/aux"]}


def _grown(name: str, factor: float) -> Make:
    def change(run: Telemetry, _: np.random.Generator) -> Telemetry:
        part = _from(run[name], lambda rest: factor * rest)
        return {**run, name: part, "loss": run["loss"] - run[name] + part}

    return change


def _clamped(run: Telemetry, rng: np.random.Generator) -> Telemetry:
    """As the clamp of examples/denovo does it: its limit in 93 % of the records."""
    limit = float(np.quantile(run["loss/aux"], 0.6))
    aux = _from(run["loss/aux"], lambda rest: np.where(rng.random(len(rest)) < 0.93, limit, rest))
    return {**run, "loss/aux": aux, "loss": run["loss/task"] + aux}


def _vanished(run: Telemetry, rng: np.random.Generator) -> Telemetry:
    """The gradient is gone, and the loss stands where it stood, with the noise that it had."""
    noise = run["loss"][AT - 100 : AT] / np.median(run["loss"][AT - 100 : AT])
    stands = np.median(run["loss"][AT - 20 : AT]) * rng.choice(noise, ROWS - AT)
    return {
        "loss": _from(run["loss"], lambda _: stands),
        "grad_norm": _from(run["grad_norm"], lambda rest: 1e-5 * rest),
    }


def _overflowing(run: Telemetry, rng: np.random.Generator) -> Telemetry:
    falls = np.cumsum(rng.random(ROWS - AT) < 0.1)
    return {**run, "loss_scale": _from(run["loss_scale"], lambda rest: rest / 2.0**falls)}


def _one_rank(factor: float, spread: float = 0.0) -> Make:
    """On rank 2 the values are others from row 300 on."""

    def change(run: Telemetry, rng: np.random.Generator) -> Telemetry:
        return {
            name: _from(series, lambda rest: rest * factor * rng.lognormal(0, spread, len(rest)))
            if name.startswith("rank2:")
            else series
            for name, series in run.items()
        }

    return change


def _reduced(run: Telemetry, _: np.random.Generator) -> Telemetry:
    return {f"rank{rank}:loss": run["loss"] for rank in range(4)}


def _step_times(_: Telemetry, rng: np.random.Generator) -> Telemetry:
    return {f"rank{rank}:step_time": 0.4 * _noise(rng, 0.05) for rank in range(4)}


def _constant(value: float, spread: float = 0.0) -> Callable[[np.random.Generator], Series]:
    return lambda rng: value * _noise(rng, spread)


def _scales(rng: np.random.Generator) -> Series:
    """A scaler's usual life: some falls at first, then one in a few hundred steps, with a doubling after it."""
    scale = np.full(ROWS, 2.0**16)
    scale[:6] = 2.0 ** np.arange(22, 16, -1)
    scale[(at := int(rng.integers(60, 250))) : at + 120] /= 2
    return scale


GPU = "system/gpu0/"
INJECTIONS = (
    Injection("a part dominates", "dominance", _parts, _grown("loss/aux", 80)),
    Injection("a weighted part dominates", "dominance", _weighted, _grown("weighted/aux", 80)),
    Injection("a part is clamped", "dead", _parts, _clamped),
    Injection("the loss is 0", "dead", lambda run, _: {"loss": run["loss"]}, _changed("loss", lambda x: 0 * x)),
    Injection("total is not the sum", "parts_mismatch", _parts, _changed("loss", lambda x: 1.05 * x)),
    Injection("total is not the weighted sum", "parts_mismatch", _weighted, _changed("loss", lambda x: 0.99 * x)),
    Injection("the gradient vanishes", "vanishing", lambda run, _: run, _vanished, needs="grad_norm"),
    Injection(
        "memory is nearly full", "memory",
        _with(system__gpu0__memory_used_gb=_constant(60, 0.005), system__gpu0__memory_total_gb=_constant(80)),
        _changed(f"{GPU}memory_used_gb", lambda x: 1.3 * x),
    ),
    Injection(
        "memory leaks", "memory",
        _with(system__process_rss_gb=lambda rng: 12 * _noise(rng, 0.01) * (1 - 0.3 * np.exp(-np.arange(ROWS) / 40))),
        lambda run, _: {
            **run, "system/process_rss_gb": run["system/process_rss_gb"] * (1 + 0.001 * np.arange(ROWS))
        },
        at=0,
    ),
    *(
        Injection(
            f"steps take {factor:g} times as long", "throughput",
            _with(step_time=_constant(0.5, 0.08)), _changed("step_time", lambda x, factor=factor: factor * x),
        )
        for factor in (1.35, 2.0)
    ),
    Injection(
        "30 % fewer tokens a second", "throughput",
        _with(tokens_per_second=_constant(40_000, 0.05)), _changed("tokens_per_second", lambda x: 0.7 * x),
    ),
    Injection(
        "steps wait for data", "starvation",
        _with(step_time=_constant(0.5, 0.05), data_time=_constant(0.05, 0.3)),
        _changed("data_time", lambda x: 0.35 + x),
    ),
    Injection(
        "a GPU is idle", "starvation",
        _with(system__gpu0__utilization=lambda rng: np.minimum(100, 90 * _noise(rng, 0.05))),
        _changed(f"{GPU}utilization", lambda x: 0.25 * x),
    ),
    Injection(
        "a GPU is hot", "gpu", _with(system__gpu0__temperature=_constant(70, 0.02)),
        _changed(f"{GPU}temperature", lambda x: x + 22),
    ),
    Injection(
        "a GPU is throttled", "gpu", _with(system__gpu0__throttled=lambda rng: 1.0 * (rng.random(ROWS) < 0.05)),
        _changed(f"{GPU}throttled", lambda x: 1.0 * (np.arange(len(x)) % 4 > 0)),
    ),
    Injection(
        "memory errors of a GPU", "gpu", _with(system__gpu0__ecc_uncorrected=_constant(2)),
        _changed(f"{GPU}ecc_uncorrected", lambda x: x + 1),
    ),
    Injection("the loss scale collapses", "loss_scale", _with(loss_scale=_scales), _overflowing),
    Injection("the learning rate is 0", "lr", _with(lr=_constant(3e-4)), _changed("lr", lambda x: 0 * x)),
    Injection("the learning rate jumps", "lr", _with(lr=_constant(3e-4)), _changed("lr", lambda x: 30 * x)),
    Injection("ranks come apart", "rank", _reduced, _one_rank(1.02, 0.02), writers=4),
    Injection("a rank is slow", "rank", _step_times, _one_rank(1.5), writers=4),
)  # fmt: skip
