"""A recording on disk: whole records or none, the same frames every time, one shipper at a time."""

from __future__ import annotations

import errno
import math
import os
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from holter.errors import SpoolError
from holter.frames import Batch, Batcher, Limits
from holter.journal import MappedJournal, segments_of
from holter.notices import Notices
from holter.records import HEADER_BYTES, START, Answer, Dropped, End, Happened, Names, Points, SegmentHeader, place
from holter.spool import Cursor, Found, Reader, Sending, ShippingLock, Spool, find_spools
from holter.values import Deferred
from holter.wire import CommandUpdate, Event, RunFinish, RunStart


@pytest.fixture
def journal(tmp_path: Path) -> MappedJournal:
    return MappedJournal(tmp_path / "journal", Notices(quiet=True))


def records(path: Path, at: int = START) -> list[Found]:
    """``path`` is the spool's folder."""
    reader = Reader(path)
    found = [record for record, _ in reader.read(at)]
    reader.close()
    return found


def points(path: Path) -> list[Points]:
    return [record for record in records(path) if isinstance(record, Points)]


def test_what_is_logged_is_read(journal: MappedJournal, tmp_path: Path) -> None:
    """Every kind of record, names once, and before the journal is closed."""
    event, update = Event(1.5, "hello", data={"a": [1, None]}), CommandUpdate("c", "done", 2.5)
    journal.points(("a", "b"), 1, 1.25, [0.5, -0.0])
    journal.points(("a", "b"), -(2**63) + 1, 1.5, [1e-30, math.inf])
    journal.put(Happened(event))
    journal.put(Answer(update))
    journal.put(End(RunFinish("failed", "a1", "rank0", 3.5, "why")))
    expected = [
        Names(0, ("a", "b")),
        Points(0, 1, 1.25, (0.5, -0.0)),
        Points(0, -(2**63) + 1, 1.5, (1e-30, math.inf)),
        Happened(event),
        Answer(update),
        End(RunFinish("failed", "a1", "rank0", 3.5, "why")),
    ]
    assert records(tmp_path) == expected
    journal.close()
    assert records(tmp_path) == expected


class Owed(Deferred):
    """A row that a device has not computed yet."""

    def __init__(self, row: list[float]) -> None:
        self.row, self.there, self.asked = row, False, 0

    def ready(self) -> bool:
        self.asked += 1
        return self.there

    def resolve(self) -> list[float]:
        return self.row


def test_values_on_a_device_keep_their_place_and_nobody_waits(journal: MappedJournal, tmp_path: Path) -> None:
    """What is logged behind them stands behind them; they are written once the device has them."""
    owed = Owed([0.25])
    journal.points(("a",), 1, 1.0, owed)
    journal.points(("a",), 2, 2.0, [0.5])
    assert points(tmp_path) == []
    owed.there = True
    deadline = time.monotonic() + 10
    while len(points(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)  # no further call of log: a thread looks after them
    assert points(tmp_path) == [Points(0, 1, 1.0, (0.25,)), Points(0, 2, 2.0, (0.5,))]
    journal.points(("a",), 3, 3.0, Owed([0.75]))
    journal.close()
    assert points(tmp_path)[2:] == [Points(0, 3, 3.0, (0.75,))]


def test_threads_of_the_training_may_log_at_once(journal: MappedJournal, tmp_path: Path) -> None:
    """No record is lost or torn, while others are being written."""

    def log(thread: int) -> None:
        for step in range(5_000):
            journal.points((f"m{thread}",), step, 0.0, [float(step)])

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        journal.flush()
    journal.close()
    found: dict[str, list[int]] = {f"m{number}": [] for number in range(4)}
    names: dict[int, str] = {}
    for record in records(tmp_path):
        if isinstance(record, Names):
            names[record.number] = record.metrics[0]
        elif isinstance(record, Points):
            found[names[record.names]].append(record.step)
    assert found == {f"m{number}": list(range(5_000)) for number in range(4)}


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(0, 700), keep=st.booleans())
def test_a_torn_record_is_never_read(tmp_path_factory: pytest.TempPathFactory, cut: int, keep: bool) -> None:
    """Wherever the file ends, or its zeros begin: the records before are whole, and the torn one is not there."""
    folder = tmp_path_factory.mktemp("spool")
    journal = MappedJournal(folder / "journal", Notices(quiet=True))
    for step in range(5):
        journal.points(("loss", f"other{step}"), step, 1.0, [1.0, 2.0])
    journal.close()
    file = folder / "journal" / "000001.seg"
    content, whole = file.read_bytes(), records(folder)
    file.write_bytes(content[:cut] + (bytes(max(0, len(content) - cut)) if keep else b""))
    torn = records(folder)
    assert torn == whole[: len(torn)]
    assert cut < len(content) or torn == whole


def test_a_damaged_record_is_passed_over(journal: MappedJournal, tmp_path: Path) -> None:
    """The next ones are read; shipping counts it."""
    for step in range(3):
        journal.points(("a",), step, 1.0, [1.0])
    journal.close()
    reader = Reader(tmp_path)
    ends = [place(end)[1] for _, end in reader.read(START)]
    file = tmp_path / "journal" / "000001.seg"
    content = bytearray(file.read_bytes())
    content[ends[1] + 20] ^= 0xFF
    file.write_bytes(content)
    batch = Batcher().batch(reader.read(START), START, Limits())
    assert (batch.points, batch.damaged, place(batch.end)) == (2, 1, (1, len(content)))
    reader.close()


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    """It says what to do; a segment that was just begun is an empty journal."""
    file = tmp_path / "journal" / "000001.seg"
    file.parent.mkdir()
    file.write_bytes(b"HOLTER\x01\nsomething old")
    with pytest.raises(SpoolError, match="no segment of format 2"):
        Reader(tmp_path)
    file.write_bytes(bytes(4096))
    assert records(tmp_path) == []


def test_segments_follow_one_another(journal: MappedJournal, tmp_path: Path) -> None:
    """A reader goes on from one to the next, while they are written and afterwards, and knows what came before each."""
    reader, at, found = Reader(tmp_path), START, []
    for step in range(60_000):
        journal.points(("a", "b"), step, 1.0, [float(step), 0.5])
        if step % 7_000 == 0:
            for record, end in reader.read(at):
                found.append(record)
                at = end
    journal.close()
    found += [record for record, _ in reader.read(at)]
    reader.close()
    assert [record.step for record in found if isinstance(record, Points)] == list(range(60_000))
    headers = [record for record in found if isinstance(record, SegmentHeader)]
    assert [header.number for header in headers] == segments_of(tmp_path / "journal")[1:]
    assert len(headers) >= 3
    assert found == records(tmp_path)
    for header in headers:
        before = found[: found.index(header)]
        assert header.values_before == 2 * sum(isinstance(record, Points) for record in before)


@settings(deadline=None, max_examples=25)
@given(shipped=st.integers(0, 40_000), limit=st.integers(1_000_000, 2_500_000))
def test_the_disk_is_bounded_and_what_is_lost_is_counted(
    tmp_path_factory: pytest.TempPathFactory, shipped: int, limit: int
) -> None:
    """The oldest segments go; of what had not been shipped by then, every value is counted, and nothing else."""
    folder = tmp_path_factory.mktemp("spool")
    journal = MappedJournal(folder / "journal", Notices(quiet=True), disk_max=limit)
    cursor, batcher, reader = Cursor(), Batcher(), Reader(folder)
    arrived: list[float] = []

    def ship(cursor: Cursor, limits: Limits | None) -> Cursor:
        batch = batcher.batch(reader.read(cursor.offset), cursor.offset, limits)
        arrived.extend(_times([batch]))
        return Cursor(batch.end, batch.values, batch.lost)

    for step in range(40_000):
        journal.points(("a", "b"), step, float(step), [float(step), 0.5])
        if step == shipped:
            cursor = ship(cursor, None)
    journal.put(End(None))
    journal.close()
    sizes = sum(path.stat().st_size for path in (folder / "journal").iterdir())
    assert sizes <= limit
    cursor = ship(cursor, None)
    reader.close()
    assert arrived == sorted(set(arrived))
    assert cursor.lost == 2 * (40_000 - len(arrived))


def test_a_full_disk_is_said_once_and_loses_nothing(
    journal: MappedJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Records wait in memory, and follow in their order when there is room."""

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("holter.journal.os.posix_fallocate", full)
    for step in range(20_000):
        journal.points(("a",), step, 1.0, [1.0])
    assert capsys.readouterr().err.count("No space left") == 1
    assert len(points(tmp_path)) < 20_000
    monkeypatch.undo()
    journal.close()
    assert [point.step for point in points(tmp_path)] == list(range(20_000))


def test_on_a_full_disk_what_is_shipped_is_given_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything has to wait in memory."""
    journal = MappedJournal(tmp_path / "journal", Notices(), shipped_to=lambda: 2 << 32 | HEADER_BYTES)
    for step in range(20_000):
        journal.points(("a",), step, 1.0, [1.0])
    numbers = segments_of(tmp_path / "journal")
    real = os.posix_fallocate

    def full_until_given_back(file: int, start: int, size: int) -> None:
        if (tmp_path / "journal" / "000001.seg").exists():
            raise OSError(errno.ENOSPC, "No space left on device")
        real(file, start, size)

    monkeypatch.setattr("holter.journal.os.posix_fallocate", full_until_given_back)
    for step in range(20_000, 80_000):
        journal.points(("a",), step, 1.0, [1.0])
    journal.close()
    assert numbers[0] == 1
    assert segments_of(tmp_path / "journal")[0] == 2
    assert points(tmp_path)[-1].step == 79_999
    assert capsys.readouterr().err == ""


def test_what_memory_cannot_hold_is_counted(
    journal: MappedJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count travels with the records."""

    def full(file: int, start: int, size: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("holter.journal.os.posix_fallocate", full)
    monkeypatch.setattr("holter.journal.QUEUE_MAX", 2)
    for step in range(20_000):
        journal.points(("a", "b"), step, 1.0, [1.0, 2.0])
    monkeypatch.undo()
    journal.close()
    (dropped,) = (record for record in records(tmp_path) if isinstance(record, Dropped))
    assert dropped.points == 2 * (20_000 - len(points(tmp_path))) > 0


def test_a_journal_goes_on_where_a_dead_writer_stopped(journal: MappedJournal, tmp_path: Path) -> None:
    """Behind its last whole record; a torn one is gone for good."""
    for step in range(10):
        journal.points(("a",), step, 1.0, [1.0])
    spool = Spool(tmp_path, STARTED)
    tail = spool.tail()
    assert tail is not None
    file = tmp_path / "journal" / "000001.seg"
    with file.open("r+b") as torn:
        torn.seek(place(tail)[1] + 8)
        torn.write(b"half a record, without its length")
    again = MappedJournal(tmp_path / "journal", Notices(), resume_at=tail)
    again.points(("b",), 10, 2.0, [2.0])
    again.put(End(None))
    again.close()
    assert [point.step for point in points(tmp_path)] == list(range(11))
    assert records(tmp_path)[-3:] == [Names(1 << 20, ("b",)), Points(1 << 20, 10, 2.0, (2.0,)), End(None)]


STARTED = RunStart(project="p", id="r1", attempt="a1")


def test_a_spool_opens_as_it_was_made(tmp_path: Path) -> None:
    """And is found below any folder."""
    spool = Spool.create(tmp_path, STARTED)
    assert Spool.open(spool.path) == spool
    assert find_spools(tmp_path) == [spool]
    with pytest.raises(FileExistsError):
        Spool.create(tmp_path, STARTED)
    with pytest.raises(SpoolError, match="is no recording"):
        Spool.open(tmp_path)
    with pytest.raises(SpoolError, match="There is no recording in"):
        find_spools(tmp_path / "elsewhere")


def test_the_cursor_is_kept(tmp_path: Path) -> None:
    """With the frame that is on its way."""
    spool = Spool.create(tmp_path, STARTED)
    assert spool.cursor() == Cursor()
    cursor = Cursor(100, 50, 3, 1, 7, Sending(7, 100, 200), rejected=2)
    spool.move(cursor)
    assert spool.cursor() == cursor
    (spool.path / "shipped.json").write_text("{")
    with pytest.raises(SpoolError, match=r"shipped\.json can't be read"):
        spool.cursor()


def test_one_shipper_at_a_time(tmp_path: Path) -> None:
    """The second one waits until the first lets go."""
    one, two = ShippingLock(tmp_path), ShippingLock(tmp_path)
    assert one.acquire()
    assert one.acquire()
    assert not two.acquire()
    one.release()
    assert two.acquire()
    two.release()


logged = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([("a",), ("a", "b"), ("c", "b")]), st.integers(-5, 5)),
        st.just("event"),
    ),
    max_size=30,
)


@settings(deadline=None, max_examples=60)
@given(rows=logged, values=st.integers(1, 8), stop=st.integers(0, 30))
def test_frames_hold_every_record_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[Any], values: int, stop: int
) -> None:
    """However they are cut, and also if somebody else continues in the middle; the same bounds make the same frame."""
    path = tmp_path_factory.mktemp("spool")
    journal = MappedJournal(path / "journal", Notices(quiet=True))
    for number, row in enumerate(rows):
        if row == "event":
            journal.put(Happened(Event(float(number), "e")))
        else:
            journal.points(row[0], row[1], float(number), [float(number)] * len(row[0]))
    journal.put(End(None))
    journal.close()
    reader, batcher, limits = Reader(path), Batcher(), Limits(values, 2)
    offset, batches = START, []
    while not (batches and batches[-1].ended):
        if len(batches) == stop:
            last = batches[-1] if batches else Batch(START, START)
            batcher = Batcher(Cursor(last.end, last.values, last.lost))
            batcher.skip(reader.read(START, offset))
        batch = batcher.batch(reader.read(offset), offset, limits)
        last = batches[-1] if batches else Batch(START, START)
        again = Batcher(Cursor(last.end, last.values, last.lost))
        again.skip(reader.read(START, batch.start))
        if not batch.ended:
            assert again.batch(reader.read(batch.start, batch.end), batch.start, None) == batch
        batches.append(batch)
        offset = batch.end
    reader.close()
    assert _times(batches) == [float(number) for number, row in enumerate(rows) if row != "event"]
    assert [event.time for batch in batches for event in batch.events] == [
        float(number) for number, row in enumerate(rows) if row == "event"
    ]
    assert sum(batch.damaged for batch in batches) == 0


def _times(batches: list[Batch]) -> list[float]:
    return [float(time) for batch in batches for block in batch.blocks for time in block.time_array()]


def test_records_of_equal_metrics_share_a_block(journal: MappedJournal, tmp_path: Path) -> None:
    """A thousand steps cost four byte strings."""
    for step in range(1_000):
        journal.points(("a", "b"), step, 1.0, [1.0, 2.0])
    journal.close()
    reader = Reader(tmp_path)
    batch = Batcher().batch(reader.read(START), START, Limits())
    reader.close()
    (block,) = batch.blocks
    assert (block.rows, batch.points) == (1_000, 2_000)
    assert len(msgspec.msgpack.encode(block)) < 33_000
