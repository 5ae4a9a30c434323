"""The points of one run as they are stored, read once for all the checks that need them.

What is wrong with a single segment or chunk is found on the way, by the small functions of `SEGMENT_CHECKS` and
`CHUNK_CHECKS`; what the points say of the run as a whole is left in `Stored` for the other checks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy import Connection, RowMapping

from holter.wire import Block
from holter_db.cell_codec import decode_cells, unpack_few
from holter_db.cells import GREATEST, LEAST, POINTS, Cells
from holter_db.check.model import Finding, Repair
from holter_db.check.repairs import Mark, statement
from holter_db.check.tally import Tally, newest_at
from holter_db.chunk_rows import Places, chunk_row
from holter_db.codec import unpack_floats, unpack_ints
from holter_db.errors import DatabaseError
from holter_db.schema import axes, chunks, folds, segments
from holter_db.segments import decode_blocks

__all__ = ["SEGMENT_CHECKS", "Stored", "read_stored"]

RESTORE = "Restore the database from a backup; what is not in one is still with the agent if it was not shipped."


@dataclass(slots=True)
class Stored:
    """What a run's segments and chunks hold."""

    run: RowMapping
    segments: int = 0
    folded: int = 0  # segments that the chunks stand for
    series: dict[tuple[int, str], Tally] = field(default_factory=lambda: defaultdict(Tally))
    newest_seq: dict[int, int] = field(default_factory=dict)  # by writer
    first_step: dict[int, int] = field(default_factory=dict)  # by writer
    whole: bool = True  # False: something can't be read, so that the figures are not complete
    findings: list[Finding] = field(default_factory=list)

    @property
    def id(self) -> str:
        return str(self.run["id"])

    @property
    def mark(self) -> Mark:
        return Mark(self.id, self.run["position"], self.run["folds"])

    def found(self, check: str, about: str, what: str, advice: str = RESTORE, repair: Repair | None = None) -> None:
        self.findings.append(Finding(check, f"{about} {what}", advice, self.id, repair, about))

    def noted(self, writer_id: int, seq: int, first_step: int | None) -> None:
        """A segment of a writer, or a chunk."""
        self.newest_seq[writer_id] = max(seq, self.newest_seq.get(writer_id, 0))
        if first_step is not None:
            self.first_step[writer_id] = min(first_step, self.first_step.get(writer_id, first_step))


def read_stored(conn: Connection, run: RowMapping) -> Stored:
    """Read every segment, fold and chunk of a run, a few at a time."""
    stored = Stored(run)
    _read_segments(conn, stored)
    _read_folds(conn, stored)
    _read_chunks(conn, stored)
    _read_thinned(conn, stored)
    return stored


# --- segments ---------------------------------------------------------------------------------------------------


def _read_segments(conn: Connection, stored: Stored) -> None:
    columns = [segments.c[name] for name in ("writer_id", "seq", "position", "points", "first_step", "last_step")]
    query = sa.select(*columns, segments.c.payload).where(segments.c.run_id == stored.id)
    query = query.order_by(segments.c.writer_id, segments.c.seq)
    for row in conn.execute(query.execution_options(yield_per=64)).mappings():
        stored.segments += 1
        stored.noted(row["writer_id"], row["seq"], row["first_step"])
        try:
            blocks = decode_blocks(row["payload"])
            for check in SEGMENT_CHECKS:
                check(stored, row, blocks)
            _tally(stored, row, blocks)
        except (DatabaseError, ValueError) as error:  # ValueError: the blocks' columns are not of one length
            stored.whole = False
            stored.found("segments", _name(row), f"can't be read: {error}")


def _tally(stored: Stored, row: RowMapping, blocks: list[Block]) -> None:
    start = 0
    for block in blocks:
        steps, times, matrix = block.step_array(), block.time_array(), block.value_matrix()
        newest = newest_at(steps)
        key = (int(steps[newest]), row["seq"], start + newest)
        for column, metric in enumerate(block.metrics):
            stored.series[row["writer_id"], metric].add(key, steps, times, matrix[:, column])
        start += block.rows


def check_header(stored: Stored, row: RowMapping, blocks: list[Block]) -> None:
    """The number of points and the range of steps beside the payload are those of the payload."""
    steps = [block.step_array() for block in blocks]
    wanted = {
        "points": sum(block.rows * len(block.metrics) for block in blocks),
        "first_step": min((int(part.min()) for part in steps), default=None),
        "last_step": max((int(part.max()) for part in steps), default=None),
    }
    wrong = {name: value for name, value in wanted.items() if row[name] != value}
    if not wrong:
        return
    this = sa.and_(*(segments.c[name] == row[name] for name in ("writer_id", "seq")), segments.c.run_id == stored.id)

    def repair(conn: Connection) -> bool:
        return conn.execute(sa.update(segments).where(this).values(wrong)).rowcount == 1

    said = ", ".join(f"{name} is {row[name]} and should be {value}" for name, value in wrong.items())
    stored.found(
        "segments", _name(row), f"is not what it says: {said}", "--repair writes what its payload says.", repair
    )


def check_position(stored: Stored, row: RowMapping, _blocks: list[Block]) -> None:
    """A segment's place in the order of commits is one that the run has given."""
    if not 1 <= row["position"] <= stored.run["position"]:
        what = f"has the position {row['position']}; the run's newest is {stored.run['position']}"
        stored.found("segments", _name(row), what)


SEGMENT_CHECKS: tuple[Callable[[Stored, RowMapping, list[Block]], None], ...] = (check_header, check_position)


def _name(row: RowMapping) -> str:
    return f"Segment {row['seq']} of writer {row['writer_id']}"


def _read_folds(conn: Connection, stored: Stored) -> None:
    """Which segments the chunks stand for: each one once, and none that is still there."""
    query = sa.select(folds).where(folds.c.run_id == stored.id).order_by(folds.c.writer_id, folds.c.first_seq)
    for row in conn.execute(query).mappings():
        writer_id, first, last = row["writer_id"], row["first_seq"], row["last_seq"]
        what = f"The fold of segments {first} to {last} of writer {writer_id}"
        try:
            seqs = np.arange(first, last + 1) if row["seqs"] is None else unpack_ints(row["seqs"])
        except (DatabaseError, ValueError) as error:
            stored.whole = False
            stored.found("folds", what, f"can't be read: {error}")
            continue
        if not len(seqs) or (int(seqs[0]), int(seqs[-1])) != (first, last) or not bool(np.all(np.diff(seqs) > 0)):
            stored.found("folds", what, "names others")
        both = segments.c.run_id == stored.id, segments.c.writer_id == writer_id, segments.c.seq.between(first, last)
        still = sorted(set(conn.scalars(sa.select(segments.c.seq).where(*both))) & set(seqs.tolist()))
        if still:
            stored.found("folds", what, f"is done, and segment {still[0]} is still there: its points count twice")
        stored.folded += len(seqs)
        stored.noted(writer_id, int(seqs[-1]) if len(seqs) else 0, None)


# --- chunks -----------------------------------------------------------------------------------------------------


def _read_chunks(conn: Connection, stored: Stored) -> None:
    """Axis by axis, and of each the chunks that lie on it one by one."""
    key = sa.select(axes.c.writer_id, axes.c.axis).where(axes.c.run_id == stored.id)
    for writer_id, axis in conn.execute(key.order_by(axes.c.writer_id, axes.c.axis)).all():
        these = axes.c.run_id == stored.id, axes.c.writer_id == writer_id, axes.c.axis == axis
        row = conn.execute(sa.select(axes).where(*these)).mappings().one()
        places = _places(stored, row)
        if places is None:
            continue
        for chunk in _chunks_on(conn, stored, writer_id, axis):
            _check_chunk(stored, chunk, places)
    there = (axes.c.run_id == chunks.c.run_id, axes.c.writer_id == chunks.c.writer_id, axes.c.axis == chunks.c.axis)
    lost = sa.select(chunks.c.writer_id, chunks.c.metric, chunks.c.axis).where(
        chunks.c.run_id == stored.id, chunks.c.raw, ~sa.exists().where(*there)
    )
    order = (chunks.c.writer_id, chunks.c.metric, chunks.c.axis)
    hidden = sa.select(*order).where(chunks.c.run_id == stored.id, ~chunks.c.raw, chunks.c["values"].is_not(None))
    for row in conn.execute(hidden.order_by(*order)).mappings().all():
        this = sa.and_(chunks.c.run_id == stored.id, *(chunks.c[name] == row[name] for name in _CHUNK_KEY))
        shown = statement(sa.update(chunks).where(this).values(raw=True))
        said = "has its points, and is said to have dropped them"
        stored.found("chunks", _chunk_name(row), said, "--repair makes them count again.", shown)
    for row in conn.execute(lost.order_by(*order)).mappings():
        stored.whole = False
        stored.found("chunks", _chunk_name(row), "has its points, but its axis is not there")


def _places(stored: Stored, row: RowMapping) -> Places | None:
    what = f"Axis {row['axis']} of writer {row['writer_id']}"
    try:
        times = unpack_ints(row["times"]).view(np.float64)
        steps, seqs, rows, positions = (unpack_ints(row[name]) for name in ("steps", "seqs", "rows", "positions"))
        places = Places(steps, seqs, rows, positions, times)
    except (DatabaseError, ValueError) as error:
        stored.whole = False
        stored.found("chunks", what, f"can't be read: {error}")
        return None
    lengths = {len(getattr(places, name)) for name in Places.__slots__}
    if lengths != {row["count"]} or not row["count"]:
        stored.whole = False
        stored.found("chunks", what, f"has columns of {sorted(lengths)} points instead of {row['count']}")
        return None
    if places.order() is not None:
        stored.found("chunks", what, "is not in the order of step, segment and row")
    bounds = int(places.positions.min()), int(places.positions.max())
    if bounds != (row["first_position"], row["last_position"]):
        stored.found("chunks", what, f"says that its positions are other ones than {bounds[0]} to {bounds[1]}")
    return places


def _chunks_on(conn: Connection, stored: Stored, writer_id: int, axis: int) -> Iterator[RowMapping]:
    these = chunks.c.run_id == stored.id, chunks.c.writer_id == writer_id, chunks.c.axis == axis
    query = sa.select(chunks).where(*these, chunks.c.raw).order_by(chunks.c.metric)
    yield from conn.execute(query.execution_options(yield_per=4)).mappings()


def _check_chunk(stored: Stored, row: RowMapping, places: Places) -> None:
    what = _chunk_name(row)
    try:
        values = unpack_floats(row["values"] or b"")
        if len(values) != len(places):
            raise DatabaseError(f"it has {len(values)} values for {len(places)} places")
        computed = chunk_row(places, values)
        fresh = {name: value for name, value in computed.items() if not _as_written(name, row[name], value)}
    except (DatabaseError, ValueError) as error:
        stored.whole = False
        stored.found("chunks", what, f"can't be read: {error}")
        return
    stored.noted(row["writer_id"], row["last_seq"], row["first_step"])
    newest = (int(places.steps[-1]), int(places.seqs[-1]), int(places.rows[-1]))
    stored.series[row["writer_id"], row["metric"]].add(newest, places.steps, places.times, values)
    if not fresh:
        return
    this = sa.and_(chunks.c.run_id == stored.id, *(chunks.c[name] == row[name] for name in _CHUNK_KEY))

    def repair(conn: Connection) -> bool:
        return conn.execute(sa.update(chunks).where(this).values(fresh)).rowcount == 1

    said = f"is not what its points say: {', '.join(fresh)}"
    stored.found("chunks", what, said, "--repair computes it from the points.", repair)


def _chunk_name(row: RowMapping) -> str:
    return f"The chunk of {row['metric']!r} on axis {row['axis']} of writer {row['writer_id']}"


_CHUNK_KEY = ("writer_id", "metric", "axis")


def _as_written(name: str, stored: Any, wanted: Any) -> bool:
    if name == "values":
        return True
    if name not in ("coarse", "cells"):
        return bool(stored == wanted)
    if not stored or not wanted:
        return not stored and not wanted
    # Not byte by byte: another version of the codec may pack the same columns in another way.
    (level, here), (other, there) = (
        (0, unpack_few([(data, 0)])) if name == "coarse" else decode_cells(data) for data in (stored, wanted)
    )
    return level == other and all(_equal(column, here, there) for column in Cells.__slots__)


def _equal(column: str, here: Cells, there: Cells) -> bool:
    one, other = getattr(here, column), getattr(there, column)
    if one.shape != other.shape:
        return False
    if column != "total":
        return bool(one.tobytes() == other.tobytes())
    # Another processor may add up in another order.
    with np.errstate(over="ignore", invalid="ignore"):
        room = 1e-12 * there.counts[POINTS] * np.maximum(np.abs(there.values[LEAST]), np.abs(there.values[GREATEST]))
        return bool(np.all((np.abs(one - other) <= room) | (one == other) | ~np.isfinite(other)))


def _read_thinned(conn: Connection, stored: Stored) -> None:
    """Chunks of which only the pyramid is kept."""
    query = sa.select(chunks).where(chunks.c.run_id == stored.id, ~chunks.c.raw)
    query = query.order_by(chunks.c.writer_id, chunks.c.metric, chunks.c.axis)
    for row in conn.execute(query.execution_options(yield_per=16)).mappings():
        what = f"The pyramid of {row['metric']!r} on axis {row['axis']} of writer {row['writer_id']}"
        try:
            _, cells = decode_cells(row["cells"] or b"")
        except (DatabaseError, ValueError) as error:
            stored.whole = False
            stored.found("chunks", what, f"can't be read, and its points are not kept: {error}")
            continue
        count = int(cells.counts[POINTS].sum())
        if count != row["count"]:
            stored.found("chunks", what, f"stands for {count} points instead of {row['count']}")
        times = None if row["first_time"] is None else np.array([row["first_time"], row["last_time"]])
        key = (row["last_step"], row["last_seq"], row["axis"])  # of chunks that end alike the later one has the last
        stored.noted(row["writer_id"], row["last_seq"], row["first_step"])
        stored.series[row["writer_id"], row["metric"]].add_cells(key, row["first_step"], times, cells)
