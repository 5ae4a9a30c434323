"""The checks that rule files can name, each a module with one small contract (`contract.Check`)."""

from __future__ import annotations

from holter.health.rules.contract import Check, Progress, Scan, Sign, State
from holter.health.rules.dead import Dead
from holter.health.rules.divergence import Divergence
from holter.health.rules.dominance import Dominance
from holter.health.rules.excursion import Excursion
from holter.health.rules.grad_norm import GradNorm
from holter.health.rules.limit import Limit
from holter.health.rules.memory import NearOutOfMemory
from holter.health.rules.milestone import Milestone
from holter.health.rules.non_finite import NonFinite
from holter.health.rules.overfitting import Overfitting
from holter.health.rules.parts import PartsMismatch
from holter.health.rules.plateau import Plateau
from holter.health.rules.silence import Failed, Hung, Lost
from holter.health.rules.start import ExplosionAtStart

__all__ = ["CHECKS", "Check", "Progress", "Scan", "Sign", "State"]

CHECKS: dict[str, type[Check]] = {
    "non_finite": NonFinite,
    "limit": Limit,
    "milestone": Milestone,
    "excursion": Excursion,
    "explosion_at_start": ExplosionAtStart,
    "divergence": Divergence,
    "plateau": Plateau,
    "overfitting": Overfitting,
    "grad_norm": GradNorm,
    "near_out_of_memory": NearOutOfMemory,
    "dominance": Dominance,
    "dead": Dead,
    "parts_mismatch": PartsMismatch,
    "hung": Hung,
    "lost": Lost,
    "failed": Failed,
}
