"""YAML files that extend one another: read with line numbers, merged key by key."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


class ConfigError(ValueError):
    """A configuration can't be used; the message says where, why and what would be allowed."""


@dataclass(frozen=True)
class Located:
    """A YAML value and where it stands. The members of a mapping or a list are `Located` as well."""

    content: Any
    where: str  # "gaussian_test.yaml:4"

    @classmethod
    def of(cls, content: Any, where: str) -> Located:
        """Plain values that all stand in the same place."""
        if isinstance(content, Mapping):
            content = {key: cls.of(value, where) for key, value in content.items()}
        return cls(content, where)

    def plain(self) -> Any:
        """The value without its place."""
        if isinstance(self.content, dict):
            return {key: value.plain() for key, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content

    def where_is(self, path: str) -> str:
        """The place of the value that a path such as ``training.max_steps`` or ``ranges[0]`` names."""
        value = self
        for name, index in re.findall(r"(\w+)|\[(\d+)\]", path):
            if index and isinstance(value.content, list):
                value = value.content[int(index)]
            elif isinstance(value.content, dict) and name in value.content:
                value = value.content[name]
        return value.where


def read_layers(file: Path, base: Path) -> list[Located]:
    """`file` and everything it extends, `base` first; a file that extends nothing lies over `base`.

    Raises:
        ConfigError: for a missing file, one that is no YAML mapping, or a circle of `extends`.
    """
    layers: list[Located] = []
    seen: list[Path] = []
    file = file.resolve()
    while True:
        if file in seen:
            raise ConfigError(f"{file.name} extends itself: {' → '.join(step.name for step in [*seen, file])}")
        seen.append(file)
        layer = _read(file)
        parent = layer.content.pop("extends", None)
        layers.insert(0, layer)
        if file == base.resolve():
            return layers
        file = (base if parent is None else _parent(file, parent)).resolve()


def merge(below: Located, above: Located) -> Located:
    """Mappings are merged key by key; a plain value, a list and a mapping with a `kind` of its own replace."""
    both = isinstance(below.content, dict) and isinstance(above.content, dict)
    if not both or "kind" in above.content:
        return above
    content = dict(below.content)
    for key, value in above.content.items():
        content[key] = merge(content[key], value) if key in content else value
    return Located(content, above.where)


def parse_override(text: str) -> Located:
    """``section.key=value`` with a YAML value, as a layer. Raises `ConfigError` where it is not that."""
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {text}: write section.key=value, for example training.batch_size=64")
    try:
        content: Any = yaml.safe_load(value)
    except yaml.MarkedYAMLError as error:
        raise ConfigError(f"--set {text}: the value is not YAML: {error.problem}") from error
    for key in reversed(path.strip().split(".")):
        content = {key: content}
    return Located.of(content, f"--set {text}")


def _parent(file: Path, parent: Located) -> Path:
    found = file.parent / str(parent.content)
    if not found.is_file():
        raise ConfigError(f"{parent.where}: extends {parent.content!r}, but there is no file {found}")
    return found


def _read(file: Path) -> Located:
    try:
        node = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file} can't be read: {error}") from error
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{file.name}{line}: not YAML: {error.problem}") from error
    layer = Located({}, f"{file.name}:1") if node is None else _of_node(node, file.name)
    if not isinstance(layer.content, dict):
        raise ConfigError(f"{layer.where}: a configuration is a mapping of sections such as `training:`")
    return layer


def _of_node(node: yaml.Node, file: str) -> Located:
    where = f"{file}:{node.start_mark.line + 1}"
    if isinstance(node, yaml.MappingNode):
        members = {}
        for key, value in node.value:
            members[str(key.value)] = Located(_of_node(value, file).content, f"{file}:{key.start_mark.line + 1}")
        return Located(members, where)
    if isinstance(node, yaml.SequenceNode):
        return Located([_of_node(member, file) for member in node.value], where)
    return Located(yaml.SafeLoader("").construct_object(node), where)
