"""An incident as people read it in a terminal: what, where, and what to do about it."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from holter_server.cli.screen import severity_text, step

__all__ = ["block", "line"]


def block(incident: dict[str, Any], *, of: str = "") -> RenderableType:
    """The whole incident, as the API gives it, with its advice; ``of`` names its run where that is not clear."""
    head = Text.assemble(severity_text(incident["severity"]), "  ", (incident["message"], "bold"))
    parts: list[RenderableType] = [head, Padding(Text(_where(incident, of), style="dim"), (0, 0, 0, 2), expand=False)]
    parts += [
        Padding(Text(str(found["text"])), (0, 0, 0, 2), expand=False)
        for found in (incident.get("flight"), incident.get("stacks"))
        if found
    ]
    if incident.get("advice"):
        advice = Table.grid(padding=(0, 1, 0, 0))
        advice.add_row("→", Text(incident["advice"].strip()))
        parts.append(Padding(advice, (0, 0, 0, 2), expand=False))
    return Group(*parts)


def line(incident: dict[str, Any]) -> Text:
    """The incident in one line, for a stream of values."""
    return Text.assemble(
        severity_text(incident["severity"]),
        f" {incident['state']}: {incident['message']}",
        ("" if incident["step"] is None else f" (step {step(incident['step'])})", "dim"),
    )


def _where(incident: dict[str, Any], of: str) -> str:
    parts = [of] if of else []
    parts.append(f"rule {incident['rule']}")
    if incident.get("metric"):
        parts.append(incident["metric"])
    if incident.get("writer") and incident["writer"] != "rank0":
        parts.append(incident["writer"])
    if incident["step"] is not None:
        parts.append(f"step {step(incident['step'])}")
    parts.append(_state(incident))
    return " · ".join(parts)


def _state(incident: dict[str, Any]) -> str:
    if incident["state"] == "resolved" and incident.get("resolved_step") is not None:
        return f"resolved at step {step(incident['resolved_step'])}"
    return str(incident["state"])
