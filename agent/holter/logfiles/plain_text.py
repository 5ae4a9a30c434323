"""What trainings print: lines with a step and with names and numbers, in any of the ways that people write them."""

from __future__ import annotations

import re
from collections.abc import Iterator

from holter.health.roles import Role, role_of
from holter.logfiles.model import Row, Unreadable, parsed, rows_of

__all__ = ["read_lines"]

_VALUE = r"[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|nan|inf(?:inity)?)"
_STEP = re.compile(
    r"(?<![\w/.-])['\"]?(?P<word>global[_ ]step|steps?|iterations?|iter|it|epochs?|batch)['\"]?\s*[\[#:=(]*\s*"
    r"(?P<first>\d+)(?!\.?\d)(?:\s*/\s*\d+)?[\])]?(?:\s*\[\s*(?P<within>\d+)\s*/\s*(?P<of>\d+)\s*\])?\s*[:,|]?",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"(?P<name>[A-Za-z_](?:[\w./%@()-]| (?=[A-Za-z(]))*)['\"]?(?:\s*[:=]\s*|\s+)['\"]?"
    # "number of nan iterations: 0" counts something, and "12:45" is a time.
    rf"(?P<value>{_VALUE})(?!\d|\.\d|:\d|(?<=[nf]) +[A-Za-z])(?:ms|s|%)?",
    re.IGNORECASE,
)
_UNIT = re.compile(rf"(?P<value>{_VALUE})\s*(?P<unit>it|iter|step|sample|tok(?:en)?)s?/s(?:ec)?\b", re.IGNORECASE)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NEAR = 4  # characters between two counts that belong together
_LINE_MAX = 10_000  # characters
_UNITS = {
    "it": "it/s",
    "iter": "it/s",
    "step": "steps/s",
    "sample": "samples/s",
    "tok": "tokens/s",
    "token": "tokens/s",
}


def read_lines(text: str) -> list[Row]:
    """The rows of a text: its lines with a step and a number, or with a loss.

    Raises:
        Unreadable: no line has such numbers.
    """
    found = [record for line in re.split(r"[\n\r]", text) if (record := _record(line)) is not None]
    if not found:
        hint = "Lint looks for lines such as: Step 1000 | Loss: 2.5 | Grad norm: 0.8"
        raise Unreadable("no line of it has a step and a metric", hint)
    with_step = [record for record in found if "step" in record]
    # Lines without a step between such that have one belong to no step.
    return rows_of(with_step if 2 * len(with_step) >= len(found) else found)


def _record(line: str) -> dict[str, float] | None:
    line = _COLOUR.sub("", line[:_LINE_MAX])
    steps = _leading(list(_STEP.finditer(line)))
    step = _step(steps)
    for match in reversed(steps):
        line = f"{line[: match.start()]} | {line[match.end() :]}"
    values = dict(_pairs(line))
    if not values or (step is None and not any(role_of(name) is Role.LOSS for name in values)):
        return None
    if step is not None and all(role_of(name) is Role.OTHER for name in values):
        return None  # "step 5: 3 files saved"
    return values if step is None else {"step": float(step), **values}


def _leading(matches: list[re.Match[str]]) -> list[re.Match[str]]:
    """The first count of a line and those right behind it: "epoch 1 step 20", but not "number of nan iterations: 0"."""
    count = next((n for n in range(1, len(matches)) if matches[n].start() - matches[n - 1].end() > NEAR), len(matches))
    return matches[:count]


def _step(matches: list[re.Match[str]]) -> int | None:
    """The finest count of a line: a step rather than an epoch, and within an epoch both together."""
    words = {match["word"].lower().rstrip("s").replace(" ", "_"): match for match in reversed(matches)}
    for word in ("global_step", "step", "iteration", "iter", "it"):
        if word in words:
            return int(words[word]["first"])
    epoch, batch = words.get("epoch"), words.get("batch")
    if epoch is None:
        return None if batch is None else int(batch["first"])
    if epoch["within"] is not None:
        return (int(epoch["first"]) - 1) * int(epoch["of"]) + int(epoch["within"])
    return int(epoch["first"])


def _pairs(line: str) -> Iterator[tuple[str, float]]:
    for field in re.split(r"[|,;\t]|\s-\s|\s{2,}(?=[A-Za-z])", line):
        rate = _UNIT.search(field)
        if rate is not None and not re.search(r"[A-Za-z]", field[: rate.start()]):
            yield _UNITS[rate["unit"].lower()], float(rate["value"])
            continue
        for match in _PAIR.finditer(field):
            value = parsed(match["value"])
            if value is not None:
                yield _name(match["name"]), value


def _name(text: str) -> str:
    """A name without the words of a sentence before it: "INFO train loss" is "train loss"."""
    return re.sub(r"^(?:info|debug|warning|trainer)\s+", "", text.strip().rstrip(".-("), flags=re.IGNORECASE)
