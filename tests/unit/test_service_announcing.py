"""What a server tells the others of its commits: complete, small, and in pieces that PostgreSQL takes."""

from __future__ import annotations

from typing import Any, cast

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from holter_db.notifications import PAYLOAD_BYTES, Announcement, ChangedRun, divide
from holter_server.announcing import changed_runs
from holter_server.notices import Notice
from holter_server.writing import Transaction


def transaction(**fields: Any) -> Transaction:
    return Transaction(cast(Any, None), 0.0, **fields)


def test_transactions_of_one_commit_are_one_change_of_each_run() -> None:
    """Positions from the first to the last new segment, and each incident, command and kind of news once."""
    first, second = transaction(), transaction()
    first.touch("a", position=7, points=80)
    first.touch("a")
    first.tell(Notice("points", "a", {}))
    first.tell(Notice("incident", "a", {"action": "open", "incident": {"incident": "i1", "id": "a-i1"}}))
    first.tell(Notice("command", "a", {"command": {"attempt": 2, "id": "c1", "state": "requested"}}))
    first.tell(Notice("command", "a", {"command": {"attempt": 2, "id": "c1", "state": "delivered"}}))
    second.touch("a", position=8, points=10)
    second.tell(Notice("event", "b", {"event": {}}))
    assert changed_runs([first, second]) == [
        ChangedRun("a", first=7, last=8, points=90, incidents=(("open", "i1"),), commands=((2, "c1"),)),
        ChangedRun("b", events=True),
    ]


def test_what_changed_nothing_is_not_told() -> None:
    """A look at the outbox, or at a run that is well, is no news."""
    assert changed_runs([transaction(), transaction()]) == []


names = st.text("abcdefghij0123456789", min_size=1, max_size=64)
changes = st.builds(
    ChangedRun,
    run=names,
    first=st.integers(0, 2**63 - 1),
    last=st.integers(0, 2**63 - 1),
    points=st.integers(0, 10**9),
    events=st.booleans(),
    incidents=st.lists(st.tuples(st.sampled_from(["open", "update", "resolve"]), names), max_size=200).map(tuple),
    commands=st.lists(st.tuples(st.integers(1, 10**6), names), max_size=200).map(tuple),
)


@given(st.lists(changes, max_size=300))
def test_every_piece_fits_and_none_is_left_out(changed: list[ChangedRun]) -> None:
    """PostgreSQL refuses 8,000 bytes; a run that would not fit alone is told by name, to be read anew."""
    groups = divide(changed)
    for group in groups:
        announcement = Announcement("0123456789abcdef", 2**63 - 1, group, messages=True)
        payload = msgspec.json.encode(announcement)
        assert len(payload) <= PAYLOAD_BYTES
        assert msgspec.json.decode(payload, type=Announcement) == announcement
    told = [run for group in groups for run in group]
    assert [run.run for run in told] == [run.run for run in changed]
    for said, meant in zip(told, changed, strict=True):
        assert said == meant or (said == ChangedRun(meant.run, more=True) and len(msgspec.json.encode(meant)) > 7_000)
