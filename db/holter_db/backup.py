"""A copy of a database beside a service that goes on writing to it, whole and checked before it gets its name.

SQLite: the backup API, a few thousand pages at a time, from a connection that holds a read transaction. Without that
transaction every write of another process makes the copy begin anew; with it the copy is of the moment at which it
began. Measured on 200 MB beside a writer of 150 commits a second (bench/care.py): without the transaction the copy was
still beginning anew after 12 s; with it 0.5 s; in one step 0.5 s, without progress; VACUUM INTO 0.9 s, and compact.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from holter_db.database import parse_url
from holter_db.dump import dump
from holter_db.errors import DatabaseError

__all__ = ["Backup", "back_up"]

PAGES = 2048  # copied between two reports: 8 MB
BUSY_TIMEOUT_S = 15.0
SPARE = 1.05  # room on the disk, as a multiple of the database

Progress = Callable[[float], object]


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished copy. The field names are those of its JSON."""

    file: str
    size: int  # bytes
    seconds: float
    revision: str
    runs: int


def back_up(
    url: str, file: Path, *, overwrite: bool = False, compact: bool = False, on_progress: Progress = lambda _part: None
) -> Backup:
    """Copy the database at ``url`` to ``file``; of PostgreSQL it is an archive of ``pg_dump`` for ``pg_restore``.

    Nothing has the name until it is complete, checked and synced to the disk.

    Args:
        overwrite: take the place of a file that is there.
        compact: leave out the room that removed rows have left; SQLite only.
        on_progress: called with the part that is done, from 0 to 1.

    Raises:
        DatabaseError: with what is in the way and what to do about it.
    """
    parsed = parse_url(url)
    began = time.monotonic()
    with _target(file, overwrite) as partial:
        if parsed.get_backend_name() == "sqlite":
            revision, runs = _copy(Path(str(parsed.database)), partial, compact, on_progress)
        else:
            revision, runs = dump(parsed, partial, on_progress)
        size = partial.stat().st_size
    return Backup(str(file), size, time.monotonic() - began, revision, runs)


@contextmanager
def _target(file: Path, overwrite: bool) -> Iterator[Path]:
    """A file beside ``file`` to write to, which takes its name at the end of the block; after an error it is gone."""
    folder = file.absolute().parent
    if not folder.is_dir():
        raise DatabaseError(f"The folder {folder} does not exist", f"Create it (mkdir -p {folder}) or name another.")
    if file.is_dir():
        raise DatabaseError(f"{file} is a folder", f"Name a file in it: {file / 'holter.db'}")
    if file.exists() and not overwrite:
        raise DatabaseError(f"{file} exists already", "Name another file, or say --overwrite.")
    partial = folder / f".{file.name}.{os.getpid()}.part"
    try:
        try:
            os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # tokens and secrets are in it
            yield partial
            _sync(partial)
            _name(partial, file, overwrite)
            _sync(folder)
        except OSError as error:
            reason = error.strerror or str(error)
            raise DatabaseError(f"Can't write {file}: {reason}", "Check the disk's free space and rights.") from error
    finally:
        for leftover in (partial, *(Path(f"{partial}{end}") for end in ("-journal", "-wal", "-shm"))):
            leftover.unlink(missing_ok=True)


def _name(partial: Path, file: Path, overwrite: bool) -> None:
    if overwrite:
        partial.replace(file)
        return
    try:
        os.link(partial, file)  # unlike a rename, it fails where somebody has made the file meanwhile
    except FileExistsError:
        raise DatabaseError(f"{file} exists already", "Name another file, or say --overwrite.") from None
    except OSError:  # a file system without hard links
        partial.rename(file)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- SQLite -----------------------------------------------------------------------------------------------------


def _copy(source: Path, target: Path, compact: bool, on_progress: Progress) -> tuple[str, int]:
    if not source.exists():
        raise DatabaseError(
            f"There is no database at {source}", "Name the service's: --db sqlite:///PATH, or HOLTER_DB"
        )
    size = source.stat().st_size
    if (free := shutil.disk_usage(target.parent).free) < size * SPARE:
        what = f"{size / 1e6:,.0f} MB don't fit into the {free / 1e6:,.0f} MB that are free at {target.parent}"
        raise DatabaseError(what, "Make room there, or name a file on another disk.")
    with _sqlite_errors(source), contextlib.closing(_open(source)) as here:
        if compact:
            target.unlink()  # VACUUM INTO wants to make the file itself
            here.execute("VACUUM INTO ?", (str(target),))
        else:
            here.execute("BEGIN")
            here.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the moment whose copy this will be
            with contextlib.closing(sqlite3.connect(target)) as there:
                there.execute("PRAGMA synchronous = OFF")  # synced once, at the end

                def report(_status: int, remaining: int, total: int) -> None:
                    on_progress(0.9 * (1 - remaining / max(total, 1)))

                here.backup(there, pages=PAGES, progress=report)
    target.chmod(0o600)
    found = _verified(target)
    on_progress(1.0)
    return found


def _open(source: Path) -> sqlite3.Connection:
    uri = f"{source.absolute().as_uri()}?mode=rw"  # a reader of a write-ahead log has to write its index
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=BUSY_TIMEOUT_S)


def _verified(copy: Path) -> tuple[str, int]:
    """Read every page of the copy, as nothing else will until it is needed."""
    uri = f"{copy.absolute().as_uri()}?mode=ro&immutable=1"  # without it a reader would leave files beside the copy
    with _sqlite_errors(copy), contextlib.closing(sqlite3.connect(uri, uri=True)) as conn:
        (message,) = conn.execute("PRAGMA integrity_check(1)").fetchone()
        if message != "ok":
            raise DatabaseError(
                f"The copy is not sound: {message}", "So is the database itself: holter db check says what is wrong."
            )
        tables = {name for (name,) in conn.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"alembic_version", "runs"} <= tables:
            raise DatabaseError("The database holds nothing of Holter's", "Name the service's: --db, or HOLTER_DB")
        (revision,) = conn.execute("SELECT version_num FROM alembic_version").fetchone()
        (runs,) = conn.execute("SELECT count(*) FROM runs").fetchone()
    return str(revision), int(runs)


@contextmanager
def _sqlite_errors(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        hint = "holter db check says what is wrong with it; the disk may be full."
        raise DatabaseError(f"SQLite could not copy {file}: {error}", hint) from error
