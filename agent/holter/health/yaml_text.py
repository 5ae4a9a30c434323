"""Rule files as YAML with places: a mistake is answered with its line and with what would have been right."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import yaml

__all__ = ["Entry", "RuleError", "TextFile"]

SIZE_MAX = 262_144  # characters
DEPTH_MAX = 16


class RuleError(ValueError):
    """A rule file that can't be used. ``line`` counts from 1; ``allowed_keys`` are those of the place that is wrong."""

    def __init__(self, message: str, line: int | None = None, allowed_keys: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.allowed_keys = tuple(allowed_keys)


@dataclass(frozen=True, slots=True)
class Entry:
    """A mapping of the file with the line of each key."""

    values: dict[str, Any]
    lines: dict[str, int]
    line: int


class TextFile:
    """One YAML text that is being read; every error names it and the line."""

    def __init__(self, text: str, name: str) -> None:
        self.name = name
        if len(text) > SIZE_MAX:
            raise self.error(f"the file has {len(text):,} characters, more than {SIZE_MAX:,}", None)
        try:
            self.root = self._compose(text)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            raise self.error(error.problem or "is not YAML", mark.line + 1 if mark else None) from None
        except yaml.YAMLError as error:
            raise self.error(f"is not YAML ({error})", None) from None

    def error(self, text: str, line: int | None, allowed: Iterable[str] = ()) -> RuleError:
        allowed = tuple(allowed)
        place = self.name if line is None else f"{self.name} line {line}"
        separator = "" if text.endswith("?") else ";"
        listed = f"{separator} allowed: {', '.join(sorted(allowed))}" if allowed else ""
        return RuleError(f"{place}: {text}{listed}", line, allowed)

    def unknown_key(self, key: str, where: str, line: int, allowed: Sequence[str]) -> RuleError:
        near = get_close_matches(key, allowed, n=1)
        guess = f"; did you mean '{near[0]}'?" if near else ""
        return self.error(f"unknown key '{key}' in {where}{guess}", line, allowed)

    def entry(self, node: yaml.Node, where: str) -> Entry:
        """The mapping at ``node``, its keys checked to be text and unique; ``rules`` stays a node."""
        return self.mapping(node, where, raw=("rules",))

    def mapping(self, node: yaml.Node, where: str, raw: Iterable[str] = ()) -> Entry:
        """The mapping at ``node``, its keys checked to be text and unique; values of the keys ``raw`` stay nodes."""
        kept = tuple(raw)
        if not isinstance(node, yaml.MappingNode):
            raise self.error(f"{where} must be a mapping of keys and values", _line(node))
        values: dict[str, Any] = {}
        lines: dict[str, int] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node)
            if not isinstance(key, str):
                raise self.error(f"{key!r} in {where} is not a word; write it in quotes", _line(key_node))
            if key in values:
                raise self.error(f"'{key}' stands twice in {where}", _line(key_node))
            values[key] = value_node if key in kept else self.value(value_node)
            lines[key] = _line(key_node)
        return Entry(values, lines, _line(node))

    def items(self, node: yaml.Node, key: str = "rules") -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.error(f"'{key}' must be a list: lines that start with '- id: …'", _line(node))
        return list(node.value)

    def value(self, node: yaml.Node) -> Any:
        """The plain Python value of a node."""
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except (yaml.MarkedYAMLError, ValueError, TypeError) as error:
            raise self.error(f"can't be read ({error})", _line(node)) from None
        finally:
            loader.dispose()

    def _compose(self, text: str) -> yaml.Node | None:
        depth = 0
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            if isinstance(event, yaml.AliasEvent):  # a few aliases of aliases would unfold into gigabytes
                raise self.error("aliases (*name) are not allowed", _line(event))
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > DEPTH_MAX:  # the parser's time grows with the square of the depth
                raise self.error(f"lists and mappings lie more than {DEPTH_MAX} deep in one another", _line(event))
        node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        return node


def _line(place: yaml.Node | yaml.Event) -> int:
    return 1 if place.start_mark is None else int(place.start_mark.line) + 1
