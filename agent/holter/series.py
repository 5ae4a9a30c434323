"""Series as `Client` returns them: numpy arrays, and tables where pandas or polars is installed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from holter.errors import HolterError

__all__ = ["Series", "SeriesList", "merge_pages"]


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """One metric of one writer in one attempt. Shapes (n,): steps int64, times float64 in seconds UTC, values float64.

    ``shadowed_from`` is the step from which a later attempt has taken over; None where none has.
    """

    metric: str
    writer: str
    rank: int
    attempt: str
    shadowed_from: int | None
    steps: NDArray[np.int64]
    times: NDArray[np.float64]
    values: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.steps)


class SeriesList(list[Series]):
    """A list of series. ``to_pandas`` and ``to_polars`` give one row for each point."""

    def to_pandas(self) -> Any:
        """Raises `HolterError` where pandas is not installed."""
        return _import("pandas").DataFrame(self._columns())

    def to_polars(self) -> Any:
        """Raises `HolterError` where polars is not installed."""
        return _import("polars").DataFrame(self._columns())

    def _columns(self) -> dict[str, Any]:
        counts = [len(series) for series in self]
        columns: dict[str, Any] = {
            name: np.repeat(np.array([getattr(series, name) for series in self], dtype=object), counts).tolist()
            for name in ("metric", "writer", "attempt")
        }
        for name, dtype in (("steps", np.int64), ("times", np.float64), ("values", np.float64)):
            parts = [getattr(series, name) for series in self]
            columns[name.removesuffix("s")] = np.concatenate(parts) if parts else np.empty(0, dtype)
        return columns


def _import(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError:
        raise HolterError(f"A table needs {name}", f"pip install {name}, or use the arrays") from None


def merge_pages(items: Iterable[dict[str, Any]]) -> SeriesList:
    """One series for each (metric, writer, attempt), though its points came on several pages."""
    parts: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for item in items:
        key = (str(item["metric"]), str(item["writer"]), str(item.get("attempt") or ""))
        parts.setdefault(key, []).append(item)
    return SeriesList(_series(key, pages) for key, pages in parts.items())


def _series(key: tuple[str, str, str], pages: list[dict[str, Any]]) -> Series:
    metric, writer, attempt = key
    return Series(
        metric=metric,
        writer=writer,
        rank=int(pages[0].get("rank") or 0),
        attempt=attempt,
        shadowed_from=pages[0].get("shadowed_from"),
        steps=np.array([step for page in pages for step in page["steps"]], dtype=np.int64),
        times=_floats(pages, "times"),
        values=_floats(pages, "values"),
    )


def _floats(pages: list[dict[str, Any]], name: str) -> NDArray[np.float64]:
    """JSON numbers, and "NaN", "Infinity", "-Infinity", which float() reads as they are."""
    return np.array([float(value) for page in pages for value in page.get(name) or ()], dtype=np.float64)
