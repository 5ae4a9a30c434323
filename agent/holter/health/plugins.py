"""Rules of other packages: entry points of the group ``holter.rules``.

An entry point names a `Check`, which rule files can use under the entry point's name, or the text of a pack in YAML::

    [project.entry-points."holter.rules"]
    perplexity = "my_package.rules:Perplexity"
    my-pack = "my_package.rules:PACK"

Nothing that a plug-in does may take the other rules down: one that can't be loaded is left out, a check that raises
sees nothing in that batch, and both are said once in the log and in ``GET /rules``.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, cast

import msgspec

from holter.health.model import KINDS, Vitals
from holter.health.rules import CHECKS, Check, Progress, Scan, Sign

__all__ = ["GROUP", "Plugin", "known_checks", "load_plugins", "pack_texts"]

log = logging.getLogger("holter")
GROUP = "holter.rules"


@dataclass(slots=True)
class Plugin:
    """One entry point, and what became of it."""

    name: str
    source: str  # the package and its version
    kind: Literal["check", "pack", "none"] = "none"
    error: str | None = None
    found: Any = None

    def describe(self) -> dict[str, Any]:
        """Name, source, kind and error as plain values."""
        return {name: getattr(self, name) for name in ("name", "source", "kind", "error")}


@cache
def load_plugins() -> tuple[Plugin, ...]:
    """Every plug-in of this installation; those that can't be used say why."""
    return tuple(_load(entry) for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name))


@cache
def known_checks() -> Mapping[str, type[Check]]:
    """The checks that rule files can name: Holter's own and those of plug-ins."""
    return {**{plugin.name: plugin.found for plugin in load_plugins() if plugin.kind == "check"}, **CHECKS}


def pack_texts() -> dict[str, str]:
    """The packs of plug-ins as YAML."""
    return {plugin.name: plugin.found for plugin in load_plugins() if plugin.kind == "pack"}


def _load(entry: EntryPoint) -> Plugin:
    about = entry.dist
    plugin = Plugin(entry.name, f"{about.name} {about.version}" if about is not None else entry.value)
    try:
        found = entry.load()
        if isinstance(found, str):
            plugin.kind, plugin.found = "pack", found
        else:
            plugin.found, plugin.kind = _guarded(entry.name, found, plugin), "check"
    except Exception as error:  # noqa: BLE001 - importing somebody else's code may raise anything
        plugin.error = f"{type(error).__name__}: {error}"
        log.error("The rule plug-in %s of %s is not used: %s", plugin.name, plugin.source, plugin.error)
    return plugin


def _guarded(name: str, found: Any, plugin: Plugin) -> type[Check]:
    """The check in a coat that catches what it raises.

    Raises:
        TypeError, ValueError: it is no check that could be used.
    """
    if name in CHECKS:
        raise ValueError(f"the name {name!r} is one of Holter's own checks")
    if not (isinstance(found, type) and issubclass(found, Check)):
        raise TypeError("it is neither a subclass of holter.health.rules.Check nor the text of a pack")
    if getattr(found, "kind", None) not in KINDS:
        raise ValueError(f"its kind is {getattr(found, 'kind', None)!r}, not one of {', '.join(KINDS)}")

    def failed(error: Exception) -> None:
        if plugin.error is None:  # said once, not with every batch
            log.error("The rule plug-in %s of %s failed: %r", plugin.name, plugin.source, error)
        plugin.error = f"{type(error).__name__}: {error}"

    def observe(self: Any, scan: Scan, state: Any, signs: list[Sign]) -> None:
        seen: list[Sign] = []
        try:
            found.observe(self, scan, state, seen)
        except Exception as error:  # noqa: BLE001 - a rule of somebody else's, inside everybody's ingest
            failed(error)
        else:
            signs.extend(seen)

    def tick(self: Any, vitals: Vitals, progress: Progress, state: Any, signs: list[Sign]) -> None:
        seen: list[Sign] = []
        try:
            found.tick(self, vitals, progress, state, seen)
        except Exception as error:  # noqa: BLE001 - as above
            failed(error)
        else:
            signs.extend(seen)

    coat = {"observe": observe, "tick": tick, "__doc__": found.__doc__}
    options: dict[str, Any] = {"frozen": True, "kw_only": True, "forbid_unknown_fields": True}
    made = msgspec.defstruct(found.__name__, (), bases=(found,), namespace=coat, module=found.__module__, **options)
    return cast("type[Check]", made)
