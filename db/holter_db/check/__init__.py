"""Whether a database holds together: the file, the tables, and what Holter promises of their rows.

Each invariant is one small function in a list, `FILE_CHECKS`, `DATABASE_CHECKS` and `RUN_CHECKS`, which only reads.
A service may go on writing: each run is looked at in a snapshot of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

import sqlalchemy as sa

from holter_db.check.model import Check, Finding, Repair
from holter_db.check.runs import RUN_CHECKS
from holter_db.check.stored import read_stored
from holter_db.check.whole import DATABASE_CHECKS, FILE_CHECKS
from holter_db.database import Database
from holter_db.errors import DatabaseError
from holter_db.schema import runs

__all__ = [
    "DATABASE_CHECKS",
    "FILE_CHECKS",
    "RUN_CHECKS",
    "Check",
    "Finding",
    "Repair",
    "check_database",
    "check_run",
    "repair",
]

SHOWN = 20  # findings of one check on one run; of more only the number is told
TRIES = 3  # of a repair while the run goes on

Progress = Callable[[int, int], object]


def check_database(database: Database, on_progress: Progress = lambda _done, _all: None) -> Iterator[Finding]:
    """Everything that is wrong, as it is found.

    Args:
        on_progress: called with the number of runs that have been looked at, and of all runs.

    Raises:
        DatabaseError: the database can't be read at all.
    """
    for check in FILE_CHECKS:
        broken = _first_look(database, check)
        yield from broken
        if broken:
            return
    with database.read() as conn:
        yield from [finding for check in DATABASE_CHECKS for finding in check.look(conn, None)]
    ids = _run_ids(database)
    for done, run_id in enumerate(ids):
        on_progress(done, len(ids))
        yield from check_run(database, run_id)
    on_progress(len(ids), len(ids))


def _first_look(database: Database, check: Check[None]) -> list[Finding]:
    broken: list[Finding] = []
    try:
        with database.read() as conn:
            broken = list(check.look(conn, None))
    except DatabaseError:  # of a damaged file not even a transaction ends well
        if not broken:
            raise
    return broken


def _run_ids(database: Database) -> list[str]:
    """Those of which all rows are there: a run that is being purged has only some."""
    with database.read() as conn:
        return list(conn.scalars(sa.select(runs.c.id).where(runs.c.purging_at.is_(None)).order_by(runs.c.id)))


def check_run(database: Database, run_id: str) -> list[Finding]:
    """What is wrong with one run; nothing if it is not there any more."""
    with database.read() as conn:
        row = conn.execute(sa.select(runs).where(runs.c.id == run_id)).mappings().one_or_none()
        if row is None or row["purging_at"] is not None:
            return []
        stored = read_stored(conn, row)
        return _shortened([finding for check in RUN_CHECKS for finding in check.look(conn, stored)])


def _shortened(found: list[Finding]) -> list[Finding]:
    """At most `SHOWN` of each check, and how many more there are."""
    counts = Counter(finding.check for finding in found)
    shown: Counter[str] = Counter()
    kept = []
    for finding in found:
        shown[finding.check] += 1
        if shown[finding.check] <= SHOWN:
            kept.append(finding)
        elif shown[finding.check] == SHOWN + 1:
            more = f"… and {counts[finding.check] - SHOWN} more of this kind"
            kept.append(replace(finding, message=more, repair=None))
    return kept


def repair(database: Database, finding: Finding) -> bool:
    """Put a finding right. False if it can't be, or if its run did not stand still for long enough.

    Raises:
        DatabaseError: the database can't be written.
    """
    for _ in range(TRIES):
        if finding.repair is None:
            return False
        with database.write() as conn:
            if finding.repair(conn):
                return True
        if finding.run is None:
            return False
        # It has moved on since it was looked at: what has to be written now is another thing.
        again = [same for same in check_run(database, finding.run) if _name(same) == _name(finding)]
        if not again:
            return True
        finding = again[0]
    return False


def _name(finding: Finding) -> tuple[str, str]:
    return finding.check, finding.about or finding.message
