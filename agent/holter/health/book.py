"""The incidents that are open, and how a sign becomes a transition of one of them."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from typing import Any

import msgspec

from holter.health.model import SEVERITIES, Action, Kind, Severity, Transition
from holter.health.rules.contract import Sign
from holter.health.ruleset import Rule

__all__ = ["Book", "Incident"]


class Incident(msgspec.Struct):
    """An open incident: all that later transitions repeat."""

    id: str
    rule: str
    kind: Kind
    severity: Severity
    metric: str
    writer: str
    value: float | None = None
    threshold: float | None = None
    baseline: float | None = None
    message: str = ""
    advice: str = ""
    evidence: dict[str, Any] = {}
    actions: tuple[str, ...] = ()
    step: int | None = None


class Waiting(msgspec.Struct):
    """What a check has seen, and what has not lasted for as long as its rule asks."""

    rule: str
    writer: str
    sign: Sign  # the newest one
    step: int  # at which it was seen first
    time: float


class Book(msgspec.Struct):
    """At most one open incident for each rule, writer and subject."""

    open: dict[str, Incident] = {}
    waiting: dict[str, Waiting] = {}
    opened: dict[str, int] = {}  # how many there have been, open or not

    def enter(self, sign: Sign, rule: Rule, writer: str, step: int | None, time: float) -> Transition | None:
        """The transition that ``sign`` makes; None where there is nothing to change."""
        key = _key(rule.id, writer, sign.subject or sign.metric)
        incident = self.open.get(key)
        if incident is None:
            if self._waits(key, sign, rule, writer, step, time):
                return None
            if sign.action != "open":
                return None
            incident = self.open[key] = self._new(key, sign, rule, writer, step)
            return _transition("open", incident, step, time)
        self._change(incident, sign, rule)
        if sign.action == "resolve":
            del self.open[key]
        return _transition("update" if sign.action == "open" else sign.action, incident, step, time)

    def _waits(  # noqa: PLR0917 - as `enter`
        self, key: str, sign: Sign, rule: Rule, writer: str, step: int | None, time: float
    ) -> bool:
        """Whether a sign is about something that has to last first; it is remembered, or forgotten, then."""
        waiting = self.waiting.get(key)
        if waiting is None:
            if sign.action == "open" and rule.text.lasts is not None and step is not None:
                self.waiting[key] = Waiting(rule.id, writer, sign, step, time)
        elif sign.action == "resolve":
            del self.waiting[key]
        else:
            waiting.sign = replace(sign, action="open")
        return waiting is not None or key in self.waiting

    def ripen(self, key: str, rule: Rule, writer: str, step: int, time: float) -> Transition:
        """What has waited under ``key`` has lasted: it opens."""
        waiting = self.waiting.pop(key)
        known = {"since_step": waiting.step, "for": rule.text.lasts}
        sign = replace(waiting.sign, evidence={**waiting.sign.evidence, **known})
        incident = self.open[key] = self._new(key, sign, rule, writer, step)
        return _transition("open", incident, step, time)

    def close_rule(self, rule_id: str, reason: str, time: float) -> list[Transition]:
        """Resolve what a rule that no longer applies has left open."""
        closed = []
        for key, incident in list(self.open.items()):
            if incident.rule == rule_id:
                del self.open[key]
                incident.message = reason
                closed.append(_transition("resolve", incident, incident.step, time))
        return closed

    def _new(self, key: str, sign: Sign, rule: Rule, writer: str, step: int | None) -> Incident:
        ordinal = self.opened[key] = self.opened.get(key, 0) + 1
        return Incident(
            id=_incident_id(key, sign.metric, str(step), str(ordinal)),
            rule=rule.id,
            kind=sign.kind or rule.kind,
            severity=sign.severity or rule.text.severity,
            metric=sign.metric,
            writer=writer,
            value=sign.value,
            threshold=sign.threshold,
            baseline=sign.baseline,
            message=sign.message,
            advice=rule.advice(sign.metric, sign.evidence),
            evidence=dict(sign.evidence),
            actions=rule.actions,
            step=step,
        )

    @staticmethod
    def _change(incident: Incident, sign: Sign, rule: Rule) -> None:
        """Take over what the sign says; an incident never gets milder, and its first threshold stays."""
        severity = sign.severity or incident.severity
        incident.severity = max(incident.severity, severity, key=SEVERITIES.index)
        incident.message = sign.message
        incident.evidence.update(sign.evidence)
        incident.advice = rule.advice(incident.metric, incident.evidence)
        if sign.action == "escalate" or (sign.action == "update" and incident.kind == "spike"):
            incident.kind = sign.kind or ("explosion" if incident.kind == "spike" else incident.kind)
        incident.value = incident.value if sign.value is None else sign.value
        incident.threshold = incident.threshold if sign.threshold is None else sign.threshold
        incident.baseline = incident.baseline if sign.baseline is None else sign.baseline


def _key(*parts: str) -> str:
    return "\x1f".join(parts)


def _incident_id(*parts: str) -> str:
    """16 characters of base32, the same for the same history."""
    text = _key(*parts)
    digest = hashlib.blake2s(text.encode("utf-8", "surrogatepass"), digest_size=10).digest()
    return base64.b32encode(digest).decode("ascii").lower()


def _transition(action: Action, incident: Incident, step: int | None, time: float) -> Transition:
    return Transition(
        action=action,
        incident=incident.id,
        rule=incident.rule,
        kind=incident.kind,
        severity=incident.severity,
        metric=incident.metric,
        writer=incident.writer,
        step=step,
        time=time,
        message=incident.message,
        value=incident.value,
        threshold=incident.threshold,
        baseline=incident.baseline,
        advice=incident.advice,
        evidence=dict(incident.evidence),
        actions=incident.actions,
    )
