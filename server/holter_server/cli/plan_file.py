"""The file of `holter plan`: what is trained, how often and how long, and when to stop."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from holter.health.yaml_text import Entry, TextFile

__all__ = ["Protocol", "Variant", "read_protocol"]

STOP_ON = ("non_finite", "explosion", "limit")
_KEYS = ("summary", "criteria", "steps", "seeds", "sanity", "baseline", "candidate", "stop_on", "folder")


@dataclass(frozen=True, slots=True)
class Variant:
    """One side: a name and the command that trains it, with {steps} and {seed} to be filled in."""

    name: str
    command: tuple[str, ...]

    def arguments(self, steps: int, seed: int) -> list[str]:
        filled = [part.replace("{steps}", str(steps)).replace("{seed}", str(seed)) for part in self.command]
        return [sys.executable if part == "python" else part for part in filled]


@dataclass(frozen=True, slots=True)
class Protocol:
    """A sanity check of ``sanity`` steps (0: none), then both variants with every seed."""

    summary: str
    criteria: str
    steps: int
    seeds: tuple[int, ...]
    sanity: int
    baseline: Variant
    candidate: Variant
    stop_on: tuple[str, ...]
    folder: Path


def read_protocol(path: Path) -> Protocol:
    """Read a plan.

    Raises:
        RuleError: with the line of the mistake.
        OSError, UnicodeDecodeError: the file can't be read.
    """
    return _Reader(TextFile(path.read_text(encoding="utf-8"), path.name), path.resolve().parent).protocol()


class _Reader:
    def __init__(self, file: TextFile, folder: Path) -> None:
        self._file, self._folder = file, folder

    def protocol(self) -> Protocol:
        if self._file.root is None:
            raise self._file.error("the file is empty", 1, _KEYS)
        top = self._file.mapping(self._file.root, "a plan")
        for key in top.values:
            if key not in _KEYS:
                raise self._file.unknown_key(key, "a plan", top.lines[key], _KEYS)
        for key in ("steps", "seeds", "baseline", "candidate"):
            if key not in top.values:
                raise self._file.error(f"'{key}' is missing", top.line, _KEYS)
        seeds = top.values["seeds"]
        if not isinstance(seeds, list) or not seeds or not all(type(each) is int for each in seeds):
            raise self._file.error("'seeds' is a list of whole numbers", top.lines["seeds"])
        stop_on = top.values.get("stop_on", list(STOP_ON))
        if not isinstance(stop_on, list) or not all(isinstance(each, str) for each in stop_on):
            raise self._file.error("'stop_on' is a list of kinds of incidents", top.lines["stop_on"])
        return Protocol(
            summary=str(top.values.get("summary") or "Plan"),
            criteria=str(top.values.get("criteria") or "default"),
            steps=self._count(top, "steps", 1),
            seeds=tuple(dict.fromkeys(seeds)),
            sanity=self._count(top, "sanity", 0) if "sanity" in top.values else 0,
            baseline=self._variant(top, "baseline"),
            candidate=self._variant(top, "candidate"),
            stop_on=tuple(stop_on),
            folder=self._folder / str(top.values.get("folder") or "."),
        )

    def _count(self, top: Entry, key: str, least: int) -> int:
        value = top.values[key]
        if type(value) is not int or value < least:
            raise self._file.error(f"'{key}' is a whole number of at least {least}", top.lines[key])
        return value

    def _variant(self, top: Entry, key: str) -> Variant:
        value: Any = top.values[key]
        if not isinstance(value, dict) or set(value) != {"name", "command"}:
            raise self._file.error(f"'{key}' needs a name and a command", top.lines[key], ("name", "command"))
        command: Sequence[Any] = value["command"] if isinstance(value["command"], list) else ()
        if not command:
            raise self._file.error(f"the command of '{key}' is a list: [python, train.py, …]", top.lines[key])
        return Variant(str(value["name"]), tuple(str(part) for part in command))
