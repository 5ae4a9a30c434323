"""Why a database can't be opened, in words that say what to do."""

from __future__ import annotations

import sqlalchemy as sa

from holter_db.errors import DatabaseError

__all__ = ["explain"]

# (a part of the driver's message, what we say, what to do); {database}, {host} and {user} are filled in.
_SQLITE = (
    ("file is not a database", "{database} is not a database", "Name another file, or move this one away."),
    ("malformed", "{database} is damaged", "Restore it from a backup; `sqlite3 FILE .recover` saves what it can."),
    ("unable to open", "{database} can't be opened", "Check that the path is right and may be written by this user."),
    ("readonly", "{database} may not be written", "Give this user the right to write the file and its folder."),
    ("locked", "{database} is locked by another process", "Stop the other process, or wait until it is done."),
    ("disk", "There is no room for {database}, or its disk does not work", "Check the disk's free space."),
)
_POSTGRESQL = (
    ("password authentication failed", "PostgreSQL refuses the password of {user!r}", "Correct it in the address."),
    ("no password supplied", "PostgreSQL wants a password for {user!r}", "Use postgresql://user:password@host/name."),
    (
        "does not exist",
        "PostgreSQL on {host} says: {cause}",
        "Create it (createdb {database}) or correct the address.",
    ),
    ("permission denied", "PostgreSQL says: {cause}", "Give the user the right to create tables in the database."),
    ("too many", "PostgreSQL on {host} has no connection left", "Raise max_connections or run fewer servers."),
    ("", "PostgreSQL on {host} can't be reached: {cause}", "Check that it runs and that host and port are right."),
)


def explain(url: sa.URL, error: Exception) -> DatabaseError:
    """The driver's error on opening ``url`` as a `DatabaseError`."""
    original = getattr(error, "orig", None) or error
    lines = str(original).strip().splitlines()
    words = {
        "cause": lines[-1].removeprefix("FATAL:  ") if lines else type(original).__name__,
        "database": url.database,
        "host": url.host or url.query.get("host") or "this machine",
        "user": url.username,
    }
    table = _SQLITE if url.get_backend_name() == "sqlite" else _POSTGRESQL
    for part, message, hint in table:
        if part in str(original):
            return DatabaseError(message.format(**words), hint.format(**words))
    return DatabaseError(f"{url.database} can't be opened: {original}", "Check the path and the file.")
