"""What can be configured, and how a configuration is loaded: checked key by key before anything is trained."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from functools import reduce
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta

from denovo.curriculum import Curriculum, Stage, curriculum_scale
from denovo.layered_yaml import ConfigError, Located, merge, parse_override, read_layers
from denovo.losses import LossSettings
from denovo.model import ModelSettings

__all__ = ["Config", "ConfigError", "TrainingSettings", "find_config", "load_config"]

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
BASE = CONFIGS / "base.yaml"

AtLeastOne = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]


class TrainingSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The optimisation and the loop around it."""

    max_steps: AtLeastOne
    curriculum_scale: Positive | Literal["auto"]
    batch_size: AtLeastOne
    learning_rate: Positive
    final_learning_rate: Annotated[float, Meta(ge=0, le=1)]  # as a share of learning_rate, where the cosine ends
    warmup_steps: Annotated[int, Meta(ge=0)]
    weight_decay: Annotated[float, Meta(ge=0)]
    clip_norm: Positive | None  # None: no clipping
    validate_every: AtLeastOne  # steps
    validation_size: AtLeastOne  # spectra in each of the two sets
    print_every: AtLeastOne  # steps
    threads: AtLeastOne  # of torch
    device: str
    use_compile: bool


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything that decides a run, with every inherited value filled in."""

    name: str
    seed: Annotated[int, Meta(ge=0)]
    model: ModelSettings
    losses: LossSettings
    training: TrainingSettings
    curriculum: dict[str, Stage]  # by key, so that a file that extends another can change one value of one stage

    def stages(self) -> Curriculum:
        """The curriculum at this run's length. Raises `ConfigError` if its stages can't follow one another."""
        scale = curriculum_scale(self.training.curriculum_scale, self.training.max_steps)
        try:
            return Curriculum.of(self.curriculum.values(), scale)
        except ValueError as error:
            raise ConfigError(f"{error} (curriculum_scale {scale:g})") from error

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for the record of the run."""
        plain: dict[str, Any] = msgspec.to_builtins(self)
        return plain


def load_config(
    path: str | Path, *, defaults: Mapping[str, Any] | None = None, overrides: Iterable[str] = ()
) -> Config:
    """Read a configuration and everything it extends.

    Args:
        path: a file, or a name below `configs/` such as ``tiny`` or ``recipes/clamp``.
        defaults: values that lie over `base.yaml`, but under every other file.
        overrides: ``section.key=value``, with a YAML value; they lie over everything.

    Raises:
        ConfigError: for a missing or broken file, a circle of `extends`, an unknown key or a value of the wrong kind.
    """
    file = find_config(path)
    layers = read_layers(file, BASE)
    if defaults:
        layers.insert(1, Located.of(defaults, "default of the script"))
    layers += [parse_override(text) for text in overrides]
    merged = reduce(merge, layers, Located.of({"name": file.stem}, file.name))
    _check_keys(merged, Config)
    config = _convert(merged)
    config.stages()
    return config


def find_config(path: str | Path) -> Path:
    """The file that `path` names. Raises `ConfigError` with the names there are."""
    for candidate in (Path(path), CONFIGS / path, CONFIGS / f"{path}.yaml"):
        if candidate.is_file():
            return candidate
    names = sorted(file.relative_to(CONFIGS).with_suffix("").as_posix() for file in CONFIGS.rglob("*.yaml"))
    raise ConfigError(f"There is no configuration {path}. Give a file, or one of: {', '.join(names)}")


def _check_keys(value: Located, kind: Any, path: str = "") -> None:
    """Name the first unknown key with its line and the keys that are allowed there."""
    if not isinstance(value.content, dict):
        return
    if get_origin(kind) is dict:
        for key, member in value.content.items():
            _check_keys(member, get_args(kind)[1], f"{path}{key}.")
        return
    struct = _struct_of(kind, value.content)
    if struct is None:
        return
    hints = get_type_hints(struct)
    tag = struct.__struct_config__.tag_field
    for key, member in value.content.items():
        if key == tag:
            continue
        if key not in hints:
            raise ConfigError(_unknown_key(member.where, path, key, ([tag] if tag else []) + list(hints)))
        _check_keys(member, hints[key], f"{path}{key}.")


def _unknown_key(where: str, path: str, key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    meant = f" Did you mean {close[0]}?" if close else ""
    return f"{where}: unknown key {path}{key}.{meant} Allowed here: {', '.join(allowed)}"


def _struct_of(kind: Any, members: Mapping[str, Located]) -> type[msgspec.Struct] | None:
    """The struct that a mapping stands for; of several, the one that its `kind` names."""
    if isinstance(kind, type):
        return kind if issubclass(kind, msgspec.Struct) else None
    kinds = {str(struct.__struct_config__.tag): struct for struct in get_args(kind) if isinstance(struct, type(Config))}
    named = members.get("kind")
    if not kinds or named is None:
        return None
    if named.content not in kinds:
        raise ConfigError(f"{named.where}: there is no kind {named.content!r}. Allowed here: {', '.join(kinds)}")
    return kinds[named.content]


_PATH = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")


def _convert(merged: Located) -> Config:
    try:
        # Not strict, because YAML 1.1 reads 1e-3 as a text.
        return msgspec.convert(merged.plain(), Config, strict=False)
    except msgspec.ValidationError as error:
        found = _PATH.search(str(error))
        path = found["path"] if found else ""
        reason = _PATH.sub("", str(error))
        raise ConfigError(f"{merged.where_is(path)}: {path or 'configuration'}: {reason}") from error
