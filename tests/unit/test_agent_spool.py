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
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from holter.errors import SpoolError
from holter.frames import Batch, Batcher, Limits
from holter.journal import MAGIC, Answer, Dropped, End, Happened, Names, Points, Record, SpoolJournal
from holter.notices import Notices
from holter.spool import Cursor, Reader, Sending, ShippingLock, Spool, find_spools
from holter.values import snapshot
from holter.wire import CommandUpdate, Event, RunFinish, RunStart


@pytest.fixture
def journal(tmp_path: Path) -> SpoolJournal:
    return SpoolJournal(tmp_path / "journal", Notices(quiet=True), background=False)


def records(path: Path, offset: int = len(MAGIC)) -> list[Record | None]:
    reader = Reader(path)
    found = [record for record, _ in reader.read(offset)]
    reader.close()
    return found


def test_what_is_logged_is_read(journal: SpoolJournal, tmp_path: Path) -> None:
    """Every kind of record, names once."""
    event, update = Event(1.5, "hello", data={"a": [1, None]}), CommandUpdate("c", "done", 2.5)
    journal.points(("a", "b"), 1, 1.25, [0.5, -0.0])
    journal.points(("a", "b"), 2, 1.5, [1e-30, math.inf])
    journal.put(Happened(event))
    journal.put(Answer(update))
    journal.put(End(RunFinish("failed", "a1", "rank0", 3.5, "why")))
    journal.close()
    assert records(tmp_path / "journal") == [
        Names(0, ("a", "b")),
        Points(0, 1, 1.25, [0.5, -0.0]),
        Points(0, 2, 1.5, [1e-30, math.inf]),
        Happened(event),
        Answer(update),
        End(RunFinish("failed", "a1", "rank0", 3.5, "why")),
    ]


def test_a_thread_writes_it_while_the_training_does_something_else(tmp_path: Path) -> None:
    """Without a further call, the record is soon in the file (50 ms on an idle machine; this test waits longer)."""
    journal = SpoolJournal(tmp_path / "journal", Notices(quiet=True))
    journal.points(("a",), 1, 1.0, [0.5])
    deadline = time.monotonic() + 10
    while len(records(tmp_path / "journal")) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert records(tmp_path / "journal")[1] == Points(0, 1, 1.0, [0.5])
    journal.close()


def test_values_on_a_device_are_waited_for_by_the_journal(journal: SpoolJournal, tmp_path: Path) -> None:
    """And stand in their place in the order."""
    journal.points(("a",), 1, 1.0, snapshot([torch.tensor(0.25)], [0]))
    journal.points(("a",), 2, 2.0, [0.5])
    journal.close()
    assert records(tmp_path / "journal")[1:] == [Points(0, 1, 1.0, [0.25]), Points(0, 2, 2.0, [0.5])]


def test_threads_of_the_training_may_log_at_once(journal: SpoolJournal, tmp_path: Path) -> None:
    """No record is lost or torn, while others are being written."""

    def log(thread: int) -> None:
        for step in range(2_000):
            journal.points((f"m{thread}",), step, 0.0, [float(step)])

    threads = [threading.Thread(target=log, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        journal.flush()
    journal.close()
    names = {r.number: r.metrics[0] for r in records(tmp_path / "journal") if isinstance(r, Names)}
    found: dict[str, list[int]] = {name: [] for name in names.values()}
    for record in records(tmp_path / "journal"):
        if isinstance(record, Points):
            found[names[record.names]].append(record.step)
    assert found == {f"m{number}": list(range(2_000)) for number in range(4)}


@settings(deadline=None, max_examples=50)
@given(cut=st.integers(0, 200))
def test_a_record_that_was_cut_off_is_not_read(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Wherever the file ends, the records before are whole; once the rest is there, it is read."""
    path = tmp_path_factory.mktemp("spool") / "journal"
    journal = SpoolJournal(path, Notices(quiet=True), background=False)
    for step in range(5):
        journal.points(("loss", f"other{step}"), step, 1.0, [1.0, 2.0])
    journal.close()
    content, whole = path.read_bytes(), records(path)
    path.write_bytes(content[:cut])
    torn = records(path)
    assert torn == whole[: len(torn)]
    assert cut < len(content) or torn == whole


def test_a_damaged_record_is_passed_over(journal: SpoolJournal, tmp_path: Path) -> None:
    """The next ones are read; shipping counts it."""
    for step in range(3):
        journal.points(("a",), step, 1.0, [1.0])
    journal.close()
    path = tmp_path / "journal"
    reader = Reader(path)
    ends = [end for _, end in reader.read(len(MAGIC))]
    content = bytearray(path.read_bytes())
    content[ends[1] + 4] = 0xC1  # a byte that msgpack never uses
    path.write_bytes(content)
    batch = Batcher().batch(reader.read(len(MAGIC)), len(MAGIC), Limits())
    assert (batch.points, batch.damaged, batch.end) == (2, 1, len(content))
    reader.close()


def test_another_file_is_no_journal(tmp_path: Path) -> None:
    """It says what to do; a file that was just begun is an empty journal."""
    (tmp_path / "journal").write_bytes(b"HOLTER\x02\nsomething new")
    with pytest.raises(SpoolError, match="no journal of format 1"):
        Reader(tmp_path / "journal")
    (tmp_path / "journal").write_bytes(b"HOL")
    assert records(tmp_path / "journal") == []


def test_a_full_disk_is_said_once_and_loses_nothing(
    journal: SpoolJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a record may be on the disk when it fills up: the rest follows when there is room."""
    write = os.write
    room = 30

    def full(file: int, data: Any) -> int:
        nonlocal room
        if not room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data[:room])
        room -= len(part)
        return write(file, part)

    monkeypatch.setattr("holter.journal.os.write", full)
    for step in range(3):
        journal.points(("a",), step, 1.0, [1.0])
        journal.flush()
    assert capsys.readouterr().err.count("No space left") == 1
    monkeypatch.undo()
    journal.close()
    assert records(tmp_path / "journal")[1:] == [Points(0, step, 1.0, [1.0]) for step in range(3)]


def test_what_memory_cannot_hold_is_counted(
    journal: SpoolJournal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The count travels with the record."""
    monkeypatch.setattr("holter.journal.QUEUE_MAX", 2)
    for step in range(5):
        journal.points(("a", "b"), step, 1.0, [1.0, 2.0])
    journal.close()
    assert records(tmp_path / "journal")[-1] == Dropped(6)


START = RunStart(project="p", id="r1", attempt="a1")


def test_a_spool_opens_as_it_was_made(tmp_path: Path) -> None:
    """And is found below any folder."""
    spool = Spool.create(tmp_path, START)
    spool.journal.write_bytes(MAGIC)
    assert Spool.open(spool.path) == spool
    assert find_spools(tmp_path) == [spool]
    with pytest.raises(FileExistsError):
        Spool.create(tmp_path, START)
    with pytest.raises(SpoolError, match="is no recording"):
        Spool.open(tmp_path)
    with pytest.raises(SpoolError, match="There is no recording in"):
        find_spools(tmp_path / "elsewhere")


def test_the_cursor_is_kept(tmp_path: Path) -> None:
    """With the frame that is on its way."""
    spool = Spool.create(tmp_path, START)
    assert spool.cursor() == Cursor()
    cursor = Cursor(100, 7, Sending(7, 100, 200), rejected=2)
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
    path = tmp_path_factory.mktemp("spool") / "journal"
    journal = SpoolJournal(path, Notices(quiet=True), background=False)
    for number, row in enumerate(rows):
        if row == "event":
            journal.put(Happened(Event(float(number), "e")))
        else:
            journal.points(row[0], row[1], float(number), [float(number)] * len(row[0]))
    journal.put(End(None))
    journal.close()
    reader, batcher, limits = Reader(path), Batcher(), Limits(values, 2)
    offset, batches = len(MAGIC), []
    while not (batches and batches[-1].ended):
        if len(batches) == stop:
            batcher = Batcher()
            batcher.skip(reader.read(len(MAGIC), offset))
        batch = batcher.batch(reader.read(offset), offset, limits)
        again = Batcher()
        again.skip(reader.read(len(MAGIC), batch.start))
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


def test_records_of_equal_metrics_share_a_block(journal: SpoolJournal, tmp_path: Path) -> None:
    """A thousand steps cost four byte strings."""
    for step in range(1_000):
        journal.points(("a", "b"), step, 1.0, [1.0, 2.0])
    journal.close()
    reader = Reader(tmp_path / "journal")
    batch = Batcher().batch(reader.read(len(MAGIC)), len(MAGIC), Limits())
    reader.close()
    (block,) = batch.blocks
    assert (block.rows, batch.points) == (1_000, 2_000)
    assert len(msgspec.msgpack.encode(block)) < 33_000
