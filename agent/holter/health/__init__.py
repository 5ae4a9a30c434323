"""Says when a run is sick, and why: rules as data over a pure, incremental engine."""

from __future__ import annotations

from holter.health.engine import Engine, readable
from holter.health.model import (
    KINDS,
    SEVERITIES,
    Action,
    Batch,
    Facts,
    Kind,
    Severity,
    Transition,
    Vitals,
)
from holter.health.roles import Role, role_of
from holter.health.ruleset import Pack, Rule, RuleError, RuleSet, load_packs

__all__ = [
    "KINDS",
    "SEVERITIES",
    "Action",
    "Batch",
    "Engine",
    "Facts",
    "Kind",
    "Pack",
    "Role",
    "Rule",
    "RuleError",
    "RuleSet",
    "Severity",
    "Transition",
    "Vitals",
    "load_packs",
    "readable",
    "role_of",
]
