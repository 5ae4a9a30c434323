"""The rules as Markdown: ``python -m holter.health.document docs/health.md`` writes them between the file's marks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import msgspec

from holter.health.rules import CHECKS, Check
from holter.health.ruleset import PACKS, Rule, RuleSet

__all__ = ["render"]


def render(text: str) -> str:
    """``text`` with the parts between its marks replaced by what the code says now.

    Raises:
        ValueError: a mark is missing.
    """
    for name, section in (("rules", _rules()), ("checks", _checks())):
        start, end = f"<!-- {name}: generated -->", f"<!-- {name}: end -->"
        before, rest = text.split(start, 1)
        _, after = rest.split(end, 1)
        text = f"{before}{start}\n\n{section}\n{end}{after}"
    return text


def _rules() -> str:
    rules = RuleSet.default().rules
    return "\n".join(_pack(name, [rule for rule in rules if rule.pack.name == name]) for name in PACKS)


def _pack(name: str, rules: list[Rule]) -> str:
    names = ("rule", "kind", "severity", "fires when", "looks at", "thresholds", "advice")
    head = f"| {' | '.join(names)} |\n|{' --- |' * len(names)}"
    rows = "\n".join(_row(rule.describe()) for rule in rules)
    return f"### Pack `{name}`\n\n{rules[0].pack.summary}\n\n{head}\n{rows}\n"


def _row(rule: dict[str, Any]) -> str:
    advice = " ".join([rule["advice"], *(f"`{glob}`: {text}" for glob, text in rule["advice_for"].items())])
    cells = [
        f"`{rule['id']}`",
        rule["kind"],
        rule["severity"],
        rule["summary"],
        _where(rule),
        _parameters(rule),
        advice,
    ]
    return "| " + " | ".join(str(cell).strip().replace("|", "\\|") for cell in cells) + " |"


def _where(rule: dict[str, Any]) -> str:
    names = ", ".join(f"`{pattern}`" for pattern in rule["metrics"])
    roles = ", ".join(rule["roles"])
    without = ", ".join(f"`{pattern}`" for pattern in rule["exclude"])
    condition = ", ".join(f"config `{key}` is `{value}`" for key, value in rule["when"].items())
    parts = [names, f"roles {roles}" if roles else "", f"not {without}" if without else "", condition]
    return "; ".join(part for part in parts if part) or "the clock"


def _parameters(rule: dict[str, Any]) -> str:
    known = {name: value for name, value in rule["parameters"].items() if value is not None}
    return ", ".join(f"{name} {_plain(value)}" for name, value in known.items())


def _plain(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return " ".join(f"`{item}`" for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _checks() -> str:
    return "\n".join(_check(name, check) for name, check in CHECKS.items())


def _check(name: str, check: type[Check]) -> str:
    text = " ".join((check.__doc__ or "").split())
    keys = ", ".join(_key(field) for field in msgspec.structs.fields(check))
    return f"### `{name}`\n\n{text}\n\nKeys: {keys or 'none'}.\n"


def _key(field: msgspec.structs.FieldInfo) -> str:
    if field.default is msgspec.NODEFAULT:
        return f"`{field.name}` (required)"
    return f"`{field.name}`" if field.default is None else f"`{field.name}` ({_plain(field.default)})"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(render(path.read_text(encoding="utf-8")), encoding="utf-8")
