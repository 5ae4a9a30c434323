"""Brings one spool to the service, frame by frame, so that each record is committed exactly once.

Before a frame is sent, its number and its bounds are written down; whoever continues after a lost answer or a crash
sends the same records under the same number, and the service, which keys them by (run, attempt, writer, seq), knows
them. A running training and `holter.sync` use the same courier.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from holter.frames import Batch, Batcher, Limits
from holter.notices import Notices
from holter.records import HEADER_BYTES, place, position
from holter.spool import Cursor, Reader, Sending, ShippingLock, Spool
from holter.transport import Outcome, Transport, Verdict
from holter.wire import Receipt, RunFinish, RunStart, encode_frame

__all__ = ["Courier", "Shipped"]

_receipts = msgspec.json.Decoder(Receipt)


@dataclass(slots=True)
class Shipped:
    """What one courier has brought home."""

    frames: int = 0
    points: int = 0
    events: int = 0
    rejected: int = 0
    damaged: int = 0


class Courier:
    """`step` ships one frame. Not safe for two threads at once."""

    def __init__(
        self, spool: Spool, transport: Transport, notices: Notices, on_receipt: Callable[[Receipt], None] | None = None
    ) -> None:
        self.spool = spool
        self.shipped = Shipped()
        self._transport, self._notices = transport, notices
        self._on_receipt = on_receipt
        self._lock = ShippingLock(spool.path)
        self._reader: Reader | None = None
        self._batcher = Batcher()
        self._cursor = Cursor()
        self._batch: Batch | None = None
        self._limits = Limits()
        self._registered = False
        self.behind = False  # the latest frame was full: more is waiting

    def open(self) -> bool:
        """Take the lock and read the cursor. False while somebody else is shipping this spool."""
        if self._reader is not None:
            return True
        if not self._lock.acquire():
            return False
        self._cursor = self.spool.cursor()
        reader = Reader(self.spool.path)
        segment, _ = place(self._cursor.offset)
        self._batcher = Batcher(self._cursor)
        self._batcher.skip(reader.read(position(segment, HEADER_BYTES), self._cursor.offset))
        if sending := self._cursor.sending:
            self._batch = self._batcher.batch(reader.read(sending.start, sending.end), sending.start, None)
        self._reader = reader
        return True

    def close(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        self._lock.release()

    def forget_lock(self) -> None:
        """In a forked child: the lock belongs to the parent."""
        self._lock.release()

    @property
    def ended(self) -> bool:
        """The end of the run is acknowledged: nothing can follow."""
        return self._cursor.ended

    def step(
        self, *, promise: float | None = None, read: float | None = None, to_the_end: bool = True
    ) -> Outcome | None:
        """Ship the next frame; None when nothing is left.

        ``read`` is the longest wait for an answer in seconds. With ``to_the_end`` the end of the run counts, too.
        """
        batch = self._batch or self._next_batch()
        if batch is None or (batch.ended and not to_the_end):
            return None
        if not self._registered:
            outcome = self._register(read)
            if not outcome.done:
                return outcome
        if batch.ended:
            return self._finish(batch, read)
        return self._send(batch, promise, read)

    def heartbeat(self, promise: float, *, read: float | None = None) -> Outcome | None:
        """An empty frame with the promise of the next sign of life; it registers the run if nothing else has yet."""
        if self._batch is None and not self._cursor.ended:
            at = self._cursor
            self._batch = Batch(at.offset, at.offset, values=at.values, lost=at.lost, unwritten=at.unwritten)
        return self.step(promise=promise, read=read)

    def _next_batch(self) -> Batch | None:
        if self._reader is None or self._cursor.ended:
            return None
        offset = self._cursor.offset
        batch = self._batcher.batch(self._reader.read(offset), offset, self._limits)
        if batch.end == offset:
            return None
        self._batch = batch
        self.behind = self._limits.reached(batch.points, len(batch.events))
        return batch

    def _register(self, read: float | None) -> Outcome:
        outcome = self._transport.post("/runs", self.spool.start, read=read)
        self._registered = outcome.done
        return outcome

    def _send(self, batch: Batch, promise: float | None, read: float | None) -> Outcome:
        if batch.empty and batch.end > batch.start:  # names only: nothing to send
            self._advance(batch, sent=False)
            return Outcome(Verdict.DONE)
        start = self.spool.start
        seq = self._cursor.next_seq
        self._move(msgspec.structs.replace(self._cursor, sending=Sending(seq, batch.start, batch.end)))
        body = encode_frame(batch.frame(start.attempt, start.writer.name, seq, promise))
        outcome = self._transport.frame(str(start.id), body, read=read)
        match outcome.verdict:
            case Verdict.DONE:
                self._advance(batch, sent=True)
                self._count(batch)
                self._receive(outcome.body)
            case Verdict.MISSING:
                self._registered = False  # another database, perhaps: introduce the run again
            case Verdict.TOO_LARGE if not self._limits.smallest:
                return self._split()
            case Verdict.REFUSED | Verdict.TOO_LARGE if outcome.kind != "unsupported_version":
                return self._set_aside(batch, seq, body, outcome)
        return outcome

    def _split(self) -> Outcome:
        """The same records in smaller frames: what was refused is not committed, so the bounds may move."""
        self._limits = self._limits.halved()
        self._move(msgspec.structs.replace(self._cursor, sending=None))
        self._batch = None
        self._batcher.rewind(self._cursor)
        return Outcome(Verdict.DONE)

    def _set_aside(self, batch: Batch, seq: int, body: bytes, outcome: Outcome) -> Outcome:
        folder = self.spool.set_aside(seq, body, outcome.message)
        self.shipped.rejected += 1
        self._notices.warn(
            "rejected",
            f"the service refused a frame: {outcome.message} {outcome.hint} It is kept in {folder}; "
            "recording and shipping go on.",
        )
        self._move(msgspec.structs.replace(self._cursor, rejected=self._cursor.rejected + 1))
        self._advance(batch, sent=True)
        return Outcome(Verdict.DONE)

    def _advance(self, batch: Batch, *, sent: bool) -> None:
        # The batch is let go only once the cursor is on disk: until then its number belongs to these records.
        seq = self._cursor.next_seq + sent
        counts = {"values": batch.values, "lost": batch.lost, "unwritten": batch.unwritten}
        self._move(msgspec.structs.replace(self._cursor, offset=batch.end, next_seq=seq, sending=None, **counts))
        self._batch = None
        self.shipped.damaged += batch.damaged

    def _count(self, batch: Batch) -> None:
        self.shipped.frames += 1
        self.shipped.points += batch.points
        self.shipped.events += len(batch.events)

    def _finish(self, batch: Batch, read: float | None) -> Outcome:
        outcome = Outcome(Verdict.DONE)
        if batch.finish is not None:
            outcome = self._post_finish(self.spool.start, batch.finish, read)
        if outcome.done or outcome.verdict is Verdict.REFUSED:
            self._move(msgspec.structs.replace(self._cursor, offset=batch.end, ended=True))
            self._batch = None
        elif outcome.verdict is Verdict.MISSING:
            self._registered = False
        return outcome

    def _post_finish(self, start: RunStart, finish: RunFinish, read: float | None) -> Outcome:
        return self._transport.post(f"/runs/{quote(str(start.id), safe='')}/finish", finish, read=read)

    def _move(self, cursor: Cursor) -> None:
        self.spool.move(cursor)
        self._cursor = cursor

    def _receive(self, body: bytes) -> None:
        if self._on_receipt is None:
            return
        try:
            receipt = _receipts.decode(body)
        except msgspec.DecodeError:
            return  # an answer of a newer service: the frame is committed, and its news will come again
        self._on_receipt(receipt)
