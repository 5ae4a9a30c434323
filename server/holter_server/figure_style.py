"""Colours and type of the figures: two themes, one hue per quantity, severities apart from all of them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["THEMES", "Theme", "ThemeName", "colour_of", "colours", "rank_colours"]

ThemeName = Literal["light", "dark"]

# Ten hues that stay apart for readers with red-green blindness in the order in which they are usually met.
# Red is left to incidents.
_HUES = ("blue", "orange", "green", "purple", "teal", "pink", "olive", "brown", "indigo", "slate")
_LIGHT = {
    "blue": "#2f6fde", "orange": "#d9730d", "green": "#16956a", "purple": "#8a55d7", "teal": "#0b8fa0",
    "pink": "#cf4190", "olive": "#857f12", "brown": "#96613a", "indigo": "#4f4fc4", "slate": "#5b6b82",
}  # fmt: skip
_DARK = {
    "blue": "#6fa8ff", "orange": "#ffa552", "green": "#4fd1a0", "purple": "#bb9af7", "teal": "#45cbd9",
    "pink": "#f48ac2", "olive": "#d3cb52", "brown": "#d3a67e", "indigo": "#9d9dff", "slate": "#a3b3c9",
}  # fmt: skip

# Quantities that most trainings have keep one hue whatever stands beside them, so that `loss/ce` and `weighted/ce`
# are recognised as the same part.
_FIXED = {
    "total": "blue", "loss": "blue", "ce": "green", "spectrum": "orange", "precursor": "purple",
    "easy": "teal", "hard": "pink", "train": "blue", "val": "orange",
    "grad_norm": "indigo", "lr": "slate", "token_acc": "green", "step_time": "brown", "it_per_s": "teal",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of one theme; the page's style sheet holds the same ones."""

    text: str
    muted: str
    grid: str
    surface: str
    stage: tuple[str, str]  # fills of alternating curriculum stages
    severity: dict[str, str]  # line colours
    band: dict[str, str]  # fills
    hues: dict[str, str]


THEMES: dict[str, Theme] = {
    "light": Theme(
        text="#1c2430",
        muted="#667085",
        grid="#e9ecf1",
        surface="#ffffff",
        stage=("rgba(71,84,103,0.00)", "rgba(71,84,103,0.055)"),
        severity={"critical": "#d92d20", "warning": "#c77700", "info": "#667085"},
        band={"critical": "rgba(217,45,32,0.10)", "warning": "rgba(234,150,20,0.12)", "info": "rgba(0,0,0,0)"},
        hues=_LIGHT,
    ),
    "dark": Theme(
        text="#e6e9ef",
        muted="#98a2b3",
        grid="#2a313c",
        surface="#161b22",
        stage=("rgba(152,162,179,0.00)", "rgba(152,162,179,0.085)"),
        severity={"critical": "#ff6b5e", "warning": "#f5b041", "info": "#98a2b3"},
        band={"critical": "rgba(255,107,94,0.16)", "warning": "rgba(245,176,65,0.11)", "info": "rgba(0,0,0,0)"},
        hues=_DARK,
    ),
}


def _hue(key: str) -> str:
    leaf = key.rsplit("/", 1)[-1]
    return _FIXED.get(key) or _FIXED.get(leaf) or _HUES[zlib.crc32(key.encode()) % len(_HUES)]


def colour_of(key: str, theme: Theme) -> str:
    """The colour of a quantity that stands alone in its chart."""
    return theme.hues[_hue(key)]


def colours(keys: Iterable[str], theme: Theme) -> dict[str, str]:
    """One colour per key, equal for equal keys in every chart unless two keys of this chart meet in one hue.

    >>> colours(["ce", "total"], THEMES["light"])["ce"] == colour_of("ce", THEMES["light"])
    True
    """
    taken: dict[str, str] = {}
    free = list(_HUES)
    # Keys with a hue of their own choose first, whatever their place in the alphabet.
    for key in sorted(set(keys), key=lambda key: (key.rsplit("/", 1)[-1] not in _FIXED, key)):
        wanted = _hue(key)
        hue = wanted if wanted in free or not free else free[zlib.crc32(key.encode()) % len(free)]
        if hue in free:
            free.remove(hue)
        taken[key] = theme.hues[hue]
    return taken


def rank_colours(writers: Iterable[str], theme: Theme) -> dict[str, str]:
    """One colour for each of a metric's ranks, in the order of their names; after ten they come again."""
    names = sorted(set(writers), key=lambda name: (len(name), name))
    return {name: theme.hues[_HUES[index % len(_HUES)]] for index, name in enumerate(names)}
