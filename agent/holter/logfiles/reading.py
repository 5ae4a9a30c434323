"""Which reader a file wants: told by its content first, and by its name where the content leaves it open."""

from __future__ import annotations

from pathlib import Path

from holter.logfiles.event_files import is_event_file, read_events
from holter.logfiles.json_text import read_json, read_json_lines
from holter.logfiles.model import LogFile, Row, Unreadable
from holter.logfiles.plain_text import read_lines
from holter.logfiles.tables import read_table

__all__ = ["read_log"]

SIZE_MAX = 1 << 30  # bytes
EVENTS = "*tfevents*"


def read_log(path: Path | str) -> LogFile:
    """Read a log: csv, jsonl, trainer_state.json, TensorBoard event files (or a folder of them), plain text.

    Raises:
        Unreadable: it can't be read, or it is no log.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path)
    data = _content(path)
    if is_event_file(data):
        return LogFile(str(path), "tensorboard", read_events(data))
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise Unreadable("it is neither text nor an event file of TensorBoard") from None
    if not text.strip():
        raise Unreadable("it is empty")
    name, rows = _read_text(path, text)
    return LogFile(str(path), name, rows)


def _read_text(path: Path, text: str) -> tuple[str, list[Row]]:
    start = text.lstrip()[:1]
    if path.suffix in (".jsonl", ".ndjson"):
        return "jsonl", read_json_lines(text)
    if path.suffix == ".json" or start == "[":
        return "json", read_json(text)
    if start == "{" and text.lstrip()[1:2] in ('"', "}"):
        return _json_or_lines(text)
    if path.suffix in (".csv", ".tsv"):
        return "csv", read_table(text)
    try:
        return "text", read_lines(text)
    except Unreadable as error:
        try:
            return "csv", read_table(text)
        except Unreadable:
            raise error from None


def _json_or_lines(text: str) -> tuple[str, list[Row]]:
    try:
        return "json", read_json(text)
    except Unreadable:
        return "jsonl", read_json_lines(text)


def _read_folder(path: Path) -> LogFile:
    files = sorted(path.glob(EVENTS))
    if not files:
        raise Unreadable("the folder has no event files of TensorBoard", "Name the log file itself")
    rows = [row for file in files for row in read_events(_content(file))]
    rows.sort(key=lambda row: row.time)
    return LogFile(str(path), "tensorboard", rows)


def _content(path: Path) -> bytes:
    try:
        if path.stat().st_size > SIZE_MAX:
            raise Unreadable(f"it has more than {SIZE_MAX >> 20:,} MB")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from None
