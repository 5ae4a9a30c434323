"""The checks that rule files can name, each a module with one small contract (`contract.Check`)."""

from __future__ import annotations

from holter.health.rules.contract import Check, Progress, Scan, Sign, State
from holter.health.rules.dead import Dead
from holter.health.rules.divergence import Divergence
from holter.health.rules.dominance import Dominance
from holter.health.rules.excursion import Excursion
from holter.health.rules.gpu import GpuErrors, GpuLimit
from holter.health.rules.grad_norm import GradNorm
from holter.health.rules.limit import Limit
from holter.health.rules.loss_scale import LossScale
from holter.health.rules.memory import NearOutOfMemory
from holter.health.rules.memory_creep import MemoryCreep
from holter.health.rules.milestone import Milestone
from holter.health.rules.non_finite import NonFinite
from holter.health.rules.overfitting import Overfitting
from holter.health.rules.pace import DataWait, Idle, Slowdown
from holter.health.rules.parts import PartsMismatch
from holter.health.rules.plateau import Plateau
from holter.health.rules.ranks import RanksDisagree, Straggler
from holter.health.rules.rate import LearningRate
from holter.health.rules.silence import Failed, Hung, Lost
from holter.health.rules.start import ExplosionAtStart
from holter.health.rules.vanishing import Vanishing
from holter.health.rules.zero import FadedPart, ZeroLoss

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
    "vanishing": Vanishing,
    "learning_rate": LearningRate,
    "loss_scale": LossScale,
    "dominance": Dominance,
    "dead": Dead,
    "zero_loss": ZeroLoss,
    "faded_part": FadedPart,
    "parts_mismatch": PartsMismatch,
    "near_out_of_memory": NearOutOfMemory,
    "memory_creep": MemoryCreep,
    "gpu_limit": GpuLimit,
    "gpu_errors": GpuErrors,
    "slowdown": Slowdown,
    "data_wait": DataWait,
    "gpu_idle": Idle,
    "ranks_disagree": RanksDisagree,
    "straggler": Straggler,
    "hung": Hung,
    "lost": Lost,
    "failed": Failed,
}
