"""Every point of a run as a file: CSV, JSON lines, Parquet. Written as it is read, so that no size is too large.

NaN and ±Inf stay what they are: as ``NaN``, ``Infinity`` and ``-Infinity`` in CSV, as these strings in JSON, as float64
in Parquet. Decimal numbers are the shortest that read back as the same float64.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Literal

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from holter.wire import FloatArray, jsonable
from holter_db.database import Database
from holter_db.series import PointChunk, iter_points

__all__ = ["COLUMNS", "FORMATS", "Format", "export"]

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: dict[str, str] = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
}
COLUMNS = ("run", "attempt", "writer", "metric", "step", "time", "value")
ROWS_PER_PIECE = 20_000
ROWS_PER_GROUP = 100_000

_WORD = pa.dictionary(pa.int32(), pa.string())
SCHEMA = pa.schema(
    [
        ("run", _WORD),
        ("attempt", pa.int32()),
        ("writer", _WORD),
        ("metric", _WORD),
        ("step", pa.int64()),
        ("time", pa.float64()),  # seconds, UTC
        ("value", pa.float64()),
    ]
)


def export(database: Database, run_id: str, patterns: Sequence[str], format: Format) -> Iterator[bytes]:
    """The file, piece by piece, as of one moment. A run without points gives a file without rows."""
    with database.read() as conn:
        chunks = iter_points(conn, run_id, patterns)
        match format:
            case "csv":
                yield from _csv(run_id, chunks)
            case "jsonl":
                yield from _json_lines(run_id, chunks)
            case "parquet":
                yield from _parquet(run_id, chunks)


def _numbers(values: FloatArray) -> list[str]:
    return [number if isinstance(number, str) else repr(number) for number in jsonable(values)]


def _rows(chunk: PointChunk) -> Iterator[tuple[list[int], list[str], list[str]]]:
    for start in range(0, len(chunk.steps), ROWS_PER_PIECE):
        piece = slice(start, start + ROWS_PER_PIECE)
        yield chunk.steps[piece].tolist(), _numbers(chunk.times[piece]), _numbers(chunk.values[piece])


def _csv(run_id: str, chunks: Iterable[PointChunk]) -> Iterator[bytes]:
    yield (",".join(COLUMNS) + "\r\n").encode()
    for chunk in chunks:
        start = _csv_cells(run_id, chunk.attempt, chunk.writer, chunk.metric)
        for columns in _rows(chunk):
            rows = zip(*columns, strict=True)
            yield "".join(f"{start},{step},{time},{value}\r\n" for step, time, value in rows).encode()


def _csv_cells(*cells: Any) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()


def _json_lines(run_id: str, chunks: Iterable[PointChunk]) -> Iterator[bytes]:
    for chunk in chunks:
        about = {"run": run_id, "attempt": chunk.attempt, "writer": chunk.writer, "metric": chunk.metric}
        start = msgspec.json.encode(about).decode().removesuffix("}")
        for columns in _rows(chunk):
            rows = zip(*columns, strict=True)
            lines = (
                f'{start},"step":{step},"time":{_json(time)},"value":{_json(value)}}}\n' for step, time, value in rows
            )
            yield "".join(lines).encode()


def _json(number: str) -> str:
    return f'"{number}"' if number in ("NaN", "Infinity", "-Infinity") else number


def _parquet(run_id: str, chunks: Iterable[PointChunk]) -> Iterator[bytes]:
    file = _Pieces()
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        waiting: list[pa.Table] = []
        for chunk in chunks:
            waiting.append(_table(run_id, chunk))
            if sum(table.num_rows for table in waiting) >= ROWS_PER_GROUP:
                writer.write_table(pa.concat_tables(waiting).unify_dictionaries(), ROWS_PER_GROUP)
                waiting.clear()
                yield file.take()
        if waiting:
            writer.write_table(pa.concat_tables(waiting).unify_dictionaries(), ROWS_PER_GROUP)
    yield file.take()


def _table(run_id: str, chunk: PointChunk) -> pa.Table:
    rows = len(chunk.steps)

    def same(word: str) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), rows), [word])

    columns = [
        same(run_id),
        pa.repeat(pa.scalar(chunk.attempt, pa.int32()), rows),
        same(chunk.writer),
        same(chunk.metric),
        pa.array(chunk.steps),
        pa.array(chunk.times),
        pa.array(chunk.values),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA)


class _Pieces(io.RawIOBase):
    """A file that is taken away while it is written."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._length = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._length += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._length

    def take(self) -> bytes:
        """What was written since the last call."""
        pieces = b"".join(self._pieces)
        self._pieces.clear()
        return pieces
