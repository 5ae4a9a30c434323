"""A delivery's body as a short text for people: a title, the sentence with the numbers, the advice, the link."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Message", "message_of"]

Tone = Literal["info", "success", "warning", "failure"]
LISTED = 10  # incidents of one message
_TONES: dict[str, Tone] = {"critical": "failure", "warning": "warning", "info": "info"}


@dataclass(frozen=True, slots=True)
class Message:
    """What a chat channel is sent. ``tone`` is one of Apprise's types of notification."""

    title: str
    text: str
    tone: Tone = "info"


def message_of(body: Mapping[str, Any]) -> Message:
    """The message of a webhook body, version 1.

    >>> run = {"name": "gaussian", "project": "denovo", "url": "http://h/runs/r", "state": "lost"}
    >>> message_of({"type": "run.state", "data": {"run": run}})
    Message(title='denovo/gaussian is lost', text='http://h/runs/r', tone='failure')
    """
    data = body["data"]
    run = data["run"]
    name = f"{run['project']}/{run['name']}"
    match body["type"]:
        case "run.state":
            return _of_state(run, name)
        case "run.alert":
            return _of_alert(data["alert"], run, name)
        case "incident.resolved":
            incident = data["incident"]
            text = _lines(f"{incident['rule']}: {incident['resolution'] or 'it is over'}", "", _link(incident, run))
            return Message(f"Resolved: {name}", text, "success")
        case _:
            return _of_incidents(data.get("incidents") or [data["incident"]], data["incident"], run, name)


def _of_state(run: Mapping[str, Any], name: str) -> Message:
    tone: Tone = {"finished": "success", "stopped": "info"}.get(run["state"], "failure")  # type: ignore[assignment]
    return Message(f"{name} is {run['state']}", _lines(run.get("state_reason") or "", "", run["url"]), tone)


def _of_alert(alert: Mapping[str, Any], run: Mapping[str, Any], name: str) -> Message:
    text = _lines(alert["text"] or alert["title"], "", run["url"])
    return Message(f"{name}: {alert['title']}", text, _TONES[alert["severity"]])


def _of_incidents(
    incidents: list[Mapping[str, Any]], worst: Mapping[str, Any], run: Mapping[str, Any], name: str
) -> Message:
    severity = worst["severity"]
    if len(incidents) == 1:
        flaps = " (flapping)" if worst.get("flaps") else ""
        advice = f"What to do: {worst['advice']}" if worst["advice"] else ""
        text = _lines(worst["message"] + flaps, advice, _link(worst, run))
        return Message(f"{severity.capitalize()}: {name}", text, _TONES[severity])
    said = [f"• {incident['severity']}: {incident['message']}" for incident in incidents[:LISTED]]
    more = [f"… and {len(incidents) - LISTED} more"] if len(incidents) > LISTED else []
    advice = f"What to do first: {worst['advice']}" if worst["advice"] else ""
    text = _lines("\n".join([*said, *more]), advice, run["url"])
    return Message(f"{severity.capitalize()}: {name}, {len(incidents)} incidents", text, _TONES[severity])


def _link(incident: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    return str(incident.get("url") or run["url"])


def _lines(*parts: str) -> str:
    return "\n\n".join(part for part in parts if part)
